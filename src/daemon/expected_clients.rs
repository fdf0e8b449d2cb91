//! Clients that hold a volume in another daemon of this state folder, and are about to go on in this one.
//!
//! They are known before any command is let in, and before the first of them is served: each is served once its volume is
//! open here, which may take as long as stores are away. Until then nobody gets that volume alone. Where one client alone may
//! write (`clients=one`), such a client that has written is the writer already: another one's write may come first. An
//! expected client that does not ask for its volume any more is forgotten after a while, since nothing else tells that it has
//! gone.

use std::time::Duration;

use parking_lot::Mutex;

use super::volume_uses::VolumeKey;
use windlass_base::PoolId;
use windlass_base::rt::{Instant, Rt};

/// Longest time for which a client is expected that does not ask for its volume: one that waits for stores asks every
/// second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client as the daemon before tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    pub of: VolumeKey,
    /// Name that tells the client from others: its address or its process.
    pub name: String,
    /// Is true if the client has written to the volume.
    pub writes: bool,
}

#[derive(Debug)]
struct Waits {
    client: Expected,
    /// Is true while the client's volume is being opened for it.
    is_opening: bool,
    /// Time until which the client is expected. None if nobody has served it yet, or its volume is being opened.
    until: Option<Instant>,
}

/// Clients of another daemon that are about to go on in this one. See the module.
#[derive(Debug)]
pub struct ExpectedClients {
    rt: Rt,
    all: Mutex<Vec<Waits>>,
}

impl ExpectedClients {
    pub fn new(rt: Rt) -> ExpectedClients {
        ExpectedClients { rt, all: Mutex::default() }
    }

    /// Notes all clients that are to be expected. Called before a command is let in.
    pub fn expect(&self, clients: impl IntoIterator<Item = Expected>) {
        let waits = |client| Waits { client, is_opening: false, until: None };
        *self.all.lock() = clients.into_iter().map(waits).collect();
    }

    /// Notes that the clients are served from now on, and so ask for their volumes: each has `PATIENCE` for that.
    pub fn are_served(&self) {
        let until = Some(self.rt.now() + PATIENCE);
        self.all.lock().iter_mut().filter(|waits| !waits.is_opening).for_each(|waits| waits.until = until);
    }

    /// Tells whether no client is expected.
    pub fn is_empty(&self) -> bool {
        self.all.lock().is_empty()
    }

    /// Returns a client that is to go on with the volume.
    pub fn one(&self, of: VolumeKey) -> Option<String> {
        self.find(|client| client.of == of)
    }

    /// Returns a client that is to go on with a volume of this pool; of any pool, where the pool is not known.
    pub fn one_in(&self, pool: Option<PoolId>) -> Option<String> {
        self.find(|client| pool.is_none_or(|pool| client.of.0 == pool))
    }

    /// Returns another client than this one that is expected to go on as a writer of the volume.
    pub fn other_writer(&self, of: VolumeKey, name: &str) -> Option<String> {
        self.find(|client| client.of == of && client.writes && client.name != name)
    }

    fn find(&self, is_it: impl Fn(&Expected) -> bool) -> Option<String> {
        let mut all = self.all.lock();
        if all.is_empty() {
            return None;
        }
        let now = self.rt.now();
        all.retain(|waits| waits.until.is_none_or(|until| now < until));
        all.iter().find(|waits| is_it(&waits.client)).map(|waits| waits.client.name.clone())
    }

    /// Notes that the volume is being opened for this client. The client stays expected meanwhile, and after that too
    /// unless `Arriving::ends` is called.
    pub fn arrives(&self, client: Expected) -> Arriving<'_> {
        self.first(&client, false, |all, at| (all[at].is_opening, all[at].until) = (true, None));
        Arriving { among: self, client }
    }

    /// Makes a change at the first entry of this client: several connections of one client have equal entries, and
    /// any of them will do.
    fn first(&self, client: &Expected, is_opening: bool, change: impl FnOnce(&mut Vec<Waits>, usize)) {
        let mut all = self.all.lock();
        let is_it = |waits: &Waits| waits.client == *client && waits.is_opening == is_opening;
        if let Some(at) = all.iter().position(is_it) {
            change(&mut all, at);
        }
    }
}

/// An expected client whose volume is being opened.
#[derive(Debug)]
pub struct Arriving<'a> {
    among: &'a ExpectedClients,
    client: Expected,
}

impl Arriving<'_> {
    /// Ends the expectation: the client is counted among those who use the volume by now, or does not go on.
    pub fn ends(self) {
        self.among.first(&self.client, true, |all, at| drop(all.swap_remove(at)));
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let until = Some(self.among.rt.now() + PATIENCE);
        self.among.first(&self.client, true, |all, at| (all[at].is_opening, all[at].until) = (false, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::VolumeId;
    use windlass_base::rt::sim::Sim;

    #[test]
    fn a_client_is_expected_until_it_is_counted_or_asks_no_more() {
        let sim = Sim::new(1);
        let rt = sim.rt();
        let scenario = async move {
            let (of, expected) = ((PoolId(1), VolumeId(2)), ExpectedClients::new(rt.clone()));
            let client = |name: &str, writes| Expected { of, name: name.to_owned(), writes };
            let is_there = || expected.one(of).is_some();
            expected.expect([client("a", true), client("b", false)]);
            rt.sleep(10 * PATIENCE).await;
            assert!(is_there(), "nobody has served it yet");
            assert_eq!(expected.other_writer(of, "b").as_deref(), Some("a"));
            assert_eq!(
                (expected.other_writer(of, "a"), expected.one((PoolId(1), VolumeId(3)))),
                (None, None)
            );
            let in_pool = |id| expected.one_in(id).is_some();
            assert_eq!([Some(PoolId(1)), None, Some(PoolId(2))].map(in_pool), [true, true, false]);
            expected.are_served();
            let opening = expected.arrives(client("a", true));
            rt.sleep(2 * PATIENCE).await;
            assert!(expected.one(of).as_deref() == Some("a"), "the other one has not asked");
            drop(opening);
            rt.sleep(PATIENCE / 2).await;
            assert!(is_there(), "it may ask again");
            let opening = expected.arrives(client("a", true));
            expected.are_served();
            opening.ends();
            assert!(!is_there());
            expected.expect([client("a", true)]);
            expected.are_served();
            rt.sleep(PATIENCE).await;
            assert!(!is_there() && expected.is_empty());
        };
        sim.run(scenario).unwrap_or_else(|stall| panic!("{stall}"));
    }
}
