//! This host's note that clients use a volume here (protocol.md §4.11, by the steps of model `pin`): while this host owns the
//! volume its ownership says so; the note is made before it lets go, or when a client comes while another host, or nobody,
//! owns the volume.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::head::READERS;
use crate::read::{EngineContext, VolumeContext, wait_at};
use crate::space::pins;
use windlass_base::{Error, HostId, Kind, Name, Nonce, Result, VolumeId};
use windlass_pool::CatalogEntry;

/// Number of looks at a volume whose removal seems to be under way.
const LOOKS: usize = 60;
/// Time for which a client waits for the note to be made, and a release. A host whose keys can only read makes none.
const NOTED_WITHIN: Duration = Duration::from_secs(2);
/// Time by which clients that another process was to go on with have come back to this one, or have gone.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Guard of a client that uses the volume here. As long as there is one, other hosts know, by this host's ownership or by its
/// note.
#[derive(Debug)]
pub struct Reading {
    engine: Arc<EngineContext>,
    id: VolumeId,
}

impl Reading {
    fn begin(engine: &Arc<EngineContext>, id: VolumeId) -> Reading {
        engine.readers.of(id).clients.fetch_add(1, Ordering::SeqCst);
        Reading { engine: engine.clone(), id }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let readers = &self.engine.readers;
        let is_last = readers.of(self.id).clients.fetch_sub(1, Ordering::SeqCst) == 1;
        // Asked here: by the time that the task runs this process may have the clients back.
        if !is_last || readers.keeps.load(Ordering::SeqCst) {
            return;
        }
        let (engine, id) = (self.engine.clone(), self.id);
        let rt = engine.rt.clone();
        rt.spawn(async move { end_reading(&engine, id).await }).detach();
    }
}

/// Returns the key of a host's note.
pub fn reader_key(host: HostId) -> [u8; 16] {
    host.0.to_le_bytes()
}

/// Counts a client, and notes it unless this host owns the volume. Where that takes longer than the client may wait, it reads
/// on, and the note counts once it is made. `is_owner`: asked when the client is counted. `again`: another process of this
/// host had the client before, and may have left a note.
///
/// # Errors
/// `NotFound`: the volume is gone.
pub async fn read_by_client(
    context: &Arc<VolumeContext>,
    is_owner: impl Future<Output = bool> + Send + 'static,
    again: bool,
) -> Result<Reading> {
    let (rt, reading) = (context.rt().clone(), Reading::begin(&context.engine, context.id));
    let noted_in = context.clone();
    // A task of its own: cut off midway it would leave a note that nobody knows of.
    let noting = rt.spawn(async move {
        match is_owner.await {
            true if again => adopt(&noted_in).await,
            true => Ok(()),
            false => note(&noted_in).await,
        }
    });
    match rt.timeout(NOTED_WITHIN, noting).await {
        Some(noted) => noted??,
        None => {
            let volume = context.title();
            tracing::warn!(%volume, "it can't be noted yet that clients read this volume: other hosts may remove it");
        }
    }
    Ok(reading)
}

/// Counts those who have come to a volume by its move, until the result is dropped. This host owns the volume, which speaks for
/// them; the note is made before it is let go of.
pub fn read_by_moved(context: &VolumeContext) -> Reading {
    Reading::begin(&context.engine, context.id)
}

/// Makes the note before this host lets go of a volume that clients use: its ownership speaks for them no longer.
pub async fn note_before_release(context: &Arc<VolumeContext>) {
    let readers = &context.engine.readers;
    // Clients that are about to go on in another process of this host are not counted here any more.
    if readers.of(context.id).clients.load(Ordering::SeqCst) == 0 && !readers.keeps.load(Ordering::SeqCst) {
        return;
    }
    let (rt, noted_in) = (context.rt().clone(), context.clone());
    let noting = rt.spawn(async move { note(&noted_in).await });
    let why = match rt.timeout(NOTED_WITHIN, noting).await {
        Some(Ok(Ok(()))) => return,
        Some(Ok(Err(error)) | Err(error)) => error.to_string(),
        None => "the stores do not answer in time".to_owned(),
    };
    let volume = context.title();
    tracing::warn!(%volume, why, "it can't be noted yet that clients use this volume here: other hosts may remove it");
}

