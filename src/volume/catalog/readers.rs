//! Hosts that have a volume open for clients and do not own it: nobody removes what they read (protocol.md §4.11, by the steps of
//! model `pin`).
//!
//! A reader is a pin on the volume itself, in a catalog beside those of its snapshots: key = the host's id, value = a number drawn
//! for this opening. It counts when the head, looked at after it was made, shows the volume and no gate on it. Who removes the
//! volume puts a gate into the head, and then looks for readers.
//!
//! A host that is cut off leaves its note. The same host's own is none of its business; another's is dropped by whoever says
//! that the host is gone, as `volume take-over` does.

use std::time::Duration;

use super::gates::wait_at;
use super::volumes::Volumes;
use crate::base::{Error, HostId, Kind, Name, Nonce, Result, VolumeId};
use crate::pool::{Catalog, CatalogEntry};
use crate::volume::handle::{Known, Volume};
use crate::volume::head::{Head, READERS};
use crate::volume::space::pins;

/// How often a volume whose removal seems to be under way is looked at again.
const LOOKS: usize = 60;
/// A client waits so long for its note to be made. A host whose keys can only read makes none.
const NOTED_WITHIN: Duration = Duration::from_secs(2);
/// Hosts that a refusal names.
const NAMED_MAX: usize = 8;

/// As long as it lasts, other hosts know that the volume is open here.
#[derive(Debug)]
pub struct Reading {
    of: Volumes,
    id: VolumeId,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (of, id) = (self.of.clone(), self.id);
        let rt = of.engine.rt.clone();
        rt.spawn(async move { of.end_reading(id).await }).detach();
    }
}

fn key(host: HostId) -> [u8; 16] {
    host.0.to_le_bytes()
}

impl Volumes {
    fn readers_of(&self, id: VolumeId) -> Catalog {
        pins::readers(&self.engine.pool, id)
    }

    /// Notes that a client here uses the volume, unless this host owns it, which says enough. None where that can't be done in
    /// time, as by a host whose keys can only read: its clients read on, and nobody who removes the volume hears of them.
    /// `Removed`: it is gone.
    pub async fn read_by_client(&self, name: &Name, volume: &Volume) -> Result<Option<Reading>> {
        if let Known::Live(_) = volume.known() {
            return Ok(None);
        }
        let (of, title, id) = (self.clone(), name.clone(), volume.id());
        // A task of its own: cut off midway it would leave a note that nobody knows of.
        let noting = self.engine.rt.spawn(async move { of.note_reader(&title, id).await });
        match self.engine.rt.timeout(NOTED_WITHIN, noting).await {
            Some(noted) => Ok(Some(noted??)),
            None => {
                tracing::warn!(volume = %name, "it can't be noted here that clients read this volume: other hosts may remove it");
                Ok(None)
            }
        }
    }

    async fn note_reader(&self, name: &Name, id: VolumeId) -> Result<Reading> {
        let noted = self.readers.of(id);
        let mut noted = noted.lock().await;
        let (nonce, count) = match *noted {
            Some((nonce, count)) => (nonce, count + 1),
            None => (self.begin_reading(name, id).await?, 1),
        };
        *noted = Some((nonce, count));
        Ok(Reading { of: self.clone(), id })
    }

    async fn begin_reading(&self, name: &Name, id: VolumeId) -> Result<Nonce> {
        let (nonce, key, readers) =
            (Nonce(self.engine.rt.random128()), key(self.engine.host.id), self.readers_of(id));
        let new = CatalogEntry::of(nonce.0);
        let has = readers.insert(&key, new).await?;
        if has != new {
            // An earlier run of this host.
            readers.insert_over(&key, new, Some(has)).await?;
        }
        match self.look_after_entering(name, id).await {
            Ok(()) => Ok(nonce),
            Err(error) => {
                if let Err(also) = readers.remove(&key, new).await {
                    tracing::debug!(volume = %name, error = %also, "a note that the volume is read here stays");
                }
                Err(error)
            }
        }
    }

