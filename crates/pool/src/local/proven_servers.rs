//! Which servers of the pool's stores this host has seen to keep what pools stand on, by what they call themselves: a server
//! that calls itself otherwise is another one, or another version, and is tried anew.
//!
//! File `servers` in the pool's folder, JSON: `{"format": 1, "pool": ID, "proven": [[URL, NAME]…]}`, the newest last. A file
//! that can't be read is none: its servers are tried once more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use windlass_base::PoolId;
use windlass_base::rt::Disk;

const FORMAT: u32 = 1;
const FILE_MAX: usize = 1 << 20;
/// Names of one store's servers that are remembered: the newest.
const NAMES_MAX: usize = 16;
/// Longest name that is remembered, in bytes: a longer one is cut.
const NAME_MAX: usize = 256;

#[derive(Serialize, Deserialize)]
struct Table {
    format: u32,
    pool: PoolId,
    proven: Vec<(String, String)>,
}

/// The servers of a pool's stores that this host has seen to keep what pools stand on.
#[derive(Debug)]
pub struct ProvenServers {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    pool: PoolId,
    /// A lock that is held while the file is read or written.
    turn: Mutex<()>,
}

fn short(name: &str) -> String {
    let cut = (0..=NAME_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name[..cut.unwrap_or_default()].to_owned()
}

impl ProvenServers {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: &Path, pool: PoolId) -> ProvenServers {
        ProvenServers { disk, path: folder.join("servers"), pool, turn: Mutex::default() }
    }

    async fn read(&self) -> Vec<(String, String)> {
        let Ok(bytes) = self.disk.read(&self.path, FILE_MAX).await else { return Vec::new() };
        match serde_json::from_slice::<Table>(&bytes) {
            Ok(table) if table.format == FORMAT && table.pool == self.pool => table.proven,
            _ => Vec::new(),
        }
    }

    /// Tells whether this server of the store was proven, so that nothing more is to be tried of it.
    pub(crate) async fn knows(&self, store: &str, name: &str) -> bool {
        let _turn = self.turn.lock().await;
        self.read().await.contains(&(store.to_owned(), short(name)))
    }

    pub(crate) async fn add(&self, store: &str, name: &str) {
        let _turn = self.turn.lock().await;
        let mut proven = self.read().await;
        let one = (store.to_owned(), short(name));
        proven.retain(|known| *known != one);
        proven.push(one);
        let too_many = proven.iter().filter(|(url, _)| url == store).count().saturating_sub(NAMES_MAX);
        for _ in 0..too_many {
            if let Some(oldest) = proven.iter().position(|(url, _)| url == store) {
                proven.remove(oldest);
            }
        }
        let text = serde_json::to_vec(&Table { format: FORMAT, pool: self.pool, proven });
        let written = async {
            if let Some(folder) = self.path.parent() {
                self.disk.create_dir(folder).await?;
            }
            self.disk.write_atomic(&self.path, text.expect("it can be JSON").into()).await
        };
        if let Err(error) = written.await {
            // It is tried once more at the next start.
            tracing::warn!(path = %self.path.display(), %error, "that a server keeps its promises could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::{Sim, SimDisk};

    #[test]
    fn a_server_is_known_by_its_store_and_name() {
        let sim = Sim::new(1);
        let disk = Arc::new(SimDisk::new(&sim));
        sim.run(async move {
            let table = || ProvenServers::new(disk.clone(), Path::new("/pool"), PoolId(1));
            assert!(!table().knows("s3://a", "S 1").await);
            table().add("s3://a", "S 1").await;
            assert!(table().knows("s3://a", "S 1").await, "also by the next process");
            assert!(!table().knows("s3://a", "S 2").await && !table().knows("s3://b", "S 1").await);
            let other = ProvenServers::new(disk.clone(), Path::new("/pool"), PoolId(2));
            assert!(!other.knows("s3://a", "S 1").await, "the folder was another pool's");
            let long = "ä".repeat(NAME_MAX);
            table().add("s3://a", &long).await;
            assert!(table().knows("s3://a", &long).await);
            table().add("s3://b", "S 1").await;
            for n in 2..=NAMES_MAX {
                table().add("s3://a", &format!("S {n}")).await;
            }
            assert!(!table().knows("s3://a", "one more upgrade").await);
            assert!(!table().knows("s3://a", "S 1").await, "the oldest is forgotten");
            assert!(table().knows("s3://a", "S 2").await && table().knows("s3://b", "S 1").await);
        })
        .unwrap();
    }
}