async fn note(context: &VolumeContext) -> Result<()> {
    let (engine, id) = (&context.engine, context.id);
    let here = engine.readers.of(id);
    let mut noted = here.noted.lock().await;
    let (key, readers) = (reader_key(engine.host.id), pins::readers(&engine.pool, id));
    if let Some(nonce) = *noted {
        // Whoever said that this host is gone has dropped the note.
        if readers.get(&key).await? == Some(CatalogEntry::of(nonce.0)) {
            return Ok(());
        }
        *noted = None;
    }
    let nonce = Nonce(engine.rt.random128());
    let new = CatalogEntry::of(nonce.0);
    let has = readers.insert(&key, new).await?;
    if has != new {
        // An earlier run of this host.
        readers.insert_over(&key, new, Some(has)).await?;
    }
    if let Err(error) = look_after_entering(engine, &context.name(), id).await {
        forget_reader(engine, id, nonce).await;
        return Err(error);
    }
    *noted = Some(nonce);
    drop(noted);
    // The last client may have left before the note was begun.
    if here.clients.load(Ordering::SeqCst) == 0 {
        end_reading(engine, id).await;
    }
    Ok(())
}

/// Takes over the note that an earlier run of this host has left: it counts for the clients that this run goes on with, and
/// goes with them.
async fn adopt(context: &VolumeContext) -> Result<()> {
    let (engine, id) = (&context.engine, context.id);
    let here = engine.readers.of(id);
    let mut noted = here.noted.lock().await;
    if noted.is_none() {
        let left = pins::readers(&engine.pool, id).get(&reader_key(engine.host.id)).await;
        *noted = left.ok().flatten().map(|entry| Nonce(entry.value));
    }
    Ok(())
}

async fn look_after_entering(engine: &EngineContext, name: &Name, id: VolumeId) -> Result<()> {
    let (cell, mut met) = (engine.cell(id), None);
    for _ in 0..LOOKS {
        let head = cell.read().await?.filter(|head| !head.removed);
        let gone = || Error::new(Kind::NotFound, format!("volume {} was removed", engine.title(name)));
        let mut head = head.ok_or_else(gone)?;
        if !head.cloned.has(READERS) {
            head = cell.change(|head| head.set_cloned(READERS)).await?;
        }
        match head.gate.filter(|gate| gate.snapshot.is_none()) {
            None => return Ok(()),
            Some(gate) => wait_at(engine, id, gate.nonce, &mut met).await?,
        }
    }
    let why = format!("volume {} is being removed: try again", engine.title(name));
    Err(Error::new(Kind::Unavailable, why))
}

/// Keeps the notes until `keep_notes_no_more`: clients leave for another process of this host, which makes notes of its own in
/// the place of these.
pub fn keep_notes(engine: &EngineContext) {
    engine.readers.keeps.store(true, Ordering::SeqCst);
}

/// Ends `keep_notes`. Notes of clients that do not come back go after a while.
pub fn keep_notes_no_more(engine: &Arc<EngineContext>) {
    engine.readers.keeps.store(false, Ordering::SeqCst);
    let engine = engine.clone();
    let rt = engine.rt.clone();
    rt.spawn(async move {
        engine.rt.sleep(BACK_WITHIN).await;
        for (id, _) in engine.readers.all() {
            end_reading(&engine, id).await;
        }
    })
    .detach();
}

/// Removes the note with the last client, unless another process of this host goes on with the clients: that one makes its own
/// in the place of this.
async fn end_reading(engine: &EngineContext, id: VolumeId) {
    let here = engine.readers.of(id);
    let mut noted = here.noted.lock().await;
    if here.clients.load(Ordering::SeqCst) > 0 || engine.readers.keeps.load(Ordering::SeqCst) {
        return;
    }
    if let Some(nonce) = noted.take() {
        forget_reader(engine, id, nonce).await;
    }
}

pub async fn forget_reader(engine: &EngineContext, id: VolumeId, nonce: Nonce) {
    let (own, noted) = (reader_key(engine.host.id), CatalogEntry::of(nonce.0));
    if let Err(error) = pins::readers(&engine.pool, id).remove(&own, noted).await {
        tracing::info!(volume = %id, %error, "other hosts take the volume to be open here still");
    }
}
