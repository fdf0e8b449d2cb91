//! What a volume must show, told only what its users saw.
//!
//! The volume's sectors are shared out to lanes. In each lane one user writes one operation after another, so a lane's
//! history is a line and a volume's state is a number of operations in each lane: a *cut*. What a successor shows must
//! be a cut of what its predecessor took in: whole operations, none without those that were acknowledged before it
//! began, and at least what was promised. After a crash the first operation that is not there may be torn, between
//! blocks. Each operation writes a tag of its own into all its sectors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use windlass_base::rt::Instant;

use super::shared_session::Shared;

pub const SECTOR: u64 = 512;
/// Sectors that are written together or not at all.
const BLOCK: u64 = 8;
/// Contents of a sector: the number of the operation that wrote it, 0 for zeros.
pub type Tag = u32;
pub type Tags = Vec<Tag>;

/// Returns the word that fills a sector.
fn word(tag: Tag, sector: u64) -> [u8; 8] {
    (if tag == 0 { 0 } else { u64::from(tag) << 32 | (sector & 0xffff_ffff) }).to_le_bytes()
}

/// Reads whole sectors back, from `first` on. Anything that no operation can have written is a failure.
pub fn tags(first: u64, bytes: &[u8]) -> Tags {
    assert_eq!(bytes.len() as u64 % SECTOR, 0);
    let one = |(at, sector): (usize, &[u8])| {
        let number = first + at as u64;
        let head: [u8; 8] = sector[..8].try_into().unwrap();
        let tag = (u64::from_le_bytes(head) >> 32) as Tag;
        let whole = head == word(tag, number) && sector[8..] == sector[..SECTOR as usize - 8];
        assert!(whole, "sector {number} holds bytes that nobody wrote there: {:x?}", &sector[..16]);
        tag
    };
    bytes.chunks_exact(SECTOR as usize).enumerate().map(one).collect()
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub sectors: Range<u64>,
    /// Tag of the operation; 0 stands for zeros.
    pub tag: Tag,
    begun: u64,
    ended: Option<(u64, Instant)>,
}

/// A part of the volume, and the operations on it since the session began.
#[derive(Clone, Debug)]
pub struct Lane {
    sectors: Range<u64>,
    /// The host that writes to it, where hosts have the volume in turn.
    pub writer: usize,
    ops: Vec<Operation>,
}

impl Lane {
    pub fn ended(&self) -> usize {
        self.ops.iter().take_while(|op| op.ended.is_some()).count()
    }

    /// Lets the operations under way be done later: others may have come and gone meanwhile.
    pub fn may_come_later(&mut self) {
        self.ops.iter_mut().filter(|op| op.ended.is_none()).for_each(|op| op.begun = 0);
    }

    /// Returns the lane's sectors after `n` operations.
    fn state(&self, base: &[Tag], n: usize) -> Tags {
        let start = self.sectors.start;
        let mut state = base[start as usize..self.sectors.end as usize].to_vec();
        for op in &self.ops[..n] {
            state[(op.sectors.start - start) as usize..(op.sectors.end - start) as usize].fill(op.tag);
        }
        state
    }

    /// Returns the numbers of operations in `range` after which the lane's sectors are `seen`.
    fn matches(&self, base: &[Tag], seen: &[Tag], range: Range<usize>) -> Vec<usize> {
        let start = self.sectors.start as usize;
        let seen = &seen[start..self.sectors.end as usize];
        let mut state = self.state(base, range.start);
        let mut wrong = state.iter().zip(seen).filter(|(a, b)| a != b).count();
        let mut found = Vec::new();
        for n in range.clone() {
            if wrong == 0 {
                found.push(n);
            }
            let Some(op) = self.ops.get(n) else { break };
            for at in op.sectors.start as usize - start..op.sectors.end as usize - start {
                wrong -= usize::from(state[at] != seen[at]);
                state[at] = op.tag;
                wrong += usize::from(state[at] != seen[at]);
            }
        }
        found
    }

    /// Returns the operation of which only the first blocks are there, and its sectors that are. A write is
    /// torn between blocks, never within one.
    fn torn(&self, base: &[Tag], seen: &[Tag], range: Range<usize>) -> Option<(usize, Range<u64>)> {
        let seen = &seen[self.sectors.start as usize..self.sectors.end as usize];
        for n in range {
            let (mut state, op) = (self.state(base, n), self.ops.get(n)?);
            for sector in op.sectors.clone() {
                if sector > op.sectors.start && sector.is_multiple_of(BLOCK) && state == seen {
                    return Some((n, op.sectors.start..sector));
                }
                state[(sector - self.sectors.start) as usize] = op.tag;
            }
        }
        None
    }
}

