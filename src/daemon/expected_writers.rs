//! Clients that have written to a volume in another daemon of this state folder, and are about to go on in this one.
//!
//! Where one client alone may write (`clients=one`), such a client is the writer before its volume is open here: clients are
//! served one by one, and another one's write may come first. An expected client that does not ask for its volume any more
//! is forgotten after a while, since nothing else tells that it has gone.

use std::time::Duration;

use parking_lot::Mutex;

use crate::base::rt::{Instant, Rt};
use crate::base::{PoolId, VolumeId};

/// How long a client is expected that does not ask for its volume: one that waits for stores asks every second.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Writer {
    of: (PoolId, VolumeId),
    /// What tells the client from others.
    name: String,
    /// None: the volume is being opened for it.
    until: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct ExpectedWriters {
    rt: Rt,
    all: Mutex<Vec<Writer>>,
}

impl ExpectedWriters {
    pub fn new(rt: Rt) -> ExpectedWriters {
        ExpectedWriters { rt, all: Mutex::default() }
    }

    /// All of them, before the first client is served.
    pub fn expect(&self, writers: impl IntoIterator<Item = (PoolId, VolumeId, String)>) {
        let until = Some(self.rt.now() + PATIENCE);
        let expected = |(pool, volume, name)| Writer { of: (pool, volume), name, until };
        *self.all.lock() = writers.into_iter().map(expected).collect();
    }

    /// Another client than this that is expected to go on as a writer of the volume.
    pub fn other(&self, of: (PoolId, VolumeId), name: &str) -> Option<String> {
        let mut all = self.all.lock();
        if all.is_empty() {
            return None;
        }
        let now = self.rt.now();
        all.retain(|writer| writer.until.is_none_or(|until| now < until));
        all.iter().find(|writer| writer.of == of && writer.name != name).map(|writer| writer.name.clone())
    }

    /// The volume is being opened for this client, which stays expected meanwhile; and after it, unless `Arriving::ends`.
    pub fn arrives(&self, of: (PoolId, VolumeId), name: &str) -> Arriving<'_> {
        self.first(of, name, true, |all, at| all[at].until = None);
        Arriving { among: self, of, name: name.to_owned() }
    }

    /// Of one client's connections any.
    fn first(
        &self,
        of: (PoolId, VolumeId),
        name: &str,
        waits: bool,
        change: impl FnOnce(&mut Vec<Writer>, usize),
    ) {
        let mut all = self.all.lock();
        let is_it =
            |writer: &Writer| writer.of == of && writer.name == name && writer.until.is_some() == waits;
        if let Some(at) = all.iter().position(is_it) {
            change(&mut all, at);
        }
    }
}

/// An expected client whose volume is being opened.
#[derive(Debug)]
pub struct Arriving<'a> {
    among: &'a ExpectedWriters,
    of: (PoolId, VolumeId),
    name: String,
}

impl Arriving<'_> {
    /// It is known as a writer by now, or does not go on.
    pub fn ends(self) {
        self.among.first(self.of, &self.name, false, |all, at| drop(all.swap_remove(at)));
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let until = Some(self.among.rt.now() + PATIENCE);
        self.among.first(self.of, &self.name, false, |all, at| all[at].until = until);
    }
}
