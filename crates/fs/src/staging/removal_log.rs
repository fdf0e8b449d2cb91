//! Removals that were answered and that the bucket doesn't know of yet: `ID.removals` in the staging folder, a line of JSON
//! each time that one is noted or has ended. They survive the daemon's death as closed files do, and the next mount goes on
//! with them: it deletes an object if that is still the one that was removed.
//!
//! The file goes when all have ended, and with the next one another is begun. Multipart uploads by which the store copies a very
//! large object stand in it too, and those for a name that their file has left: the next mount gives up what has not ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::unsynced_removals::StagingDir;
use crate::bucket::{Doomed, UploadNotes};
use crate::object::Sighting;
use windlass_base::rt::{DiskFile, OpenHow};
use windlass_base::{Result, ResultExt as _};
use windlass_store::Etag;

/// Length of the longest log that is read, in bytes. Reading a longer one fails, and so does the mount that
/// finds it.
const LEN_MAX: usize = 1 << 30;

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    /// Etag of the removed object; `None`: its removal has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<Etag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<u64>,
    /// Id of the multipart upload that the line is about; then `etag` says nothing but that it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<String>,
}

/// Returns the id that a line has in common with the line that ends it.
fn id(key: &str, upload: Option<&str>) -> String {
    upload.map_or_else(|| key.to_owned(), |upload| format!("{key}\0{upload}"))
}

fn text(lines: impl Iterator<Item = Line>) -> Bytes {
    let mut out = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut out, &line).expect("a line has only strings and numbers");
        out.push(b'\n');
    }
    out.into()
}

#[derive(Debug)]
struct Log {
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Ids that were noted and have not ended, with the number of times.
    open: BTreeMap<String, u64>,
}

/// Log of removals that were answered and that the bucket doesn't know of yet.
#[derive(Debug)]
pub struct RemovalLog {
    folder: StagingDir,
    path: PathBuf,
    log: tokio::sync::Mutex<Option<Log>>,
}

impl RemovalLog {
    pub fn at(folder: &StagingDir, path: PathBuf) -> RemovalLog {
        RemovalLog { folder: folder.clone(), path, log: Default::default() }
    }

    /// Writes these removals down, and returns when they are.
    pub async fn note(&self, removals: &[Doomed]) -> Result<()> {
        let line = |doomed: &Doomed| Line {
            key: doomed.key.clone(),
            etag: Some(doomed.object.etag.clone()),
            modified_ms: doomed.object.modified_ms,
            written: doomed.object.upload,
            upload: None,
        };
        self.begin(removals.iter().map(line).collect()).await
    }

    async fn begin(&self, lines: Vec<Line>) -> Result<()> {
        let mut log = self.log.lock().await;
        let doing = || format!("writing to {}", self.path.display());
        if log.is_none() {
            let file = self.folder.disk().open(&self.path, OpenHow::Create).await.context(doing)?;
            file.set_len(0).await.context(doing)?;
            *log = Some(Log { file, len: 0, open: BTreeMap::new() });
        }
        let log = log.as_mut().expect("made above");
        for line in &lines {
            *log.open.entry(id(&line.key, line.upload.as_deref())).or_default() += 1;
        }
        let bytes = text(lines.into_iter());
        let len = bytes.len() as u64;
        log.file.pwrite(log.len, vec![bytes], false).await.context(doing)?;
        log.len += len;
        Ok(())
    }

    /// Writes down that these removals have ended. What can't be written down is looked at once more by the
    /// next mount.
    pub async fn ended(&self, keys: &[String]) {
        let line = |key: &String| Line {
            key: key.clone(),
            etag: None,
            modified_ms: None,
            written: None,
            upload: None,
        };
        self.end(keys.iter().map(line).collect()).await;
    }

