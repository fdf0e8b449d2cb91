//! Looking through all stores: is every shard there that should be, right in every byte, and nothing else?
//!
//! Lists every store, asks the inventory about every chunk met and for every chunk that must be there, and reads every
//! shard whole. What looks missing, or needed by nobody, is looked for again before it is said, because chunks come and go
//! meanwhile. Memory: a few words a chunk, and the shards under way (`AT_ONCE`). One that is cut off leaves a cursor, by
//! which the next one need not read again what was right.
//!
//! It changes nothing in the stores (this host remembers what it found, `missing_shards`), and knows nothing of
//! volumes. Labels look after themselves; `register_copies` looks at the copies of registers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use parking_lot::Mutex;

use super::compare::{Verdict, compare, sound_parity};
use super::register_copies::{self, Listed};
use crate::chunk::ShardSet;
use crate::chunk::{Fate, Footer, Inventory};
use crate::io::PoolContext;
use crate::local::Damage;
use crate::local::{Finding, Progress, ScrubOptions, ScrubReport, Watch};
use crate::stores::Member;
use crate::stores::{At, Miss};
use crate::stores::{Named, parse, place, shard_key};
use windlass_base::rt::{Instant, Rt};
use windlass_base::{ChunkId, Result};
use windlass_store::{Cause, List};

/// Shards read at a time, each at most `SHARD_SPAN` long.
const AT_ONCE: usize = 6;
/// Names a page.
const PAGE: usize = 1000;
const LIVE_PAGE: usize = 1024;
/// Time between two saves of the scrub's cursor.
const MARK_EVERY: Duration = Duration::from_secs(5);
/// Time for what nobody needs to go, since it may be on its way out: whoever took a volume over deletes what its owner left.
const GOING: Duration = Duration::from_secs(3);
/// Time for the last shards of a chunk to arrive: a chunk is stored before they are.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// The objects that the stores' listings show.
#[derive(Default)]
pub(super) struct Listing {
    /// Shards in their places.
    pub present: BTreeMap<ChunkId, ShardSet>,
    registers: Listed,
    /// Bytes of the shards in their places, by store.
    pub bytes: BTreeMap<usize, u64>,
    /// Stores (indices) whose listing is complete.
    pub complete: ShardSet,
    misplaced: Vec<Finding>,
    foreign: Vec<Finding>,
    pub unreachable: Vec<String>,
}

/// The result of reading one shard.
enum Shown {
    Good(Option<Footer>, u64),
    Rotten,
    Gone,
    Silent(String),
}

pub async fn scrub(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    options: ScrubOptions,
    watch: Watch<'_>,
) -> Result<ScrubReport> {
    let known = context.missing_shards().all_damaged();
    let untold = inventory.learn_log_ends().await?;
    let learned = context.rt().now();
    let listing = list_all(&context.members()).await;
    let mut report =
        ScrubReport { foreign: listing.foreign, unreachable: listing.unreachable, ..ScrubReport::default() };
    for finding in listing.misplaced {
        let (id, _) = finding.shard.expect("what is misplaced is a shard");
        match inventory.fate(id).await? {
            Fate::Live => report.misplaced.push(finding),
            Fate::Dead => report.orphans.push(finding),
            Fate::Leaving | Fate::Unknown => {}
        }
    }
    register_copies::look(context, &listing.registers, listing.complete, &mut report).await;
    let (verify, absent) =
        sort_out(context, inventory, &listing.present, listing.complete, &mut report).await?;
    let gone = read_all(context, verify, options, watch, &mut report).await;
    let absent: Shards = absent.into_iter().chain(gone).collect();
    if !absent.is_empty() {
        // The last shards of what was just stored may be under way.
        context.rt().sleep(UNDER_WAY.saturating_sub(context.rt().now().since(learned))).await;
    }
    for (id, mask) in absent {
        confirm_missing(context, inventory, id, mask, &mut report).await?;
    }
    confirm_orphans(context, &mut report).await;
    report.unread_volumes = inventory.unread().into_iter().map(|(_, why)| why).collect();
    report.unread_volumes.extend(untold.iter().map(ToString::to_string));
    report.sort();
    if report.unreachable.is_empty() {
        forget_what_is_right(context, inventory, &known, &report).await?;
    }
    context.scrub_cursor().clear().await;
    Ok(report)
}

