//! Hosts that have a volume open for clients and do not own it: nobody removes what they read (protocol.md §4.11, by the steps of
//! model `pin`).
//!
//! A reader is a pin on the volume itself, in a catalog beside those of its snapshots: key = the host's id, value = a number drawn
//! for this opening. It counts when the head, looked at after it was made, shows the volume and no gate on it. Who removes the
//! volume puts a gate into the head, and then looks for readers.
//!
//! A host that is cut off leaves its note. The same host's own is none of its business; another's is dropped by whoever says
//! that the host is gone, as `volume take-over` does.

use std::sync::atomic::Ordering;

use futures::future::BoxFuture;

use super::volumes::Volumes;
use crate::handle::{forget_reader, reader_key};
use crate::head::{HandoverPolicy, Head, READERS};
use crate::space::pins;
use windlass_base::{Error, HostId, Kind, Name, Result};

/// Hosts that a refusal names.
const NAMED_MAX: usize = 8;

impl Volumes {
    /// Removes all notes that this engine has made as a reader; for an engine that ends.
    pub fn forget_readers(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for (id, here) in self.engine.readers.all() {
                if let Some(nonce) = here.noted.lock().await.take() {
                    forget_reader(&self.engine, id, nonce).await;
                }
            }
        })
    }

    /// Drops the note of an earlier run of this host, where no client uses the volume here. With `others` it drops those of all
    /// other hosts, too: the caller says that they are gone.
    pub fn drop_readers<'f>(&'f self, name: &'f Name, others: bool) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let Some(head) = self.engine.cell(id).read().await? else { return Ok(()) };
            if !head.cloned.has(READERS) {
                return Ok(());
            }
            let here = self.engine.readers.of(id);
            let mut noted = here.noted.lock().await;
            let (own, readers) = (reader_key(self.engine.host.id), pins::readers(&self.engine.pool, id));
            let is_used = here.clients.load(Ordering::SeqCst) > 0;
            for (host, entry) in readers.all().await? {
                let is_own = host[..] == own;
                if if is_own { !is_used } else { others } {
                    readers.remove(&host, entry).await?;
                }
            }
            if !is_used {
                *noted = None;
            }
            Ok(())
        })
    }

    /// Checks that no other host has the volume open: its error is the one that a removal would give.
    pub fn check_unread<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let head = self.head(name, id).await?;
            refuse_if_read(self, name, &head).await
        })
    }

    /// Checks that a change of the volume happens under no client of another host. Only a volume that may be handed over is
    /// looked at: other hosts' clients have it attached, go on with whatever it is then, and may have flushed to it. A volume
    /// that is not there is attached nowhere.
    ///
    /// # Errors
    /// `Owned`: another host has clients of it.
    pub fn check_unattached<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move {
            let attached = async {
                let head = self.head(name, self.id(name).await?).await?;
                match head.settings.handover {
                    HandoverPolicy::Ask => refuse_if_read(self, name, &head).await,
                    HandoverPolicy::Never => Ok(()),
                }
            };
            match attached.await {
                Err(e) if e.is(Kind::NotFound) => Ok(()),
                checked => checked,
            }
        })
    }
}

/// Fails with `Owned`, which names the hosts' ids, while another host has the volume open. Whoever removes the volume calls
/// this behind a gate.
pub(crate) async fn refuse_if_read(of: &Volumes, name: &Name, head: &Head) -> Result<()> {
    if !head.cloned.has(READERS) {
        return Ok(());
    }
    let own = reader_key(of.engine.host.id);
    let all = pins::readers(&of.engine.pool, head.volume).all().await?;
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
