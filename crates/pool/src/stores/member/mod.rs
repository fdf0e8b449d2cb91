//! One store of a pool: may it be counted, is it well, and its verbs behind a breaker.
//!
//! Owns the standing of one store (protocol §1.7): a store whose label isn't the listed one is *out*, one whose label
//! can't be read is *down*. Both are known by label gets alone; a failed or slow request only makes the label be read.
//! While a store is out or down its verbs fail at once, and what is under way is given up (a put with unknown outcome);
//! a background task reads the label again, ever more seldom, until it is right.
//!
//! Invariants: nothing is put before a label get showed the listed incarnation since the store was last out or down;
//! `attest` answers only from a label get that began after the call. It never retries (the store's decorators do) and
//! knows nothing of chunks or registers.

mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::config::StoreEntry;
use super::find_by_label::{Instead, instead_of_label};
use super::label::{LABEL_MAX, Label, label_key};
use super::object_key::PROBES;
use super::response_stats::Traffic;
use windlass_base::rt::{Instant, Rt};
use windlass_base::units::show_count;
use windlass_base::watched_state::Watched;
use windlass_base::{Error, Incarnation, Kind, PoolId, Result};
use windlass_keys::PoolKey;
use windlass_store::{BucketRef, ByteRange, Cause, ConditionalPuts, CutOff, Effort, Space, When};

/// A label that isn't read within this says: down. Where answers usually take long, twice that, within these bounds.
const LABEL_WAIT_MIN: Duration = Duration::from_secs(2);
const LABEL_WAIT_MAX: Duration = Duration::from_secs(10);
/// A down store's label is read again after this, then after ever longer pauses.
const RECHECK_FIRST: Duration = Duration::from_millis(200);
const RECHECK_LAST: Duration = Duration::from_secs(1);
/// For how long a store is asked again before it is given up, and how long after each other.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENT_PAUSE: Duration = Duration::from_secs(1);
/// Damaged objects of a store that are told by name.
const DAMAGE_MAX: usize = 100;

/// What is known of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The label was not read yet.
    Unknown,
    /// The label is the listed one.
    In,
    /// The label is another store's, or there is none: nothing that this store says counts.
    Out(String),
    /// The label can't be read.
    Down(String),
}

impl Standing {
    pub fn usable(&self) -> bool {
        matches!(self, Standing::Unknown | Standing::In)
    }
    pub fn reason(&self) -> Option<&str> {
        match self {
            Standing::Out(why) | Standing::Down(why) => Some(why),
            _ => None,
        }
    }
}

/// Which pool a store belongs to, and the key that its label and registers are signed by.
#[derive(Clone, Debug)]
pub struct PoolMark {
    pub id: PoolId,
    pub key: Option<PoolKey>,
}

impl From<PoolId> for PoolMark {
    fn from(id: PoolId) -> PoolMark {
        PoolMark { id, key: None }
    }
}

#[derive(Debug)]
struct State {
    standing: Standing,
    /// When the standing was first not usable.
    failing: Option<Instant>,
    /// Since when puts fail although the label is right, and how.
    writes_failing: Option<(Instant, String)>,
    /// Label gets begun, ended, and asked for: `attest` waits for one that begins after it.
    begun: u64,
    ended: u64,
    wanted: u64,
    reading: bool,
    /// How the last label get ended, when not with an answer.
    silent: Option<String>,
    rechecking: bool,
    last_answer: Instant,
    /// When the last label get began that showed the listed incarnation.
    attested: Instant,
    /// It breaks a promise: out, whatever its label says.
    barred: Option<String>,
    /// Another member stands for the store now.
    retired: bool,
    /// Rung when the label is another's.
    bell: Option<Arc<Notify>>,
    /// What its server called itself last, and what is rung when that is another name.
    server: Option<Arc<str>>,
    server_bell: Option<Arc<Notify>>,
    /// Registers' objects that were found damaged there, by key, and why.
    damage: BTreeMap<String, String>,
    /// Objects that the store has in an archive, as far as they were asked for.
    archived: BTreeSet<String>,
    /// The room that it told last.
    space: Option<Space>,
    /// A register's key whose copy there was found older than the others'; looked after by whoever knows what belongs there.
    older: Option<String>,
    /// What lies in the store's place is the store in another life, the pool's once: nothing of it counts, and what it holds can
    /// be read.
    other_life: Option<Arc<Member>>,
    /// The label that was the listed one: labels are read often, and the same bytes say the same.
    ours: Bytes,
}

