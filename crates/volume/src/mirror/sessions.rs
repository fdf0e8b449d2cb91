//! What a peer keeps of other hosts' volumes: sessions, each a journal in a folder of its own in the volume's local folder,
//! and the mark that a session takes no more records.
//!
//! A session is named by the ownership whose records it has: `mirror-EPOCH`. `mirror-closed` has the highest ownership (8 bytes,
//! little-endian) whose sessions are closed, and their XXH3-64: this host has begun to take the volume over by it, so that
//! nothing may be added. One connection or one take-over at a time has a volume's seat.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::Begin;
use windlass_base::rt::{Dial, Disk, Rt};
use windlass_base::{Epoch, Error, Kind, Lsn, Result, ResultExt as _, VolumeId};
use windlass_journal::{Journal, JournalConfig, Recovered};

const PREFIX: &str = "mirror-";
const CLOSED: &str = "mirror-closed";
/// Most volumes of other hosts that are mirrored here at a time.
const SEATS_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Place {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Tells the holder of the seat to leave it.
    leave: CancellationToken,
    users: usize,
}

/// A host's part in mirrors: where its own peer is, and who is served here.
#[derive(Clone, Debug, Default)]
pub struct MirrorHost {
    /// Way to the peer to which the journals of volumes that are owned here are mirrored; `None`: there is no
    /// peer.
    pub dial: Option<Arc<dyn Dial>>,
    seats: Arc<Mutex<BTreeMap<VolumeId, Place>>>,
}

/// The right to change a volume's sessions: while it lives nobody else adds to them, or closes them.
#[derive(Debug)]
pub struct Seat {
    host: MirrorHost,
    volume: VolumeId,
    /// Is cancelled when somebody else wants the seat.
    pub left: CancellationToken,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl MirrorHost {
    pub fn with_peer(dial: Option<Arc<dyn Dial>>) -> MirrorHost {
        MirrorHost { dial, seats: Arc::default() }
    }

    /// Takes the volume's seat, once its holder has left it, whom this tells to do so.
    pub async fn sit(&self, volume: VolumeId) -> Result<Seat> {
        let (turn, left) = {
            let mut seats = self.seats.lock();
            if seats.len() >= SEATS_MAX && !seats.contains_key(&volume) {
                let why = format!("{SEATS_MAX} volumes are mirrored to this host already");
                return Err(Error::new(Kind::Refused, why));
            }
            let place = seats.entry(volume).or_default();
            place.leave.cancel();
            place.leave = CancellationToken::new();
            place.users += 1;
            (place.turn.clone(), place.leave.clone())
        };
        let mut seat = Seat { host: self.clone(), volume, left, _turn: None };
        seat._turn = Some(turn.lock_owned().await);
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.host.seats.lock();
        if let Some(place) = seats.get_mut(&self.volume) {
            place.users -= 1;
            if place.users == 0 {
                seats.remove(&self.volume);
            }
        }
    }
}

/// The sessions of one volume. Whoever changes them has the seat.
#[derive(Clone, Debug)]
pub struct Sessions {
    pub rt: Rt,
    pub disk: Arc<dyn Disk>,
    /// The volume's local folder.
    pub folder: PathBuf,
}

impl Sessions {
    pub fn dir(&self, epoch: Epoch) -> PathBuf {
        self.folder.join(format!("{PREFIX}{epoch}"))
    }

    /// Tells whether there is a session of this ownership.
    pub async fn has(&self, epoch: Epoch) -> Result<bool> {
        windlass_journal::is_there(&*self.disk, &self.dir(epoch)).await
    }

    pub async fn any(&self) -> Result<bool> {
        Ok(!self.all().await?.is_empty())
    }