pub(super) async fn list_all(members: &[Arc<Member>]) -> Listing {
    let n = members.len();
    let mut all = Listing::default();
    let lists = members.iter().map(|member| async move { (member.index(), list_one(member, n).await) });
    for (index, (listing, ended)) in futures::future::join_all(lists).await {
        match ended {
            Ok(()) => all.complete = all.complete.with(index),
            Err(e) => all.unreachable.push(e.to_string()),
        }
        for (id, mask) in listing.present {
            let known = all.present.entry(id).or_default();
            *known = known.or(mask);
        }
        for (id, mask) in listing.registers {
            let known = all.registers.entry(id).or_default();
            *known = known.or(mask);
        }
        all.bytes.extend(listing.bytes);
        all.misplaced.extend(listing.misplaced);
        all.foreign.extend(listing.foreign);
    }
    all
}

/// Lists one store's objects, as far as it can be listed.
pub(super) async fn list_one(member: &Member, n: usize) -> (Listing, Result<()>) {
    let mut listing = Listing::default();
    let mut list = List { max: PAGE, ..List::default() };
    let ended = async {
        member.attest().await?;
        loop {
            let page = member.list(&list, Cause::Scrub).await?;
            for object in page.objects {
                listing.sort_in(member, n, object.key, object.size);
            }
            if page.next.is_none() {
                // It may have been emptied while it was listed.
                return member.attest().await;
            }
            list.after = page.next;
        }
    };
    let ended = ended.await;
    (listing, ended)
}

impl Listing {
    fn sort_in(&mut self, member: &Member, n: usize, key: String, size: u64) {
        let finding = |key, shard| Finding {
            key,
            store: member.index(),
            url: member.url().to_owned(),
            shard,
            register: None,
        };
        match parse(&key) {
            Named::Other => {}
            Named::Label(pool) if pool == member.pool() => {}
            Named::Register(id) => {
                let known = self.registers.entry(id).or_default();
                *known = known.with(member.index());
            }
            Named::Shard(id, shard) if shard < n && place(&id, shard, n) == member.index() => {
                let known = self.present.entry(id).or_default();
                *known = known.with(shard);
                *self.bytes.entry(member.index()).or_default() += size;
            }
            Named::Shard(id, shard) if shard < n => self.misplaced.push(finding(key, Some((id, shard)))),
            Named::Shard(..) | Named::Label(_) | Named::Foreign => self.foreign.push(finding(key, None)),
        }
    }
}

type Shards = Vec<(ChunkId, ShardSet)>;

/// Sorts the shards by each chunk's fate; returns those to read, and those that are not where they should be.
async fn sort_out(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    present: &BTreeMap<ChunkId, ShardSet>,
    complete: ShardSet,
    report: &mut ScrubReport,
) -> Result<(Shards, Shards)> {
    let n = context.layout().n();
    let (mut verify, mut absent) = (Vec::new(), Vec::new());
    for (id, mask) in present {
        match inventory.fate(*id).await? {
            Fate::Dead => {
                // What is about to be deleted on a store that is back just now is no orphan.
                let leaving = context.missing_shards().leaving(|l| l.of(id));
                report.orphans.extend(mask.minus(leaving).iter().map(|shard| finding(context, id, shard)));
            }
            Fate::Leaving => {}
            Fate::Unknown => verify.push((*id, *mask)),
            Fate::Live => {
                verify.push((*id, *mask));
                absent.push((*id, ShardSet::all(n).minus(*mask)));
            }
        }
    }
    let mut after = None;
    loop {
        let page = inventory.live_after(after, LIVE_PAGE).await?;
        absent.extend(page.iter().filter(|id| !present.contains_key(id)).map(|id| (*id, ShardSet::all(n))));
        match page.last() {
            Some(last) if page.len() >= LIVE_PAGE => after = Some(*last),
            _ => break,
        }
    }
    for (id, mask) in &mut absent {
        *mask = mask.iter().filter(|shard| complete.has(place(id, *shard, n))).collect();
    }
    absent.retain(|(_, mask)| !mask.is_empty());
    Ok((verify, absent))
}

fn finding(context: &PoolContext, id: &ChunkId, shard: usize) -> Finding {
    let member = context.holder(id, shard);
    Finding {
        key: shard_key(id, shard),
        store: member.index(),
        url: member.url().to_owned(),
        shard: Some((*id, shard)),
        register: None,
    }
}

/// Forgets what was known to be damaged before all was looked at, and was not found so.
async fn forget_what_is_right(
    context: &PoolContext,
    inventory: &dyn Inventory,
    known: &[(ChunkId, Damage)],
    report: &ScrubReport,
) -> Result<()> {
    let found: BTreeSet<_> = report.missing.iter().chain(&report.rotten).filter_map(|f| f.shard).collect();
    for (id, damage) in known {
        // Of a chunk that nobody decided on nothing is missed; what was found right went already.
        if inventory.fate(*id).await? != Fate::Unknown {
            let right = damage.all().iter().filter(|i| !found.contains(&(*id, *i))).collect();
            context.missing_shards().remove_damage(id, right);
        }
    }
    Ok(())
}