/// A number of operations in each lane.
pub type Cut = Vec<usize>;

/// Operations of a session that a look shows: so many in each lane, and the first blocks of the next.
pub struct Shown {
    cut: Cut,
    torn: Vec<Option<Range<u64>>>,
}

/// One owner's time with the volume, from the first look that its user had.
#[derive(Debug)]
pub struct Session {
    pub number: usize,
    pub host: usize,
    base: Tags,
    pub lanes: Vec<Lane>,
    /// Operations promised against a crash of this host; `pool`: also against its loss.
    local: Cut,
    pub pool: Cut,
    /// Operations acknowledged to clients that live on, while their host's power lasts.
    kept: Cut,
    /// The owner's process was killed. A later kill on its host took nothing more of the session.
    ended_by_kill: bool,
    /// The cut that the successor showed of this session.
    cut: Option<Cut>,
    released: bool,
    /// Time when the owner was first hindered: its process was killed or frozen, or another host began to
    /// take over by force.
    disturbed: Option<Instant>,
    /// Another host has begun to take the volume over, and nobody has looked since.
    contested: bool,
    /// The session's own host has begun to take it over by force after it was contested. A later process of
    /// this host may be the owner by that.
    forced: bool,
    /// Promises of hosts that have the volume in turn; `None`: the volume is this host's alone.
    pub shared: Option<Shared>,
}

/// A snapshot as its maker knows it.
#[derive(Debug)]
pub struct Snapshot {
    pub session: Arc<Mutex<Session>>,
    /// Operations that the snapshot must hold at least; `most`: and at most.
    pub least: Cut,
    pub most: Option<Cut>,
    /// Promised to survive the loss of the host.
    pub promised: bool,
    /// Contents as they were first seen.
    content: Option<Tags>,
    /// The snapshot was removed.
    gone: bool,
}

/// The whole knowledge that users have of one volume.
#[derive(Debug)]
pub struct Model {
    clock: u64,
    tag: Tag,
    numbers: usize,
    current: Arc<Mutex<Session>>,
    pub snapshots: BTreeMap<String, Snapshot>,
}

/// A new owner, and what it must show of the last session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coming {
    pub host: usize,
    /// Number of the place where the host is.
    pub at: usize,
    /// The owner took over by force.
    pub force: bool,
    /// Age in ms from which operations must have reached the pool, if stores were well all the time.
    pub tail_ms: Option<u64>,
    /// The owner was told to give up what can't be decided: then nothing is promised but the order.
    pub guess: bool,
    pub now: Instant,
}

impl Model {
    /// Makes the model of a new volume. `shared`: so many hosts have the volume in turn, of so many that may
    /// look at it.
    pub fn new(lanes: &[Range<u64>], shared: Option<(usize, usize)>) -> Model {
        let writer = |lane| shared.map_or(0, |(hosts, _)| Shared::writer(lane, hosts));
        let lane =
            |(at, l): (usize, &Range<u64>)| Lane { sectors: l.clone(), writer: writer(at), ops: Vec::new() };
        let lanes: Vec<_> = lanes.iter().enumerate().map(lane).collect();
        let sectors = lanes.iter().map(|l| l.sectors.end).max().unwrap();
        // A new volume is born released.
        let shared = shared.map(|(_, all)| Shared::new(all, lanes.len()));
        let first = Session { shared, ..session(usize::MAX, vec![0; sectors as usize], lanes, true) };
        Model {
            clock: 0,
            tag: 0,
            numbers: 0,
            current: Arc::new(Mutex::new(first)),
            snapshots: BTreeMap::new(),
        }
    }

    pub fn current(&self) -> Arc<Mutex<Session>> {
        self.current.clone()
    }