impl State {
    /// What the last label get has shown.
    fn attested_now(&self) -> Result<()> {
        match (&self.standing, &self.silent) {
            (Standing::Out(why) | Standing::Down(why), _) | (_, Some(why)) => {
                Err(Error::new(Kind::Unavailable, why.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// One store of a pool. Kept in an `Arc`: its background tasks hold it weakly.
#[derive(Debug)]
pub struct Member {
    me: Weak<Member>,
    rt: Rt,
    pool: PoolMark,
    index: usize,
    /// As the pool lists it; but for the URL, by which this host reaches it.
    entry: StoreEntry,
    /// `None`: listed in the pool, but this host was not told how to reach it.
    bucket: Option<BucketRef>,
    state: Watched<State>,
    traffic: Traffic,
}

enum Verdict {
    Ours,
    Foreign(String),
    /// The label is this store's in another life.
    OtherLife(Incarnation),
    Silent(Error),
}

fn is_of_another(label: &Label) -> String {
    format!("it belongs to another pool, {} ({})", label.hint.name, label.pool)
}

impl Member {
    pub fn new(
        rt: Rt,
        pool: impl Into<PoolMark>,
        index: usize,
        entry: StoreEntry,
        bucket: Option<BucketRef>,
    ) -> Arc<Member> {
        let pool = pool.into();
        let state = State {
            standing: Standing::Unknown,
            failing: None,
            writes_failing: None,
            begun: 0,
            ended: 0,
            wanted: 0,
            reading: false,
            silent: None,
            rechecking: false,
            last_answer: rt.now(),
            attested: rt.now(),
            barred: None,
            retired: false,
            bell: None,
            server: None,
            server_bell: None,
            damage: BTreeMap::new(),
            archived: BTreeSet::new(),
            space: None,
            older: None,
            other_life: None,
            ours: Bytes::new(),
        };
        Arc::new_cyclic(|me| Member {
            me: me.clone(),
            rt,
            pool,
            index,
            entry,
            bucket,
            state: Watched::new(state),
            traffic: Traffic::default(),
        })
    }

    pub fn index(&self) -> usize {
        self.index
    }
    /// How users name the store.
    pub fn url(&self) -> &str {
        &self.entry.url
    }
    pub fn zone(&self) -> Option<&str> {
        self.entry.zone.as_deref()
    }
    /// How it keeps the conditions of writes, as was found when it was taken in.
    pub fn conditions(&self) -> ConditionalPuts {
        self.entry.conditions
    }
    /// It holds shards alone, and is asked for no conditions.
    pub fn is_data_only(&self) -> bool {
        self.entry.is_data_only()
    }
    /// What is asked of it in the place of this condition: nothing, where it keeps none. For what harms nobody when it is put over
    /// the same, or late.
    pub(crate) fn asked(&self, when: When) -> When {
        if self.is_data_only() { When::Always } else { when }
    }
    /// The incarnation that the pool lists for this store.
    pub fn incarnation(&self) -> Incarnation {
        self.entry.incarnation
    }
    pub fn standing(&self) -> Standing {
        self.state.with(|s| s.standing.clone())
    }
    pub(crate) fn rt(&self) -> &Rt {
        &self.rt
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool.id
    }

    pub(crate) fn pool_key(&self) -> Option<&PoolKey> {
        self.pool.key.as_ref()
    }

    /// An object was found damaged. Told once, and shown until it is found sound or written over.
    pub(crate) fn damaged(&self, key: &str, why: &Error) {
        let new = self.state.with(|s| {
            let room = s.damage.len() < DAMAGE_MAX;
            room && s.damage.insert(key.to_owned(), why.to_string()).is_none()
        });
        if new {
            tracing::warn!("{why}; the others go on without it, and `pool repair` mends it");
        }
    }

    pub(crate) fn sound(&self, key: &str) {
        self.state.with(|s| s.damage.remove(key));
    }

    /// Keys of objects that were found damaged, and why.
    pub(crate) fn damage(&self) -> Vec<(String, String)> {
        self.state.with(|s| s.damage.iter().map(|(key, why)| (key.clone(), why.clone())).collect())
    }

    /// Its copy of a register is older than the others': it was away, or was put back to what it held before.
    pub(crate) fn is_older(&self, key: &str) {
        let new = self.state.with(|s| s.older.replace(key.to_owned()).is_none());
        if new {
            tracing::warn!(
                "store {}: {key} is older there than on the others: it was away, or was put back from a backup; what it lacks is \
                 looked for",
                self.entry.url
            );
        }
    }

    /// The key of such a copy, until it was looked for what the store lacks.
    pub(crate) fn older(&self) -> Option<String> {
        self.state.with(|s| s.older.clone())
    }

    pub(crate) fn was_looked_through(&self) {
        self.state.with(|s| s.older = None);
    }

    /// "3 objects of s3://b (KEY, …)": those that the store has in an archive.
    pub fn archived(&self) -> Option<String> {
        let (count, first) = self.state.with(|s| (s.archived.len() as u64, s.archived.first().cloned()));
        let more = if count > 1 { ", …" } else { "" };
        Some(format!("{} of {} ({}{more})", show_count(count, "object"), self.entry.url, first?))
    }

    fn learn_archived<T>(&self, key: &str, answer: &Result<T>) {
        self.state.with(|s| match answer {
            Err(e) if e.is(Kind::Archived) && s.archived.len() < DAMAGE_MAX => {
                s.archived.insert(key.into());
            }
            Err(_) => {}
            Ok(_) => {
                s.archived.remove(key);
            }
        });
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Since when the store is out or down, or refuses what is put; and why.
    pub fn failing(&self) -> Option<(Instant, String)> {
        self.state.with(|s| match (s.failing, s.standing.reason()) {
            (Some(since), Some(why)) => Some((since, why.to_owned())),
            _ => s.writes_failing.clone(),
        })
    }

    /// For those who didn't even ask.
    pub(crate) fn why_not_usable(&self) -> Error {
        let why = self.state.with(|s| s.standing.reason().map(str::to_owned));
        why.map_or_else(|| self.trouble("it is away"), |why| Error::new(Kind::Unavailable, why))
    }

    /// Neither out nor down, and puts don't fail.
    pub fn well(&self) -> bool {
        self.failing().is_none()
    }

    /// `Ok` when a label get *begun after this call* shows the listed incarnation; else an error that names the store's
    /// URL and why. Calls at the same time share a get.
    pub async fn attest(&self) -> Result<()> {
        let ticket = self.state.with(|s| {
            s.wanted = s.begun + 1;
            let start = !std::mem::replace(&mut s.reading, true);
            (s.wanted, start)
        });
        if ticket.1
            && let Some(me) = self.me.upgrade()
        {
            self.rt.spawn(me.read_labels()).detach();
        }
        self.state.until(|s| (s.ended >= ticket.0).then(|| s.attested_now())).await
    }

    /// The same, asking again for a while: for those who would give the store up for want of an answer.
    pub(crate) async fn attest_patiently(&self) -> Result<()> {
        let begun = self.rt.now();
        loop {
            // One answer may be lost, and take long to be missed.
            let last = self.rt.now().since(begun) >= PATIENCE;
            let attested = self.attest().await;
            if last || attested.is_ok() || matches!(self.standing(), Standing::Out(_)) {
                return attested;
            }
            self.rt.sleep(PATIENT_PAUSE).await;
        }
    }

    async fn read_labels(self: Arc<Self>) {
        loop {
            let more = self.state.with(|s| {
                s.reading = s.wanted > s.begun;
                s.begun += u64::from(s.reading);
                s.reading
            });
            if !more {
                return;
            }
            let start = self.rt.now();
            let verdict = self.read_label().await;
            self.judge(start, verdict);
        }
    }

    async fn read_label(&self) -> Verdict {
        let Some(bucket) = &self.bucket else {
            return Verdict::Silent(self.trouble("this host does not know how to reach it"));
        };
        let key = label_key(self.pool.id);
        let get = bucket.get(&key, ByteRange::Whole { max: LABEL_MAX }, Cause::Label);
        let start = self.rt.now();
        let usual = self.traffic.percentile(95).unwrap_or_default();
        let found = self.rt.timeout((usual * 2).clamp(LABEL_WAIT_MIN, LABEL_WAIT_MAX), get).await;
        let failed = !matches!(&found, Some(Ok(_)));
        self.traffic.count(self.rt.now().since(start), None, failed);
        match found {
            None => Verdict::Silent(self.trouble("it does not answer")),
            Some(Err(e)) if e.is(Kind::Invalid) => Verdict::Foreign("its label is malformed".to_owned()),
            Some(Err(e)) => Verdict::Silent(e),
            Some(Ok(None)) => {
                let instead = self.rt.timeout(LABEL_WAIT_MAX, instead_of_label(bucket, self.pool.id)).await;
                match instead {
                    Some(Ok(Instead::Brought(bytes))) => self.compare(&bytes),
                    Some(Ok(Instead::Other(label))) => Verdict::Foreign(is_of_another(&label)),
                    // Whatever is there beside it: this pool's label is not.
                    Some(Ok(Instead::Nothing) | Err(_)) | None => {
                        Verdict::Foreign("it has no label (emptied, or another place)".to_owned())
                    }
                }
            }
            Some(Ok(Some(found))) => self.compare(&found.body),
        }
    }

    fn compare(&self, bytes: &Bytes) -> Verdict {
        if self.state.with(|s| !bytes.is_empty() && s.ours == *bytes) {
            return Verdict::Ours;
        }
        let label = match Label::decode(bytes) {
            Ok(label) => label,
            Err(e) => return Verdict::Foreign(e.to_string()),
        };
        if label.pool != self.pool.id {
            return Verdict::Foreign(is_of_another(&label));
        }
        if label.index != self.index {
            let (is, here) = (label.index, self.index);
            return Verdict::Foreign(format!("it is the pool's store {is}, at the place of store {here}"));
        }
        if label.destroyed {
            return Verdict::Foreign(format!("its pool {} is being destroyed", label.hint.name));
        }
        if let Err(e) = Label::read(bytes, self.pool_key()) {
            return Verdict::Foreign(e.to_string());
        }
        if label.incarnation != self.entry.incarnation {
            return Verdict::OtherLife(label.incarnation);
        }
        self.state.with(|s| s.ours = bytes.clone());
        Verdict::Ours
    }

    fn judge(&self, start: Instant, verdict: Verdict) {
        let before = self.standing();
        let recheck = self.state.update(|s| {
            s.ended = s.begun;
            s.silent = None;
            let verdict = match (&s.barred, verdict) {
                (Some(why), Verdict::Ours | Verdict::OtherLife(_)) => Verdict::Foreign(why.clone()),
                (_, verdict) => verdict,
            };
            let life = match &verdict {
                Verdict::OtherLife(life) => Some(*life),
                Verdict::Ours | Verdict::Foreign(_) => None,
                Verdict::Silent(_) => s.other_life.as_ref().map(|other| other.incarnation()),
            };
            if s.other_life.as_ref().map(|other| other.incarnation()) != life {
                s.other_life = life.and_then(|life| self.in_life(life));
            }
            let verdict = match verdict {
                Verdict::OtherLife(_) => Verdict::Foreign(
                    "its contents are not the ones that the pool knows (made anew, or another disk of this store's)".to_owned(),
                ),
                verdict => verdict,
            };
            match verdict {
                Verdict::Ours => {
                    if s.standing != Standing::In {
                        s.writes_failing = None;
                    }
                    s.standing = Standing::In;
                    s.failing = None;
                    s.last_answer = self.rt.now();
                    s.attested = start;
                }
                Verdict::Foreign(why) => {
                    s.standing = Standing::Out(format!("store {} is out: {why}", self.entry.url));
                    if let Some(bell) = &s.bell {
                        bell.notify_one();
                    }
                }
                Verdict::OtherLife(_) => {}
                Verdict::Silent(e) => {
                    let why = format!("store {} is down: {e}", self.entry.url);
                    s.silent = Some(why.clone());
                    // A busy link delays the label as well: while others get answers the store is not down.
                    if s.last_answer <= start || !s.standing.usable() {
                        s.standing = Standing::Down(why);
                    }
                }
            }
            if !s.standing.usable() {
                s.failing.get_or_insert(start);
            }
            !s.standing.usable() && !s.retired && !std::mem::replace(&mut s.rechecking, true)
        });
        self.tell(&before);
        self.hear_server();
        if recheck {
            self.rt.spawn(recheck_until_well(self.rt.clone(), self.me.clone())).detach();
        }
    }

    fn tell(&self, before: &Standing) {
        let now = self.standing();
        match (&now, before) {
            (Standing::Out(why) | Standing::Down(why), before) if before.usable() => tracing::warn!("{why}"),
            // As loud as its going was.
            (Standing::In, Standing::Out(_) | Standing::Down(_)) => {
                tracing::warn!("store {} is back", self.entry.url)
            }
            _ => {}
        }
    }

    /// Rings when the server's name is another than it was. It may be another version, which keeps other promises.
    fn hear_server(&self) {
        let Some(server) = self.server() else { return };
        self.state.with(|s| {
            if s.server.as_ref() != Some(&server) {
                s.server = Some(server);
                s.server_bell.iter().for_each(|bell| bell.notify_one());
            }
        });
    }

    /// What its server called itself in its last answer.
    pub(crate) fn server(&self) -> Option<Arc<str>> {
        self.bucket.as_ref()?.server()
    }

    /// It was asked for its label already, and did not answer: down until it does.
    pub(crate) fn was_silent(&self, why: &Error) {
        self.judge(self.rt.now(), Verdict::Silent(why.share()));
    }

    /// Checks by behaviour what the store promises (`store::probe`); of one that holds data only, all but conditions. One that breaks a promise is out from now on, until it
    /// was checked again and keeps them.
    pub(crate) async fn check_promises(&self, effort: Effort) -> Result<()> {
        if !self.is_barred() {
            self.attest().await?;
        }
        let unreachable = || self.trouble("this host does not know how to reach it");
        let bucket = self.bucket.as_ref().ok_or_else(unreachable)?;
        let probed = match self.is_data_only() {
            true => windlass_store::probe_data(&self.rt, &**bucket, PROBES, effort).await,
            false => windlass_store::probe_with(&self.rt, &**bucket, PROBES, effort).await,
        };
        let broken = probed.as_ref().err().filter(|e| e.is(Kind::Refused)).map(ToString::to_string);
        if probed.is_ok() || broken.is_some() {
            self.state.update(|s| {
                if !s.retired {
                    s.barred = broken;
                }
            });
        }
        // The standing follows by the label.
        let attested = self.attest().await;
        probed.and(attested)
    }

    /// Out because it breaks a promise.
    pub(crate) fn is_barred(&self) -> bool {
        self.state.with(|s| s.barred.is_some() && !s.retired)
    }

    /// Returns when requests may be made again, or when another member stands for the store.
    pub async fn usable(&self) {
        self.state.until(|s| (s.standing.usable() || s.retired).then_some(())).await;
    }

    pub(crate) fn ring_when_out(&self, bell: &Arc<Notify>) {
        self.state.with(|s| s.bell = Some(bell.clone()));
    }

    pub(crate) fn ring_on_another_server(&self, bell: &Arc<Notify>) {
        self.state.with(|s| s.server_bell = Some(bell.clone()));
    }

    /// Whether this host knows how to reach it.
    pub fn has_place(&self) -> bool {
        self.bucket.is_some()
    }

    /// Is this the bucket that it asks?
    pub(crate) fn is_at(&self, bucket: &BucketRef) -> bool {
        self.bucket.as_ref().is_some_and(|own| Arc::ptr_eq(own, bucket))
    }

    /// What lies in this place, as the store in that life.
    fn in_life(&self, incarnation: Incarnation) -> Option<Arc<Member>> {
        let bucket = Some(self.bucket.clone()?);
        let entry = StoreEntry { incarnation, ..self.entry.clone() };
        Some(Member::new(self.rt.clone(), self.pool.clone(), self.index, entry, bucket))
    }

    /// The store that lies in this one's place, which is this one in another life.
    pub(crate) fn other_life(&self) -> Option<Arc<Member>> {
        self.state.with(|s| s.other_life.clone())
    }

    /// The same store in another place.
    pub(crate) fn moved_to(&self, url: String, bucket: BucketRef) -> Arc<Member> {
        let entry = StoreEntry { url, ..self.entry.clone() };
        Member::new(self.rt.clone(), self.pool.clone(), self.index, entry, Some(bucket))
    }

    /// Never asked again: another member stands for the store.
    pub(crate) fn retire(&self, why: &str) {
        self.state.update(|s| {
            s.retired = true;
            s.barred = Some(why.to_owned());
            s.standing = Standing::Out(why.to_owned());
        });
    }

    fn trouble(&self, what: &str) -> Error {
        Error::new(Kind::Unavailable, format!("store {}: {what}", self.entry.url))
    }

    /// Reads the label in the background.
    pub(crate) fn suspect(&self) {
        if let Some(me) = self.me.upgrade() {
            self.rt
                .spawn(async move {
                    // The verdict goes into the standing.
                    let _ = me.attest().await;
                })
                .detach();
        }
    }

    /// The room that it told when it was asked last.
    pub fn space(&self) -> Option<Space> {
        self.state.with(|s| s.space)
    }

    /// Cuts the store off for as long as the guard lives; `None`: that can't be, or is so already.
    pub fn cut_off(&self) -> Option<CutOff> {
        CutOff::begin(&**self.bucket.as_ref()?)
    }

    /// The bucket itself, for what needs no breaker: moving foreign objects aside.
    pub(crate) fn raw(&self) -> Option<&BucketRef> {
        self.bucket.as_ref()
    }
}

async fn recheck_until_well(rt: Rt, member: Weak<Member>) {
    let mut pause = RECHECK_FIRST;
    loop {
        // Spread over time, so that many hosts don't come back in one instant.
        let jitter = Duration::from_millis(rt.below(pause.as_millis() as u64 / 4 + 1));
        rt.sleep(pause + jitter).await;
        pause = (pause * 2).min(RECHECK_LAST);
        let Some(member) = member.upgrade() else { return };
        let _ = member.attest().await;
        let done = member.state.with(|s| {
            s.rechecking = !s.standing.usable() && !s.retired;
            !s.rechecking
        });
        if done {
            return;
        }
    }
}
