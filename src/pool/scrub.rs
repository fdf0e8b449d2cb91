//! Looking through all stores: is every shard there that should be, right in every byte, and nothing else?
//!
//! Lists every store, asks the inventory about every chunk met and for every chunk that must be there, and reads every
//! shard whole. What looks missing is looked for again before it is said, because chunks come and go meanwhile. Memory:
//! a few words a chunk, and the shards under way (`AT_ONCE`).
//!
//! It changes nothing, and knows nothing of volumes. Labels look after themselves; copies of registers are `records`'.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;

use super::chunk::{Fate, Inventory};
use super::fleet::Fleet;
use super::key::{Named, parse, place, shard_key};
use super::mask::Mask;
use super::member::Member;
use super::records::{self, Listed};
use super::report::{Finding, Progress, ScrubReport, Watch};
use super::shard::{At, Miss};
use crate::base::{ChunkId, Result};
use crate::store::{Cause, List};

/// Shards read at a time, each at most `SHARD_SPAN` long.
const AT_ONCE: usize = 6;
/// Names a page.
const PAGE: usize = 1000;
const LIVE_PAGE: usize = 1024;

/// What the listings show.
#[derive(Default)]
struct Listing {
    /// Shards in their places.
    present: BTreeMap<ChunkId, Mask>,
    registers: Listed,
    /// Stores (indices) whose listing is complete.
    complete: Mask,
    misplaced: Vec<Finding>,
    foreign: Vec<Finding>,
    unreachable: Vec<String>,
}

/// What one shard turned out to be.
enum Shown {
    Good(u64),
    Rotten,
    Gone,
    Silent(String),
}

pub(super) async fn scrub(
    fleet: &Arc<Fleet>,
    inventory: &dyn Inventory,
    watch: Watch<'_>,
) -> Result<ScrubReport> {
    let listing = list_all(fleet).await;
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
    records::look(fleet, &listing.registers, listing.complete, &mut report).await;
    let (verify, absent) =
        sort_out(fleet, inventory, &listing.present, listing.complete, &mut report).await?;
    let gone = read_all(fleet, verify, watch, &mut report).await;
    for (id, mask) in absent.into_iter().chain(gone) {
        confirm_missing(fleet, inventory, id, mask, &mut report).await?;
    }
    report.sort();
    Ok(report)
}

async fn list_all(fleet: &Arc<Fleet>) -> Listing {
    let n = fleet.layout().n();
    let mut all = Listing::default();
    let lists =
        fleet.members().into_iter().map(|member| async move { (member.index(), list_one(&member, n).await) });
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
        all.misplaced.extend(listing.misplaced);
        all.foreign.extend(listing.foreign);
    }
    all
}