    /// Returns the ownerships of the sessions that are here, or begun and broken off. A folder that can't be
    /// read is an error, since a take-over or an owner goes on by there being none.
    pub async fn all(&self) -> Result<Vec<Epoch>> {
        let doing = || format!("looking into {}", self.folder.display());
        let names = self.disk.list_if_there(&self.folder).await.context(doing)?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok().map(Epoch)).collect())
    }

    /// Returns the highest ownership whose sessions take no more records: all up to it are closed. 0: none
    /// is.
    pub async fn closed(&self) -> Result<Epoch> {
        let path = self.folder.join(CLOSED);
        let bytes = match self.disk.read(&path, 64).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Epoch(0)),
            other => other.context(|| format!("reading {}", path.display()))?,
        };
        let mark = bytes.split_first_chunk::<8>().filter(|(mark, sum)| *sum == xxh3_64(*mark).to_le_bytes());
        let damaged = || Error::new(Kind::Corrupt, format!("{} is damaged", path.display()));
        mark.map(|(mark, _)| Epoch(u64::from_le_bytes(*mark))).ok_or_else(damaged)
    }

    /// Closes the sessions of ownerships up to this one. They are closed durably when this returns.
    pub async fn close(&self, epoch: Epoch) -> Result<()> {
        let path = self.folder.join(CLOSED);
        let mark = self.closed().await?.max(epoch).0.to_le_bytes();
        let bytes = [mark, xxh3_64(&mark).to_le_bytes()].concat();
        let written = self.disk.write_atomic(&path, Bytes::from(bytes)).await;
        written.context(|| format!("writing {}", path.display()))
    }

    /// Removes all sessions but those of these ownerships.
    pub async fn keep_only(&self, epochs: &[Epoch]) -> Result<()> {
        for epoch in self.all().await? {
            if !epochs.contains(&epoch) {
                self.remove(epoch).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, epoch: Epoch) -> Result<()> {
        let (dir, disk) = (self.dir(epoch), &self.disk);
        let doing = || format!("removing {}", dir.display());
        let mut names = disk.list(&dir).await.context(doing)?;
        // Without its header it is no journal, whatever a crash leaves of the rest.
        names.sort_by_key(|name| name != "header");
        for name in names {
            disk.remove(&dir.join(&name)).await.context(doing)?;
            if name == "header" {
                disk.sync_dir(&dir).await.context(doing)?;
            }
        }
        disk.remove_dir(&dir).await.context(doing)
    }

    /// Opens or creates the session of this ownership. Returns up to where it has all that the pool lacks: 0
    /// of a session that has nothing yet, which takes what comes behind `from`.
    pub async fn begin(&self, like: JournalConfig, begin: &Begin) -> Result<(Journal, Lsn)> {
        let Begin { volume, epoch, from, .. } = *begin;
        if let Some((journal, found)) = self.open(like.clone(), volume, epoch).await? {
            if !journal.is_void() {
                // An empty one was begun and broken off before what came before it was in the pool.
                let has = if found.end < found.first_lsn { Lsn(0) } else { found.end };
                return Ok((journal, has));
            }
            // Begun when the disk took no files for it: nothing was ever promised by it.
            let _ = journal.close().await;
            self.remove(epoch).await?;
        }
        let config = JournalConfig { dir: self.dir(epoch), ..like };
        let (rt, disk) = (self.rt.clone(), self.disk.clone());
        let journal = Journal::create(rt, disk, config, volume, vec![epoch], from.next()).await?;
        Ok((journal, Lsn(0)))
    }

    /// Opens the session of this ownership, if it is here.
    pub async fn open(
        &self,
        like: JournalConfig,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<Option<(Journal, Recovered)>> {
        let config = JournalConfig { dir: self.dir(epoch), ..like };
        let Some((journal, found)) = Journal::open(self.rt.clone(), self.disk.clone(), config).await? else {
            return Ok(None);
        };
        if found.volume == volume && found.lineage == [epoch] {
            return Ok(Some((journal, found)));
        }
        journal.close().await?;
        let why = format!("{} is no journal of this volume's mirror", self.dir(epoch).display());
        Err(Error::new(Kind::Corrupt, why))
    }
}

/// Checks that a session vouches for its records. One that is a copy of the folder that was written, or that
/// its disk gave up, vouches for nothing.
pub fn check_whole(journal: &Journal, found: &Recovered, dir: &Path) -> Result<()> {
    if found.copied || journal.failed().is_some() {
        let why = format!(
            "{} was copied, or its disk failed: what was mirrored here since may not be in it",
            dir.display()
        );
        return Err(Error::new(Kind::Corrupt, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Host;
    use windlass_base::log_record::{Op, Record};
    use windlass_base::rt::sim::{Sim, SimDisk};
    use windlass_base::{HostId, PoolId};

    const VOLUME: VolumeId = VolumeId(9);

    fn like() -> JournalConfig {
        JournalConfig {
            dir: PathBuf::from("/"),
            size: 1 << 20,
            segment: Some((64 << 10, 64 << 10)),
            key: None,
        }
    }

    fn begin(epoch: u64, from: u64) -> Begin {
        Begin {
            pool: PoolId(1),
            volume: VOLUME,
            epoch: Epoch(epoch),
            from: Lsn(from),
            asked: None,
            owner: Host { id: HostId(1), name: "h".into() },
        }
    }

    fn in_a_world<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(Sessions, Arc<SimDisk>) -> F) {
        let sim = Sim::new(1);
        let disk = Arc::new(SimDisk::new(&sim));
        let sessions = Sessions { rt: sim.rt(), disk: disk.clone(), folder: PathBuf::from("/v") };
        sim.run(run(sessions, disk)).unwrap();
    }

    async fn put(journal: &Journal, lsn: u64) {
        let mut room = journal.reserve(journal.cost(0)).await.unwrap();
        journal.append(&mut room, &Record { lsn: Lsn(lsn), op: Op::Zero { block: 1, blocks: 1 } }).unwrap();
    }

    #[test]
    fn a_session_goes_on_where_it_was_synced_and_others_go() {
        in_a_world(|sessions, disk| async move {
            for _ in 0..2 {
                let (journal, has) = sessions.begin(like(), &begin(3, 7)).await.unwrap();
                assert_eq!((has, journal.end()), (Lsn(0), Lsn(7)), "what came before is not in it");
                journal.close().await.unwrap();
            }
            let (journal, _) = sessions.begin(like(), &begin(3, 7)).await.unwrap();
            put(&journal, 9).await;
            journal.sync(None).await.unwrap();
            put(&journal, 10).await;
            drop(journal);
            disk.power_loss();
            sessions.rt.sleep(std::time::Duration::from_secs(1)).await;
            let (journal, has) = sessions.begin(like(), &begin(3, 20)).await.unwrap();
            assert_eq!(has, Lsn(9), "a gap is the owner's matter");
            journal.close().await.unwrap();
            let (other, _) = sessions.begin(like(), &begin(4, 20)).await.unwrap();
            other.close().await.unwrap();
            assert!(sessions.has(Epoch(3)).await.unwrap() && sessions.has(Epoch(4)).await.unwrap());
            assert!(sessions.open(like(), VolumeId(1), Epoch(4)).await.unwrap_err().is(Kind::Corrupt));
            sessions.keep_only(&[Epoch(4)]).await.unwrap();
            assert!(!sessions.has(Epoch(3)).await.unwrap() && sessions.has(Epoch(4)).await.unwrap());
            assert_eq!(sessions.all().await.unwrap(), [Epoch(4)]);
        });
    }

    #[test]
    fn what_was_closed_stays_closed() {
        in_a_world(|sessions, disk| async move {
            disk.create_dir(&sessions.folder).await.unwrap();
            assert_eq!(sessions.closed().await.unwrap(), Epoch(0));
            sessions.close(Epoch(5)).await.unwrap();
            sessions.close(Epoch(2)).await.unwrap();
            disk.power_loss();
            assert_eq!(sessions.closed().await.unwrap(), Epoch(5));
            disk.write_atomic(&sessions.folder.join(CLOSED), Bytes::from_static(b"x")).await.unwrap();
            assert!(sessions.closed().await.unwrap_err().is(Kind::Corrupt));
        });
    }

    #[test]
    fn the_seat_is_left_to_who_comes() {
        in_a_world(|_, _| async move {
            let host = MirrorHost::default();
            let first = host.sit(VOLUME).await.unwrap();
            let second = std::pin::pin!(host.sit(VOLUME));
            let left = first.left.clone();
            let left = std::pin::pin!(left.cancelled_owned());
            let waits = futures::future::select(second, left).await;
            let futures::future::Either::Right((_, second)) = waits else {
                panic!("it has the seat already")
            };
            drop(first);
            let second = second.await.unwrap();
            assert!(!second.left.is_cancelled());
            drop(second);
            assert!(host.seats.lock().is_empty());
        });
    }
}
