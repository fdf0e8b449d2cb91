//! How far this host has seen a volume come: in its state folder, so that it never takes an older state for the volume's.
//!
//! File `confirmed` in the volume's local folder, JSON: `{"format": 1, "guesses": N, "claimed": EPOCH, "active": EPOCH,
//! "position": SEQ}`, of the newest head that is known to have been chosen. Written after a take-over, a checkpoint and
//! a release, and by nothing that a guest waits for. Each of the three numbers only grows in the heads of a volume, as
//! long as nobody forces the pool's registers to be decided by guess (`guesses` counts that). A head that is behind was
//! not chosen after it: stores were set back, or somebody wrote to one who may not.
//!
//! `"forgotten": true` (absent: false) is set by `take-over --accept-loss`: older heads are taken then, but the next claim is
//! above `claimed`, whose owner's chunks may be on the stores under its number.
//!
//! A file that can't be read or written is none: then older heads are not told from newer ones, and numbers of ownerships that
//! `--accept-loss` forgot may be given again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::head_value::Head;
use windlass_base::rt::Disk;
use windlass_base::{Epoch, Error, Kind, Result, ResultExt as _, Seq};

const FORMAT: u32 = 1;
const FILE_MAX: usize = 4096;
const FILE: &str = "confirmed";

/// A record of how far this host has seen the volume come, as the module describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confirmed {
    format: u32,
    guesses: u64,
    claimed: Epoch,
    active: Epoch,
    position: Seq,
    /// Is true if the user takes an older head (`take-over --accept-loss`). Only the number of ownerships
    /// still counts then: chunks of the forgotten ones may be on the stores under their names.
    #[serde(default)]
    forgotten: bool,
}

impl Confirmed {
    fn of(head: &Head, guesses: u64) -> Confirmed {
        let claimed = head.last_epoch();
        let position = head.checkpoint.position;
        Confirmed { format: FORMAT, guesses, claimed, active: head.active.epoch, position, forgotten: false }
    }

    /// Tells whether this record stays instead of the one that `head` would make. It stays if it is newer
    /// than the head, or if it holds the number of an ownership that the next claim has to be above.
    fn stays(&self, new: &Confirmed, head: &Head, guesses: u64) -> bool {
        self.is_after(head, guesses) || self.forgotten && new.claimed <= self.claimed
    }

    /// Tells whether `head` was chosen before this record was made. `guesses`: how often the pool was decided
    /// by guess, by now.
    fn is_after(&self, head: &Head, guesses: u64) -> bool {
        let Confirmed { claimed, active, position, .. } = Confirmed::of(head, guesses);
        !self.forgotten
            && guesses <= self.guesses
            && (claimed < self.claimed || active < self.active || position < self.position)
    }

    /// Describes the record's place in the volume's history, for messages.
    fn place(&self) -> String {
        format!("ownership {}, position {}", self.claimed.shown(), self.position)
    }
}

/// Checks that `head` is not older than what was recorded from here: a checkpoint of this position, and the
/// data key of this number, by which something was sealed.
///
/// A guess may have taken an older head, or all stores may have been put back from a backup. Such a head
/// needs chunks that were deleted since, and nothing that is stored now would be found behind them.
///
/// # Errors
/// `Fenced`: the head is older.
pub fn is_no_older(head: &Head, (position, sealed_by): (Seq, u8), guesses: u64) -> Result<()> {
    // Nor would what a data key has sealed be opened that such a head does not have.
    if head.checkpoint.position >= position && head.data_keys().0 >= sealed_by {
        return Ok(());
    }
    let why = match guesses {
        0 => {
            "the stores show an older state of this volume than was recorded from here: they were set back. Open it again to see \
             what each of them shows"
        }
        _ => {
            "the pool's stores were decided by guess (`pool force-recover`), and what they know of this volume is older than \
             what was recorded from here; open it again to see what is left"
        }
    };
    Err(Error::new(Kind::Fenced, why))
}

/// Describes where a head stands, for messages.
pub fn place(head: &Head) -> String {
    Confirmed::of(head, 0).place()
}

/// The lower bound of heads that this host accepts: a head that is behind `known` is refused.
#[derive(Clone, Debug, Default)]
pub struct Floor {
    pub known: Option<Confirmed>,
    /// Name by which users know the volume.
    pub title: String,
}