/// Takes off what an earlier scrub found right, but for what was found damaged since.
async fn take_up(
    context: &PoolContext,
    verify: &mut Shards,
    progress: &mut Progress,
    report: &mut ScrubReport,
) {
    let Some(mark) = context.scrub_cursor().load(context.membership().generation).await else { return };
    for (id, mask) in verify.iter_mut().take_while(|(id, _)| *id <= mark.after) {
        let damaged = context.missing_shards().damage(id).all();
        let doubtful = |shard: usize| damaged.has(shard) || mark.doubtful.contains(&(*id, shard));
        // They are compared with the others.
        if !mask.iter().any(doubtful) {
            progress.done += mask.count() as u64;
            *mask = ShardSet::default();
        }
    }
    (report.checked_shards, report.checked_bytes) = (mark.shards, mark.bytes);
}

/// Reads and judges shards; those that are gone meanwhile come back.
async fn read_all(
    context: &Arc<PoolContext>,
    mut verify: Shards,
    options: ScrubOptions,
    watch: Watch<'_>,
    report: &mut ScrubReport,
) -> Shards {
    let of = verify.iter().map(|(_, mask)| mask.count() as u64).sum();
    let mut progress = Progress { done: 0, of };
    if options.resume {
        take_up(context, &mut verify, &mut progress, report).await;
    }
    let shards = verify
        .into_iter()
        .flat_map(|(id, mask)| mask.iter().collect::<Vec<_>>().into_iter().map(move |i| (id, i)));
    let pace = Pace { rt: context.rt(), rate: options.rate, next: Mutex::new(context.rt().now()) };
    let pace = &pace;
    let reads = stream::iter(shards).map(|(id, shard)| async move {
        let shown = read_one(context, &id, shard).await;
        if let Shown::Good(_, bytes) = shown {
            pace.spent(bytes).await;
        }
        (id, shard, shown)
    });
    // In order, so that a cursor says what all is behind it.
    let mut reads = reads.buffered(AT_ONCE);
    let (generation, mut marked) = (context.membership().generation, context.rt().now());
    let (mut gone, mut doubtful, mut at, mut footers) = (Vec::new(), Vec::new(), None, Vec::new());
    let mut suspects = ShardSet::default();
    while let Some((id, shard, shown)) = reads.next().await {
        if let Some(done) = at.replace(id).filter(|done| *done != id) {
            let (footers, suspects) = (std::mem::take(&mut footers), std::mem::take(&mut suspects));
            look_across(context, &done, &footers, suspects, report).await;
            if context.rt().now().since(marked) >= MARK_EVERY {
                marked = context.rt().now();
                let counts = (report.checked_shards, report.checked_bytes);
                if let Err(error) = context.scrub_cursor().save(generation, done, &doubtful, counts).await {
                    tracing::debug!(%error, "how far the scrub is can't be written down");
                }
            }
        }
        if !matches!(shown, Shown::Good(..)) {
            doubtful.push((id, shard));
        }
        match shown {
            Shown::Good(footer, bytes) => {
                footers.extend(footer);
                match is_suspect(context, &id, shard) {
                    true => suspects = suspects.with(shard),
                    false => context.missing_shards().remove_damage(&id, ShardSet::default().with(shard)),
                }
                report.checked_shards += 1;
                report.checked_bytes += bytes;
            }
            Shown::Rotten => {
                context.missing_shards().damaged(id, Damage::rotten(shard));
                report.rotten.push(finding(context, &id, shard));
            }
            Shown::Gone => gone.push((id, ShardSet::default().with(shard))),
            Shown::Silent(why) => report.unreachable.push(why),
        }
        progress.done += 1;
        watch(progress);
    }
    if let Some(last) = at {
        look_across(context, &last, &footers, suspects, report).await;
    }
    gone
}

/// Tells whether a shard that is right in itself is false as far as is known, and no hash of others would tell: reads have
/// proven that a parity shard is.
fn is_suspect(context: &PoolContext, id: &ChunkId, shard: usize) -> bool {
    let k = context.layout().k();
    k > 1 && shard >= k && context.missing_shards().damage(id).rotten.has(shard)
}