    pub fn fresh_tag(&mut self) -> Tag {
        self.tag += 1;
        self.tag
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn begin(&mut self, session: &Mutex<Session>, lane: usize, sectors: Range<u64>, tag: Tag) {
        let begun = self.tick();
        session.lock().lanes[lane].ops.push(Operation { sectors, tag, begun, ended: None });
    }

    pub fn end(&mut self, session: &Mutex<Session>, lane: usize, now: Instant) {
        let at = self.tick();
        session.lock().lanes[lane].ops.last_mut().unwrap().ended = Some((at, now));
    }

    /// Promises everything of a session that was released, before anyone could look.
    pub fn released(&self, session: &Mutex<Session>) {
        let mut session = session.lock();
        let all = session.lanes.iter().map(|l| l.ops.len()).collect();
        assert_eq!(session.ended(), all, "a release comes after all operations");
        session.promise(&all, true);
        session.released = true;
    }

    /// Records that a new owner's user has looked at everything, and begins the next session.
    pub fn observe(&mut self, seen: Tags, coming: Coming) -> Arc<Mutex<Session>> {
        let now = self.tick();
        let next = {
            let mut last = self.current.lock();
            let shown = last.successor(&seen, coming);
            last.cut = (!coming.guess).then(|| shown.cut.clone());
            match coming.host == last.host {
                _ if last.shared.is_some() => last.goes_on_shared(&shown, (now, coming.now), &coming),
                // What was replayed may still be on this host only.
                true => last.goes_on(&shown, (now, coming.now)),
                false => {
                    let empty =
                        |l: &Lane| Lane { sectors: l.sectors.clone(), writer: l.writer, ops: Vec::new() };
                    session(coming.host, seen, last.lanes.iter().map(empty).collect(), false)
                }
            }
        };
        if coming.guess {
            self.snapshots.values_mut().for_each(|s| s.promised = false);
        }
        self.numbers += 1;
        self.current = Arc::new(Mutex::new(Session { number: self.numbers, ..next }));
        self.current.clone()
    }

    pub fn snapshot_begins(&mut self, name: &str, of: &Arc<Mutex<Session>>) {
        let least = of.lock().ended();
        let new =
            Snapshot { session: of.clone(), least, most: None, promised: false, content: None, gone: false };
        self.snapshots.insert(name.to_owned(), new);
    }

    /// Records that a snapshot was made; `waited`: the command also waited for the pool.
    pub fn snapshot_made(&mut self, name: &str, waited: bool) {
        let snapshot = self.snapshots.get_mut(name).unwrap();
        let mut session = snapshot.session.lock();
        snapshot.most = Some(session.begun());
        let least = snapshot.least.clone();
        session.promise(&least, waited);
        drop(session);
        snapshot.promised |= waited && !snapshot.gone;
    }

    /// Records that somebody begins to remove the snapshot.
    pub fn snapshot_goes(&mut self, name: &str) {
        self.snapshots.get_mut(name).unwrap().promised = false;
    }

    /// Records that the snapshot is removed, whether or not its maker knew already that it was made.
    pub fn snapshot_is_gone(&mut self, name: &str) {
        let snapshot = self.snapshots.get_mut(name).unwrap();
        (snapshot.promised, snapshot.gone) = (false, true);
    }

    /// Tells whether the snapshot was removed; then it must never be seen again.
    pub fn snapshot_gone(&self, name: &str) -> bool {
        self.snapshots.get(name).is_some_and(|s| s.gone)
    }

    /// Picks a snapshot whose contents are known.
    pub fn some_snapshot(&self, below: impl Fn(u64) -> u64) -> Option<(String, Tags)> {
        let known: Vec<_> =
            self.snapshots.iter().filter_map(|(n, s)| Some((n, s.content.as_ref()?))).collect();
        let at = below(known.len().max(1) as u64) as usize;
        known.get(at).map(|(name, content)| ((*name).clone(), (*content).clone()))
    }

    /// Returns all snapshots that there may be, and whether each must be there.
    pub fn snapshots_promised(&self) -> Vec<(String, bool)> {
        self.snapshots.iter().map(|(name, s)| (name.clone(), s.promised)).collect()
    }

    /// Checks what somebody read of a whole snapshot.
    pub fn snapshot_seen(&mut self, name: &str, seen: Tags) {
        let snapshot = self.snapshots.get_mut(name).unwrap_or_else(|| panic!("nobody made snapshot {name}"));
        match &snapshot.content {
            Some(content) => assert!(*content == seen, "snapshot {name} has changed"),
            None => {
                let session = snapshot.session.lock();
                let most = snapshot.most.clone().unwrap_or_else(|| session.begun());
                session.cut_of(&seen, &snapshot.least, &most, false).unwrap_or_else(|why| {
                    panic!("snapshot {name} is no state that the volume ever had: {why}")
                });
                drop(session);
                snapshot.content = Some(seen);
            }
        }
    }
}

fn session(host: usize, base: Tags, lanes: Vec<Lane>, released: bool) -> Session {
    let nothing = vec![0; lanes.len()];
    Session {
        number: 0,
        host,
        base,
        lanes,
        local: nothing.clone(),
        kept: nothing.clone(),
        ended_by_kill: false,
        pool: nothing,
        cut: None,
        released,
        disturbed: None,
        contested: false,
        forced: false,
        shared: None,
    }
}

impl Session {
    /// Returns the same host's next session, which has shown this much. It must not lose that again.
    pub fn goes_on(&self, Shown { cut, torn }: &Shown, seen: (u64, Instant)) -> Session {
        let lane = |((lane, n), torn): ((&Lane, &usize), &Option<Range<u64>>)| {
            let again = |op: &Operation| {
                let ended = op.ended.map_or(seen.0, |(at, _)| at);
                Operation { ended: Some((ended, seen.1)), ..op.clone() }
            };
            let mut ops: Vec<Operation> = lane.ops[..*n].iter().map(again).collect();
            ops.extend(
                torn.iter().map(|part| again(&Operation { sectors: part.clone(), ..lane.ops[*n].clone() })),
            );
            Lane { sectors: lane.sectors.clone(), writer: lane.writer, ops }
        };
        let lanes: Vec<Lane> = self.lanes.iter().zip(cut).zip(torn).map(lane).collect();
        let local = lanes.iter().map(|l| l.ops.len()).collect();
        let next = session(self.host, self.base.clone(), lanes, false);
        Session { local, pool: self.pool.clone(), ..next }
    }