    async fn end(&self, mut lines: Vec<Line>) {
        let mut log = self.log.lock().await;
        let Some(open) = log.as_mut() else { return };
        lines.retain(|line| {
            let id = id(&line.key, line.upload.as_deref());
            let Some(times) = open.open.get_mut(&id) else { return false };
            *times -= 1;
            if *times == 0 {
                open.open.remove(&id);
            }
            true
        });
        let done = async {
            if open.open.is_empty() {
                return self.folder.remove(&self.path).await.map(|()| true);
            }
            let bytes = text(lines.into_iter());
            let len = bytes.len() as u64;
            open.file.pwrite(open.len, vec![bytes], false).await?;
            open.len += len;
            Ok(false)
        };
        match done.await {
            Ok(true) => *log = None,
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(path = %self.path.display(), %why, "what has ended can't be struck out");
            }
        }
    }

    /// Returns what an earlier mount's log holds that has not ended. A line that was cut off counts for
    /// nothing.
    pub async fn read(folder: &StagingDir, path: &Path) -> std::io::Result<Left> {
        let bytes = folder.disk().read(path, LEN_MAX).await?;
        Ok(Left::of(&bytes))
    }
}

#[async_trait]
impl UploadNotes for RemovalLog {
    async fn begun(&self, key: &str, upload: &str) -> Result<()> {
        let (key, etag, upload) = (key.to_owned(), Some(Etag(String::new())), Some(upload.to_owned()));
        self.begin(vec![Line { key, etag, modified_ms: None, written: None, upload }]).await
    }
    async fn ended(&self, key: &str, upload: &str) {
        let (key, upload) = (key.to_owned(), Some(upload.to_owned()));
        self.end(vec![Line { key, etag: None, modified_ms: None, written: None, upload }]).await;
    }
}

/// Removals and uploads that an earlier mount had begun and not ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    pub removals: Vec<Doomed>,
    /// Keys of multipart uploads, each with the upload's id.
    pub uploads: Vec<(String, String)>,
}

impl Left {
    fn of(bytes: &[u8]) -> Left {
        let mut open: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            let its = open.entry(id(&line.key, line.upload.as_deref())).or_default();
            match line.etag {
                Some(_) => its.push(line),
                None if its.is_empty() => {}
                None => drop(its.remove(0)),
            }
        }
        let mut left = Left::default();
        for Line { key, etag, modified_ms, written, upload } in open.into_values().flatten() {
            match (upload, etag) {
                (Some(upload), _) => left.uploads.push((key, upload)),
                (None, Some(etag)) => {
                    let object = Sighting { etag, modified_ms, upload: written };
                    left.removals.push(Doomed { key, object, look_first: true });
                }
                (None, None) => {}
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::Disk;
    use windlass_base::rt::sim::{Sim, SimDisk};

    fn doomed(key: &str, etag: &str) -> Doomed {
        let object = Sighting { etag: Etag(etag.into()), modified_ms: Some(7), upload: Some(1) };
        Doomed { key: key.into(), object, look_first: true }
    }

    #[test]
    fn what_has_not_ended_is_found_again() {
        let sim = Sim::new(1);
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(&sim));
        sim.run(async move {
            let folder = StagingDir::on(&disk);
            disk.create_dir(Path::new("/s")).await.unwrap();
            let path = PathBuf::from("/s/1.removals");
            let log = RemovalLog::at(&folder, path.clone());
            log.note(&[doomed("a", "1"), doomed("b/\n\"", "2")]).await.unwrap();
            log.note(&[doomed("a", "3")]).await.unwrap();
            log.ended(&["a".into(), "never".into()]).await;
            log.begun("u", "1").await.unwrap();
            log.begun("u", "2").await.unwrap();
            UploadNotes::ended(&log, "u", "1").await;
            let found = RemovalLog::read(&folder, &path).await.unwrap();
            assert_eq!(found.uploads, [("u".to_owned(), "2".to_owned())]);
            UploadNotes::ended(&log, "u", "2").await;
            assert_eq!(
                found.removals,
                [doomed("a", "3"), doomed("b/\n\"", "2")],
                "the first one of a has ended"
            );
            log.ended(&["a".into(), "b/\n\"".into()]).await;
            assert_eq!(disk.list(Path::new("/s")).await.unwrap(), [""; 0]);
            log.note(&[doomed("c", "4")]).await.unwrap();
            assert_eq!(RemovalLog::read(&folder, &path).await.unwrap().removals, [doomed("c", "4")]);
        })
        .unwrap();
        let cut_off = Left::of(b"{\"key\":\"a\",\"etag\":\"1\"}\n{\"key\":\"b\",\"et");
        assert_eq!(cut_off.removals.len(), 1);
        assert_eq!(Left::of(b"{\"key\":\"a\"}\n\xff\n"), Left::default());
    }
}