/// One store's objects, as far as it could be listed.
async fn list_one(member: &Member, n: usize) -> (Listing, Result<()>) {
    let mut listing = Listing::default();
    let mut list = List { max: PAGE, ..List::default() };
    let ended = async {
        member.attest().await?;
        loop {
            let page = member.list(&list, Cause::Scrub).await?;
            for object in page.objects {
                listing.sort_in(member, n, object.key);
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
    fn sort_in(&mut self, member: &Member, n: usize, key: String) {
        let finding = |key, shard| Finding {
            key,
            store: member.index(),
            url: member.url().to_owned(),
            shard,
            register: None,
        };
        match parse(&key) {
            Named::Other => {}
            Named::Register(id) => {
                let known = self.registers.entry(id).or_default();
                *known = known.with(member.index());
            }
            Named::Shard(id, shard) if shard < n && place(&id, shard, n) == member.index() => {
                let known = self.present.entry(id).or_default();
                *known = known.with(shard);
            }
            Named::Shard(id, shard) if shard < n => self.misplaced.push(finding(key, Some((id, shard)))),
            Named::Shard(..) | Named::Foreign => self.foreign.push(finding(key, None)),
        }
    }
}

type Shards = Vec<(ChunkId, Mask)>;

/// By each chunk's fate: the shards to read, and those that are not where they should be.
async fn sort_out(
    fleet: &Arc<Fleet>,
    inventory: &dyn Inventory,
    present: &BTreeMap<ChunkId, Mask>,
    complete: Mask,
    report: &mut ScrubReport,
) -> Result<(Shards, Shards)> {
    let n = fleet.layout().n();
    let (mut verify, mut absent) = (Vec::new(), Vec::new());
    for (id, mask) in present {
        match inventory.fate(*id).await? {
            Fate::Dead => report.orphans.extend(mask.iter().map(|shard| finding(fleet, id, shard))),
            Fate::Leaving => {}
            Fate::Unknown => verify.push((*id, *mask)),
            Fate::Live => {
                verify.push((*id, *mask));
                absent.push((*id, Mask::all(n).minus(*mask)));
            }
        }
    }
    let mut after = None;
    loop {
        let page = inventory.live_after(after, LIVE_PAGE).await?;
        absent.extend(page.iter().filter(|id| !present.contains_key(id)).map(|id| (*id, Mask::all(n))));
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

fn finding(fleet: &Fleet, id: &ChunkId, shard: usize) -> Finding {
    let member = fleet.holder(id, shard);
    Finding {
        key: shard_key(id, shard),
        store: member.index(),
        url: member.url().to_owned(),
        shard: Some((*id, shard)),
        register: None,
    }
}

/// Reads and judges shards; those that are gone meanwhile come back.
async fn read_all(fleet: &Arc<Fleet>, verify: Shards, watch: Watch<'_>, report: &mut ScrubReport) -> Shards {
    let of = verify.iter().map(|(_, mask)| mask.count() as u64).sum();
    let mut progress = Progress { done: 0, of };
    let shards = verify
        .into_iter()
        .flat_map(|(id, mask)| mask.iter().collect::<Vec<_>>().into_iter().map(move |i| (id, i)));
    let reads =
        stream::iter(shards).map(|(id, shard)| async move { (id, shard, read_one(fleet, &id, shard).await) });
    let mut reads = reads.buffer_unordered(AT_ONCE);
    let mut gone = Vec::new();
    while let Some((id, shard, shown)) = reads.next().await {
        match shown {
            Shown::Good(bytes) => {
                report.checked_shards += 1;
                report.checked_bytes += bytes;
            }
            Shown::Rotten => report.rotten.push(finding(fleet, &id, shard)),
            Shown::Gone => gone.push((id, Mask::default().with(shard))),
            Shown::Silent(why) => report.unreachable.push(why),
        }
        progress.done += 1;
        watch(progress);
    }
    gone
}

async fn read_one(fleet: &Fleet, id: &ChunkId, shard: usize) -> Shown {
    let member = fleet.holder(id, shard);
    match (At { member: &member, id, index: shard }).whole(Cause::Scrub).await {
        Ok((footer, bytes, _)) if footer.about.layout == fleet.layout() => Shown::Good(bytes.len() as u64),
        Ok(_) | Err(Miss::Rot(_)) => Shown::Rotten,
        Err(Miss::Absent) => Shown::Gone,
        Err(Miss::Silent(e)) => Shown::Silent(e.to_string()),
    }
}

/// Looks again for what a listing didn't show, and asks again whether it is needed.
async fn confirm_missing(
    fleet: &Arc<Fleet>,
    inventory: &dyn Inventory,
    id: ChunkId,
    mask: Mask,
    report: &mut ScrubReport,
) -> Result<()> {
    let looks = mask.iter().map(|shard| async move {
        let member = fleet.holder(&id, shard);
        let seen = At { member: &member, id: &id, index: shard }.footer(Cause::Scrub).await;
        match (seen, member.attest().await) {
            (_, Err(e)) | (Err(Miss::Silent(e)), _) => (shard, Shown::Silent(e.to_string())),
            (Ok(_), _) => (shard, Shown::Good(0)),
            (Err(Miss::Absent), _) => (shard, Shown::Gone),
            (Err(Miss::Rot(_)), _) => (shard, Shown::Rotten),
        }
    });
    let seen = futures::future::join_all(looks).await;
    let needed = inventory.fate(id).await? == Fate::Live;
    for (shard, shown) in seen {
        match shown {
            Shown::Gone if needed => report.missing.push(finding(fleet, &id, shard)),
            Shown::Rotten => report.rotten.push(finding(fleet, &id, shard)),
            Shown::Silent(why) => report.unreachable.push(why),
            Shown::Good(_) | Shown::Gone => {}
        }
    }
    Ok(())
}