impl Floor {
    /// Returns why this head is refused, if it is older than what this host has confirmed. `guesses`: how
    /// often the pool was decided by guess, by now.
    pub fn refuses(&self, head: &Head, guesses: u64) -> Option<String> {
        let known = self.known.filter(|known| known.is_after(head, guesses))?;
        Some(format!(
            "volume {}: the stores show an older state of it ({}) than this host has seen recorded ({})",
            self.title,
            place(head),
            known.place()
        ))
    }

    /// Returns the newest ownership in any head that this host has seen.
    pub fn last_epoch(&self) -> Epoch {
        self.known.map_or(Epoch(0), |known| known.claimed)
    }
}

/// The file `confirmed` in the volume's local folder.
#[derive(Clone, Debug)]
pub struct Record {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Serializes the file's writers, so that the newest record stays.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Record {
    pub fn new(disk: Arc<dyn Disk>, folder: &Path) -> Record {
        Record { disk, path: folder.join(FILE), turn: Arc::default() }
    }

    pub async fn load(&self) -> Option<Confirmed> {
        let bytes = self.disk.read(&self.path, FILE_MAX).await.ok()?;
        serde_json::from_slice::<Confirmed>(&bytes).ok().filter(|known| known.format == FORMAT)
    }

    /// Records a head that is known to be chosen. A failure to write is logged, and costs only the
    /// protection.
    pub async fn keep(&self, head: &Head, guesses: u64) {
        let _turn = self.turn.lock().await;
        let new = Confirmed::of(head, guesses);
        if self.load().await.is_some_and(|known| known == new || known.stays(&new, head, guesses)) {
            return;
        }
        let text = serde_json::to_vec(&new).expect("it has only string keys");
        if let Err(error) = self.disk.write_atomic(&self.path, text.into()).await {
            tracing::debug!(path = %self.path.display(), %error, "how far a volume has come is not written down");
        }
    }

    /// Records that the user takes what the stores show, even where it is older.
    pub async fn forget(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let Some(known) = self.load().await else { return Ok(()) };
        let text =
            serde_json::to_vec(&Confirmed { forgotten: true, ..known }).expect("it has only string keys");
        let path = self.path.display();
        self.disk.write_atomic(&self.path, text.into()).await.context(|| format!("writing {path}"))
    }

    /// Removes the file of a volume that is gone; its id is given to no other.
    pub async fn remove(&self) {
        // A host that never opened the volume has none.
        let _ = self.disk.remove(&self.path).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::settings::VolumeSettings;
    use windlass_base::VolumeId;

    #[test]
    fn each_number_only_grows_unless_registers_were_guessed() {
        let born = Head::new(VolumeId(1), 0, 1 << 20, VolumeSettings::default(), 2, Vec::new());
        let mut later = born.clone();
        later.active.epoch = Epoch(2);
        later.checkpoint.position = Seq(9);
        let floor = |head: &Head| Floor { known: Some(Confirmed::of(head, 0)), title: "tank/v".into() };
        assert_eq!(floor(&born).refuses(&later, 0), None);
        assert_eq!(floor(&later).refuses(&later, 0), None);
        assert_eq!(floor(&later).last_epoch(), Epoch(2));
        let why = floor(&later).refuses(&born, 0).unwrap();
        assert!(why.contains("tank/v") && why.contains("position 9"), "{why}");
        assert_eq!(floor(&later).refuses(&born, 1), None, "a guess may have taken an older one");
        let mut earlier = born.clone();
        earlier.active = later.active.clone();
        assert!(floor(&later).refuses(&earlier, 0).is_some());
        let mut forgotten = floor(&later);
        forgotten.known.as_mut().unwrap().forgotten = true;
        assert_eq!((forgotten.refuses(&born, 0), forgotten.last_epoch()), (None, Epoch(2)));
        let stays = |head: &Head| forgotten.known.unwrap().stays(&Confirmed::of(head, 0), head, 0);
        assert!(stays(&born), "looking at the older head forgets no number");
        let mut next = born.clone();
        next.active.epoch = Epoch(3);
        assert!(!stays(&next));
    }
}