    async fn look_after_entering(&self, name: &Name, id: VolumeId) -> Result<()> {
        let (cell, mut met) = (self.engine.cell(id), None);
        for _ in 0..LOOKS {
            let mut head = self.existing(name, cell.read().await?)?;
            if !head.cloned.has(READERS) {
                head = cell.change(|head| head.set_cloned(READERS)).await?;
            }
            match head.gate.filter(|gate| gate.snapshot.is_none()) {
                None => return Ok(()),
                Some(gate) => wait_at(&self.engine, id, gate.nonce, &mut met).await?,
            }
        }
        let why = format!("volume {} is being removed: try again", self.engine.title(name));
        Err(Error::new(Kind::Unavailable, why))
    }

    async fn end_reading(&self, id: VolumeId) {
        let noted = self.readers.of(id);
        let mut noted = noted.lock().await;
        match noted.take() {
            Some((nonce, count)) if count > 1 => *noted = Some((nonce, count - 1)),
            Some((nonce, _)) => self.forget_reader(id, nonce).await,
            None => {}
        }
    }

    async fn forget_reader(&self, id: VolumeId, nonce: Nonce) {
        let own = key(self.engine.host.id);
        if let Err(error) = self.readers_of(id).remove(&own, CatalogEntry::of(nonce.0)).await {
            tracing::info!(volume = %id, %error, "other hosts take the volume to be open here still");
        }
    }

    /// Of an engine that ends: all that it has noted goes.
    pub async fn forget_readers(&self) {
        for (id, noted) in self.readers.all() {
            if let Some((nonce, _)) = noted.lock().await.take() {
                self.forget_reader(id, nonce).await;
            }
        }
    }

    /// Drops notes: that of an earlier run of this host, where no client uses the volume here, and with `others` those of all
    /// other hosts, of which the caller says that they are gone.
    pub async fn drop_readers(&self, name: &Name, others: bool) -> Result<()> {
        let id = self.id(name).await?;
        let Some(head) = self.engine.cell(id).read().await? else { return Ok(()) };
        if !head.cloned.has(READERS) {
            return Ok(());
        }
        let noted = self.readers.of(id);
        let noted = noted.lock().await;
        let (own, readers) = (key(self.engine.host.id), self.readers_of(id));
        for (host, entry) in readers.all().await? {
            let drops = if host[..] == own { noted.is_none() } else { others };
            if drops {
                readers.remove(&host, entry).await?;
            }
        }
        Ok(())
    }

    /// What a removal would refuse, where another host has the volume open.
    pub async fn check_unread(&self, name: &Name) -> Result<()> {
        let id = self.id(name).await?;
        let head = self.head(name, id).await?;
        refuse_if_read(self, name, &head).await
    }
}

/// `Owned`, by the hosts' ids, while another host has the volume open. Whoever removes it asks behind a gate.
pub(in crate::volume) async fn refuse_if_read(of: &Volumes, name: &Name, head: &Head) -> Result<()> {
    if !head.cloned.has(READERS) {
        return Ok(());
    }
    let own = key(of.engine.host.id);
    let all = of.readers_of(head.volume).all().await?;
    let mut hosts: Vec<String> =
        all.into_keys().filter(|host| host[..] != own).map(|host| shown(&host)).collect();
    if hosts.is_empty() {
        return Ok(());
    }
    let more = hosts.len().saturating_sub(NAMED_MAX);
    hosts.truncate(NAMED_MAX);
    if more > 0 {
        hosts.push(format!("{more} more"));
    }
    let title = of.engine.title(name);
    let why = format!(
        "volume {title} is open on other hosts: {}; disconnect its clients there first. Where a host is gone, `windlass volume \
         take-over {title}` says so",
        hosts.join(", ")
    );
    Err(Error::new(Kind::Owned, why))
}

fn shown(host: &[u8]) -> String {
    match <[u8; 16]>::try_from(host) {
        Ok(bytes) => format!("host id {}", &HostId(u128::from_le_bytes(bytes)).to_string()[..8]),
        Err(_) => "an unknown host".to_owned(),
    }
}
