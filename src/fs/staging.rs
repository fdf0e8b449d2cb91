//! The folder where written bytes wait until the bucket has them.
//!
//! Each mount has a slot of its own in it, held by a lock. There `ID.data` holds a file's bytes at their places (sparse where the object's own still count), `ID.json` says whose
//! they are. Both go when the object is stored. What cannot be stored stays, is named in the log, and is reported at
//! the next mount: nothing here deletes bytes that are nowhere else.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::remote::Base;
use crate::base::rt::{Disk, DiskFile, DiskLock, OpenHow, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};

const FORMAT: u32 = 1;
const NOTE_MAX: usize = 1 << 20;
const LOCK: &str = "lock";
/// Mounts of one bucket at a time.
const SLOTS: usize = 64;

/// Writes that an earlier run could not send; the file is kept until the user takes it away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    pub path: PathBuf,
    pub key: String,
    pub bytes: u64,
}

/// The contents of `ID.json`.
#[derive(Serialize, Deserialize, Debug)]
struct Note {
    format: u32,
    url: String,
    key: String,
    /// The object that the bytes change; none for a new one.
    base_etag: Option<String>,
    base_size: u64,
    /// Why the bytes were not stored, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// The file's length and which of its bytes are here, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    here: Option<Vec<(u64, u64)>>,
}

impl Note {
    fn encode(&self) -> Bytes {
        serde_json::to_vec_pretty(self).expect("a note has only string keys").into()
    }
}

#[derive(Debug)]
pub struct Staging {
    rt: Rt,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    url: String,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

/// One file's staged bytes.
#[derive(Clone)]
pub struct Stage {
    pub file: Arc<dyn DiskFile>,
    pub data: PathBuf,
    note: PathBuf,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.data.display())
    }
}

impl Staging {
    /// Takes the first free slot of the folder (mounts of one bucket live side by side), and says what earlier mounts
    /// left in it and in the other slots that nobody uses.
    pub async fn open(
        rt: Rt,
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        url: &str,
    ) -> Result<(Staging, Vec<Unsent>)> {
        let (mut mine, mut left) = (None, Vec::new());
        for slot in 0..SLOTS {
            let dir = folder.join(slot.to_string());
            let doing = || format!("preparing the staging folder {}", dir.display());
            if mine.is_some() && disk.list(&dir).await.is_err() {
                break;
            }
            disk.create_dir(&dir).await.context(doing)?;
            let lock = match disk.lock(&dir.join(LOCK), url).await {
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => continue,
                lock => Mutex::new(Some(lock.context(doing)?)),
            };
            let (rt, disk, url) = (rt.clone(), disk.clone(), url.to_owned());
            let staging = Staging { rt, disk, dir: dir.clone(), url, lock };
            staging.sweep().await.context(doing)?;
            left.extend(staging.left().await.context(doing)?);
            mine = mine.or(Some(staging));
        }
        let mine = mine.ok_or_else(|| {
            Error::new(
                Kind::Owned,
                format!("{url} is mounted {SLOTS} times already with {}", folder.display()),
            )
        })?;
        Ok((mine, left))
    }

    /// The mount is over: another may have the folder.
    pub fn close(&self) {
        self.lock.lock().take();
    }

    async fn left(&self) -> Result<Vec<Unsent>> {
        let names = self.disk.list(&self.dir).await?;
        let mut left = Vec::new();
        for id in names.iter().filter_map(|n| n.strip_suffix(".data")) {
            let path = self.dir.join(format!("{id}.data"));
            let bytes = self.disk.open(&path, OpenHow::Read).await?.size().await?;
            let note = self.disk.read(&self.dir.join(format!("{id}.json")), NOTE_MAX).await;
            let note = note.ok().and_then(|n| serde_json::from_slice::<Note>(&n).ok());
            let key = note.map_or_else(|| "(unknown)".to_owned(), |n| n.key);
            left.push(Unsent { path, key, bytes });
        }
        Ok(left)
    }

    /// A new, empty place for an object's bytes.
    pub async fn stage(&self, key: &str, base: Option<&Base>) -> Result<Stage> {
        let id = format!("{:016x}", self.rt.random());
        let (data, note) = (self.dir.join(format!("{id}.data")), self.dir.join(format!("{id}.json")));
        let doing = || format!("staging {key} at {}", data.display());
        let text = self.note(key, base).encode();
        let file = self.disk.open(&note, OpenHow::CreateNew).await.context(doing)?;
        file.pwrite(0, vec![text], false).await.context(doing)?;
        let file = self.disk.open(&data, OpenHow::CreateNew).await.context(doing)?;
        Ok(Stage { file, data, note })
    }

    fn note(&self, key: &str, base: Option<&Base>) -> Note {
        Note {
            format: FORMAT,
            url: self.url.clone(),
            key: key.to_owned(),
            base_etag: base.map(|b| b.etag.0.clone()),
            base_size: base.map_or(0, |b| b.size),
            failed: None,
            size: None,
            here: None,
        }
    }

    /// The bytes could not be stored: makes them durable and writes down why and which they are.
    pub async fn keep(
        &self,
        stage: &Stage,
        key: &str,
        base: Option<&Base>,
        why: &str,
        size: u64,
        here: Vec<(u64, u64)>,
    ) -> Result<()> {
        stage.file.sync().await?;
        let failed = Some(why.to_owned());
        let note = Note { failed, size: Some(size), here: Some(here), ..self.note(key, base) };
        self.disk.write_atomic(&stage.note, note.encode()).await?;
        Ok(())
    }

    /// The bucket has the bytes, or nobody wants them.
    pub async fn done(&self, stage: Stage) {
        // Data first: a note without data is nothing, data without a note would be reported as unsent.
        for path in [&stage.data, &stage.note] {
            if let Err(why) = self.disk.remove(path).await {
                tracing::warn!(path = %path.display(), %why, "a staged file that was sent can't be removed");
            }
        }
    }

    /// Notes whose data is gone: a crash between the two removals.
    async fn sweep(&self) -> Result<()> {
        let names = self.disk.list(&self.dir).await?;
        for id in names.iter().filter_map(|n| n.strip_suffix(".json")) {
            if !names.contains(&format!("{id}.data")) {
                self.disk.remove(&self.dir.join(format!("{id}.json"))).await?;
            }
        }
        Ok(())
    }
}

/// `len` bytes of a staged file; zeros where it was never written.
pub async fn read_staged(stage: Option<&Stage>, offset: u64, len: usize) -> Result<Bytes> {
    let found = match stage {
        Some(stage) => stage.file.pread(offset, len).await?,
        None => Bytes::new(),
    };
    if found.len() > len {
        return Err(Error::new(Kind::Internal, "the disk gave more bytes than asked for"));
    }
    if found.len() == len {
        return Ok(found);
    }
    let mut padded = found.to_vec();
    padded.resize(len, 0);
    Ok(padded.into())
}