/// Reports as rotten the shards that are right in themselves, but contradict the others of their chunk; and the `suspects`
/// among the parity shards, unless the data shards show that a suspect is right.
async fn look_across(
    context: &PoolContext,
    id: &ChunkId,
    footers: &[Footer],
    suspects: ShardSet,
    report: &mut ScrubReport,
) {
    let verdict = compare(context, id, footers).await;
    let right = match verdict {
        Verdict::Agree => sound_parity(context, id, suspects).await,
        _ => ShardSet::default(),
    };
    context.missing_shards().remove_damage(id, right);
    let told = match verdict {
        Verdict::Agree => ShardSet::default(),
        Verdict::False(shards) | Verdict::Contradict(shards) | Verdict::OneOf(shards) => shards,
    };
    let unsound = suspects.minus(right).minus(told);
    report.rotten.extend(unsound.iter().map(|shard| finding(context, id, shard)));
    match verdict {
        Verdict::Agree => {}
        Verdict::False(shards) => {
            for shard in shards.iter() {
                context.missing_shards().damaged(*id, Damage::rotten(shard));
                report.rotten.push(finding(context, id, shard));
            }
        }
        Verdict::Contradict(shards) | Verdict::OneOf(shards) => {
            tracing::error!(
                "shards of chunk {id} contradict each other, and none can be told to be the right ones"
            );
            report.rotten.extend(shards.iter().map(|shard| finding(context, id, shard)));
        }
    }
}

/// A limit to how many bytes a second are read.
struct Pace<'a> {
    rt: &'a Rt,
    rate: Option<u64>,
    next: Mutex<Instant>,
}

impl Pace<'_> {
    /// Returns when the next read may begin.
    async fn spent(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut next = self.next.lock();
            *next = (*next).max(self.rt.now()) + Duration::from_micros(bytes * 1_000_000 / rate.max(1));
            *next
        };
        self.rt.sleep(until.since(self.rt.now())).await;
    }
}

/// Looks again for what nobody needs, when whoever is about to delete it has had time.
async fn confirm_orphans(context: &Arc<PoolContext>, report: &mut ScrubReport) {
    if report.orphans.is_empty() {
        return;
    }
    context.rt().sleep(GOING).await;
    let looks = stream::iter(std::mem::take(&mut report.orphans)).map(|orphan| async move {
        let (id, index) = orphan.shard.expect("an orphan is a shard");
        let member = &context.members()[orphan.store];
        let seen = At { member, id: &id, index }.footer(Cause::Scrub).await;
        (!matches!(seen, Err(Miss::Absent))).then_some(orphan)
    });
    report.orphans = looks.buffered(AT_ONCE).filter_map(|orphan| async { orphan }).collect().await;
}

async fn read_one(context: &PoolContext, id: &ChunkId, shard: usize) -> Shown {
    let member = context.holder(id, shard);
    match (At { member: &member, id, index: shard }).whole(Cause::Scrub).await {
        Ok((footer, bytes, _)) if footer.about.layout == context.layout() => {
            Shown::Good(Some(footer), bytes.len() as u64)
        }
        Ok(_) | Err(Miss::Rot(_)) => Shown::Rotten,
        Err(Miss::Absent) => Shown::Gone,
        Err(Miss::Silent(e)) => Shown::Silent(e.to_string()),
    }
}

/// Looks again for what a listing didn't show, and asks again whether it is needed.
async fn confirm_missing(
    context: &Arc<PoolContext>,
    inventory: &dyn Inventory,
    id: ChunkId,
    mask: ShardSet,
    report: &mut ScrubReport,
) -> Result<()> {
    // Those are on their way, or will be sent; not so what was stored before this look and is gone.
    let not_stored = context.missing_shards().not_stored(&id);
    let looks = mask.iter().map(|shard| async move {
        let member = context.holder(&id, shard);
        let seen = At { member: &member, id: &id, index: shard }.footer(Cause::Scrub).await;
        match (seen, member.attest().await) {
            (_, Err(e)) | (Err(Miss::Silent(e)), _) => (shard, Shown::Silent(e.to_string())),
            (Ok(_), _) => (shard, Shown::Good(None, 0)),
            (Err(Miss::Absent), _) => (shard, Shown::Gone),
            (Err(Miss::Rot(_)), _) => (shard, Shown::Rotten),
        }
    });
    let seen = futures::future::join_all(looks).await;
    let needed = inventory.fate(id).await? == Fate::Live;
    for (shard, shown) in seen {
        match shown {
            Shown::Gone if needed => {
                if let Some(old) = context.former_holder(&id, shard)
                    && (At { member: &old, id: &id, index: shard }).footer(Cause::Scrub).await.is_ok()
                {
                    report.former.insert((id, shard));
                }
                if !not_stored.has(shard) && !context.is_coming(&id, shard) {
                    context.missing_shards().damaged(id, Damage::gone(shard));
                }
                report.missing.push(finding(context, &id, shard));
            }
            Shown::Rotten => {
                context.missing_shards().damaged(id, Damage::rotten(shard));
                report.rotten.push(finding(context, &id, shard));
            }
            Shown::Silent(why) => report.unreachable.push(why),
            Shown::Good(..) | Shown::Gone => {}
        }
    }
    Ok(())
}
