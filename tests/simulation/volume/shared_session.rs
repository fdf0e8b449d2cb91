//! What is promised of a session that several hosts have in turn, as they ask each other for the volume.
//!
//! Such a session goes on across hand-overs: nothing is lost by one, and each read shows what was acknowledged before it
//! began, whichever host that was. It ends when something may be lost: a host dies, or takes the volume by force. Each lane is
//! one host's, so that a lane's history is a line all the same.

use std::sync::Arc;

use windlass_base::rt::Instant;

use super::model::{Coming, Cut, Lane, Model, Session, Shown, Snapshot, raise};

/// Promises of the hosts that share a session.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Operations promised by each host against a crash of its own.
    local: Vec<Cut>,
    /// Hosts whose acknowledged operations may be lost, but for the promised ones.
    shaken: Vec<bool>,
}

impl Shared {
    pub fn new(hosts: usize, lanes: usize) -> Shared {
        Shared { local: vec![vec![0; lanes]; hosts], shaken: vec![false; hosts] }
    }

    /// Returns the host that writes to a lane, of so many hosts that write.
    pub fn writer(lane: usize, hosts: usize) -> usize {
        lane % hosts
    }
}

impl Session {
    /// Returns the cut that the next look must show at least, beside what the pool was promised.
    pub fn kept_by_hosts(&self, shared: &Shared) -> Cut {
        let mut least = vec![0; self.lanes.len()];
        shared.local.iter().for_each(|local| raise(&mut least, local));
        // A host that is well has all that it acknowledged, or it is in the pool.
        let well = |writer: usize| !shared.shaken[writer];
        let kept = self.lanes.iter().map(|lane| if well(lane.writer) { lane.ended() } else { 0 });
        raise(&mut least, &kept.collect());
        least
    }

    /// Returns what other hosts had acknowledged by now. When this host's next operation is done, it has the
    /// volume, and all of this is in the pool.
    pub fn of_others(&self, host: usize) -> Cut {
        self.lanes.iter().map(|lane| if lane.writer == host { 0 } else { lane.ended() }).collect()
    }

    /// Returns what this host had acknowledged by now.
    pub fn of_host(&self, host: usize) -> Cut {
        self.lanes.iter().map(|lane| if lane.writer == host { lane.ended() } else { 0 }).collect()
    }

    /// Records that a flush of this host has succeeded, which means its own disk.
    pub fn promise_here(&mut self, host: usize, upto: &Cut) {
        if let Some(shared) = &mut self.shared {
            raise(&mut shared.local[host], upto);
        }
    }

    pub fn is_shaken(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.shaken.iter().any(|shaken| *shaken))
    }

    /// Records that a host's process has ended. What others have under way may be done after that, on what is
    /// left by then.
    pub fn crashed(&mut self, host: usize, now: Instant) {
        let Some(shared) = &mut self.shared else { return };
        shared.shaken[host] = true;
        self.lanes.iter_mut().filter(|lane| lane.writer != host).for_each(Lane::may_come_later);
        self.disturb(now);
    }

    /// Records that this host begins to take the volume from its owner.
    pub fn taken_by(&mut self, host: usize, now: Instant) {
        let Some(shared) = &mut self.shared else { return };
        for other in (0..shared.local.len()).filter(|other| *other != host) {
            shared.local[other].fill(0);
            shared.shaken[other] = true;
        }
        self.disturb(now);
    }

    /// Records that a host's disk is gone.
    pub fn disk_lost(&mut self, host: usize) {
        if let Some(shared) = &mut self.shared {
            shared.local[host].fill(0);
        }
    }

    /// Returns the session after a look by this host, which has the volume.
    pub fn goes_on_shared(&self, shown: &Shown, seen: (u64, Instant), coming: &Coming) -> Session {
        let Some(shared) = &self.shared else { unreachable!("the session is not shared") };
        let mut next = self.goes_on(shown, seen);
        let all = next.begun();
        let others = next.of_others(coming.at);
        raise(&mut next.pool, &others);
        lower(&mut next.pool, &all);
        let mut now = Shared { shaken: vec![false; shared.shaken.len()], ..shared.clone() };
        if shared.shaken[coming.at] {
            // It has replayed its journal.
            now.local[coming.at].clone_from(&all);
        }
        now.local.iter_mut().for_each(|local| lower(local, &all));
        next.shared = Some(now);
        next.host = coming.host;
        next
    }
}

fn lower(cut: &mut Cut, to: &Cut) {
    for (have, most) in cut.iter_mut().zip(to) {
        *have = (*have).min(*most);
    }
}

impl Model {
    /// Records a crash, as `Session::crashed` does. It is not known either what a snapshot that is being made
    /// will hold.
    pub fn crashed(&mut self, host: usize, now: Instant) {
        let current = self.current();
        let is_open = |s: &&mut Snapshot| s.most.is_none() && Arc::ptr_eq(&s.session, &current);
        self.snapshots.values_mut().filter(is_open).for_each(|snapshot| snapshot.least.fill(0));
        current.lock().crashed(host, now);
    }
}