    /// Returns the operations acknowledged so far.
    pub fn ended(&self) -> Cut {
        self.lanes.iter().map(Lane::ended).collect()
    }

    pub fn begun(&self) -> Cut {
        self.lanes.iter().map(|l| l.ops.len()).collect()
    }

    /// Records that a host begins to open the volume.
    pub fn tried_by(&mut self, host: usize) {
        self.contested |= self.host != host;
    }

    /// Records that a host begins to take the volume over by force.
    pub fn forced_by(&mut self, host: usize) {
        self.forced |= self.contested && self.host == host;
    }

    /// Records that the owner's process was killed, while its clients live on. `power`: the host's power has
    /// failed, and the clients died with it.
    pub fn killed(&mut self, power: bool) {
        let first = !std::mem::replace(&mut self.ended_by_kill, true);
        if power {
            self.kept = vec![0; self.kept.len()];
        } else if first {
            self.kept = self.ended();
        }
    }

    /// Records that the owner may not get on with its work from now on.
    pub fn disturb(&mut self, now: Instant) {
        self.disturbed.get_or_insert(now);
    }

    /// Tells whether the owner was hindered, or somebody has tried to take the volume over.
    pub fn is_disturbed(&self) -> bool {
        self.disturbed.is_some()
    }

    /// Tells whether another host has the volume, as far as anyone knows.
    pub fn is_of_others(&self, host: usize) -> bool {
        self.host != host && !self.released
    }

    pub fn operations(&self) -> usize {
        self.lanes.iter().map(|l| l.ops.len()).sum()
    }

    /// Records that a flush has succeeded of operations that had ended when it began.
    pub fn promise(&mut self, upto: &Cut, pool: bool) {
        raise(&mut self.local, upto);
        if !pool {
            return;
        }
        raise(&mut self.pool, upto);
        if let Some(cut) = &self.cut {
            let within = upto.iter().zip(cut).all(|(n, end)| n <= end);
            let number = self.number;
            assert!(
                within,
                "session {number} acknowledged {upto:?} to the pool, but its successor began at {cut:?}"
            );
        }
    }

    /// Checks a read that began when `least` had ended and ended when `most` had begun.
    pub fn check_read(&self, first: u64, seen: &[Tag], least: &Cut, most: &Cut) {
        for (lane, (least, most)) in self.lanes.iter().zip(least.iter().zip(most)) {
            let before = lane.state(&self.base, *least);
            let during = &lane.ops[*least..*most];
            for sector in lane.sectors.start.max(first)..lane.sectors.end.min(first + seen.len() as u64) {
                let (tag, before) =
                    (seen[(sector - first) as usize], before[(sector - lane.sectors.start) as usize]);
                let fits =
                    tag == before || during.iter().any(|op| op.sectors.contains(&sector) && op.tag == tag);
                assert!(fits, "sector {sector} shows {tag}, but {before} was written last");
            }
        }
    }

    /// Returns the largest cut that is `seen`, if one keeps the order of what was acknowledged. `crashed`:
    /// operations that were not promised may be torn.
    fn cut_of(&self, seen: &[Tag], least: &Cut, most: &Cut, crashed: bool) -> Result<Shown, String> {
        let mut small = Cut::new();
        let mut large = Cut::new();
        let mut torn = Vec::new();
        for (at, lane) in self.lanes.iter().enumerate() {
            let mut found = lane.matches(&self.base, seen, 0..most[at] + 1);
            let part = match found.is_empty() && crashed {
                true => lane.torn(&self.base, seen, 0..most[at]),
                false => None,
            };
            found.extend(part.as_ref().map(|(n, _)| *n));
            torn.push(part.map(|(_, sectors)| sectors));
            let (Some(low), Some(high)) = (found.first(), found.last()) else {
                return Err(self.mismatch(at, seen));
            };
            if *high < least[at] {
                let n = lane.ops.len();
                return Err(format!("lane {at} shows {high} of {n} operations, {} were promised", least[at]));
            }
            small.push(*low);
            large.push(*high);
        }
        // Nothing is there without what was acknowledged before it began.
        let newest = self.lanes.iter().zip(&small).filter_map(|(lane, n)| Some(lane.ops[..*n].last()?.begun));
        let newest = newest.max().unwrap_or(0);
        for (at, (lane, n)) in self.lanes.iter().zip(&large).enumerate() {
            let missing = lane.ops.get(*n).and_then(|op| op.ended).filter(|(ended, _)| *ended < newest);
            if missing.is_some() {
                return Err(format!(
                    "lane {at} ends at {n}, but operations that began after its next are there"
                ));
            }
        }
        Ok(Shown { cut: large, torn })
    }

    /// Describes the state that comes closest, for whoever looks for the reason.
    fn mismatch(&self, lane: usize, seen: &[Tag]) -> String {
        let Lane { sectors, ops, .. } = &self.lanes[lane];
        let shown = &seen[sectors.start as usize..sectors.end as usize];
        let wrong = |n: usize| {
            let state = self.lanes[lane].state(&self.base, n);
            let differ = |(at, tag): (usize, &Tag)| {
                (shown[at] != *tag).then(|| (sectors.start + at as u64, shown[at], *tag))
            };
            state.iter().enumerate().filter_map(differ).collect::<Vec<_>>()
        };
        let best = (0..ops.len() + 1).min_by_key(|n| wrong(*n).len()).unwrap_or(0);
        let mut first = wrong(best);
        let n = first.len();
        first.truncate(8);
        let block = first.first().map_or(0, |(sector, ..)| sector / 8 * 8);
        let near = |op: &&Operation| op.sectors.start < block + 8 && block < op.sectors.end;
        let near: Vec<_> = ops.iter().filter(near).map(|op| (op.tag, op.sectors.clone())).collect();
        format!(
            "lane {lane} is no state after any of its {} operations; that after {best} comes closest, with {n} sectors \
             (number, tag seen, tag written) wrong: {first:?}; on that block {near:?}",
            ops.len()
        )
    }

    fn successor(&mut self, seen: &[Tag], coming: Coming) -> Shown {
        let mut least = if coming.guess { vec![0; self.pool.len()] } else { self.pool.clone() };
        // Another host's record may have come between, unseen: then the journal is set aside.
        let set_aside = self.forced || (coming.force && self.contested);
        match &self.shared {
            _ if coming.guess => {}
            Some(shared) => raise(&mut least, &self.kept_by_hosts(shared)),
            None if coming.host == self.host && !set_aside => {
                raise(&mut least, &self.local);
                raise(&mut least, &self.kept);
            }
            None => {}
        }
        if let (Some(tail), Some(at), false) = (coming.tail_ms, self.disturbed, coming.guess) {
            raise(&mut least, &self.older_than(at, tail));
        }
        let (number, host) = (self.number, self.host);
        self.cut_of(seen, &least, &self.begun(), !self.released).unwrap_or_else(|why| {
            let Session { local, pool, released, contested, .. } = self;
            panic!(
                "{coming:?} came after session {number} of host {host} (promised {local:?} here and {pool:?} in the pool, \
                 released {released}, contested {contested}): {why}"
            )
        })
    }

    fn older_than(&self, end: Instant, tail_ms: u64) -> Cut {
        let old =
            |op: &&Operation| op.ended.is_some_and(|(_, at)| end.since(at).as_millis() as u64 >= tail_ms);
        self.lanes.iter().map(|l| l.ops.iter().take_while(old).count()).collect()
    }
}

pub fn raise(cut: &mut Cut, to: &Cut) {
    for (have, want) in cut.iter_mut().zip(to) {
        *have = (*have).max(*want);
    }
}

/// Returns the bytes that write one tag into these sectors.
pub fn written(sectors: &Range<u64>, tag: Tag) -> Bytes {
    let mut out = Vec::with_capacity(((sectors.end - sectors.start) * SECTOR) as usize);
    sectors.clone().for_each(|s| out.extend_from_slice(&word(tag, s).repeat(SECTOR as usize / 8)));
    out.into()
}
