//! All is well again: the volume must open, show every promise, and work; then what may be lost without loss is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind};
use windlass_pool::{ScrubOptions, ScrubReport};
use windlass_volume::{OpenMode, Volume, Volumes};

use super::model::Tags;
use super::name;
use super::site::{Hazard, Sharing, Site, at};
use super::user::{Force, Look, Owned, User, look, written};

/// Time until the data keys of a volume are one again, when all is well: eight keys and as many snapshots
/// took 335 s once.
const ROTATES: Duration = Duration::from_secs(1200);
/// Time after which no request can land any more.
const LATE: Duration = Duration::from_secs(40);

pub async fn settle(site: Arc<Site>, rt: Rt) {
    // One of the hosts that were there, or one that knows nothing.
    let first = site.world.below(site.plan.hosts as u64 + 1) as usize;
    let Some((user, volumes, peer, (volume, session))) = first_look(&site, &rt, first).await else { return };
    let host = user.host;
    // Alone, it waits for no peer; and who opens it next only reads, where too few stores are left to be its owner.
    match site.plan.sharing {
        Sharing::Apart => {}
        Sharing::InTurn => {
            stays(&user, &volumes, &volume).await;
            volumes.set(&name("v"), &["handover=never".to_owned()]).await.unwrap();
        }
        Sharing::Mirrored { .. } => volumes.set(&name("v"), &["mirror-loss=pool".to_owned()]).await.unwrap(),
    }
    volume.flush().await.unwrap();
    if site.plan.rotates {
        let told = |left| site.note(|| format!("{left} bytes are left to rotate"));
        let over = user.rt.timeout(ROTATES, volumes.rotated(&name("v"), &told)).await;
        over.expect("all is well, and a rotation comes to its end").unwrap();
    }
    snapshots(&user, &volumes, 8).await;
    user.look_at_clones(&volumes, true).await;
    let before = look(&volume).await.unwrap();
    volume.release().await.unwrap();
    site.model.lock().released(&session);
    close(peer).await;
    let Some(lost) = lose_what_may_be_lost(&user, &volumes).await else { return };
    volumes.engine().pool.close().await;

    let other = (host + 1) % (site.plan.hosts + 1);
    site.note(|| format!("host{other} looks, {lost} stores are lost"));
    let user = User { site: site.clone(), host: other, rt: rt.clone() };
    let volumes = site.open(&rt, other).await.unwrap();
    let volume = volumes.open(&name("v"), OpenMode::Normal).await.unwrap();
    assert!(look(&volume).await.unwrap() == before, "what was released is what the next host reads");
    snapshots(&user, &volumes, 2).await;
    user.look_at_clones(&volumes, false).await;
    let books = volumes.check(&name("v")).await.unwrap();
    assert!(books.wrong.is_empty(), "{books:#?}");
    if site.plan.layout.n() - lost >= site.plan.w() {
        still_works(&site, &volume, before).await;
    }
}

/// Looks at the volume by this host; where another host is named that may have more, by that one. `None`:
/// what it needs is lost, rightly.
async fn first_look(
    site: &Arc<Site>,
    rt: &Rt,
    first: usize,
) -> Option<(User, Volumes, Option<Volumes>, Owned)> {
    let hosts = site.plan.hosts + 1;
    for host in (first..first + hosts).map(|host| host % hosts) {
        site.note(|| format!("all is well; host{host} looks"));
        let user = User { site: site.clone(), host, rt: rt.clone() };
        let volumes = site.open(rt, host).await.unwrap();
        // An owner who starts anew waits for the peer that the head names.
        let peer = match site.mirrors.peer_of(host) {
            Some(peer) => Some(site.open(rt, peer).await.unwrap()),
            None => None,
        };
        match owned(&user, &volumes).await {
            Found::Owner(owned) => return Some((user, volumes, peer, owned)),
            Found::Lost => return None,
            Found::Elsewhere => {
                volumes.engine().pool.close().await;
                close(peer).await;
            }
        }
    }
    panic!("all hosts are there, and yet none may open the volume: {:?}", site.refused.lock());
}

async fn close(peer: Option<Volumes>) {
    if let Some(peer) = peer {
        peer.engine().pool.close().await;
    }
}

enum Found {
    Owner(Owned),
    /// A part of the volume was stored while fewer shards counted, on the store that is lost now. That was
    /// not promised to survive; refusing to open is right.
    Lost,
    /// The head names another host, whose journal may have more.
    Elsewhere,
}

async fn owned(user: &User, volumes: &Volumes) -> Found {
    let wait = async {
        let mut tries = 0;
        loop {
            let guess = user.site.plan.undecidable() && tries >= 5;
            let force = if guess { Force::AcceptLoss } else { Force::Always };
            match user.become_owner(volumes, force).await {
                Look::Owner(owned) => return Ok(Found::Owner(owned)),
                Look::Refused if user.is_named_elsewhere() => return Ok(Found::Elsewhere),
                Look::Unclear => return Err("it is unclear who owns the volume"),
                Look::Refused => user.rt.sleep(Duration::from_secs(1)).await,
            }
            tries += 1;
        }
    };
    match user.rt.timeout(Duration::from_secs(300), wait).await {
        Some(found) => found.unwrap_or_else(|why| panic!("all is well, and yet {why}")),
        None if user.site.plan.undecidable()
            && user.site.lost_some()
            && user.site.refused.lock().as_ref().is_some_and(|(_, why)| is_lost(why)) =>
        {
            Found::Lost
        }
        None => panic!("the volume opens when all is well: {:?}", user.site.refused.lock()),
    }
}

fn is_lost(why: &str) -> bool {
    why.contains("a part of the volume has") && why.contains("readable shards")
}

/// Checks that the owner keeps the volume when nobody asks for it any more.
async fn stays(user: &User, volumes: &Volumes, volume: &Volume) {
    let since = async || volumes.info(&name("v")).await.unwrap().owner_since_ms;
    let before = since().await;
    for _ in 0..3 {
        user.rt.sleep(Duration::from_secs(3)).await;
        look(volume).await.unwrap();
    }
    assert_eq!(since().await, before, "it was let go of, and nobody had asked for it");
}

/// Reads up to `most` snapshots: those that were promised are there, and none has changed.
async fn snapshots(user: &User, volumes: &Volumes, most: usize) {
    let mut known = user.site.model.lock().snapshots_promised();
    while known.len() > most {
        known.swap_remove(user.rt.below(known.len() as u64) as usize);
    }
    for (which, promised) in known {
        match user.read_snapshot(volumes, &which).await {
            Err(e) if promised => panic!("snapshot {which} was promised, but: {e}"),
            _ => {}
        }
    }
}

/// Makes stores lose their contents, as many as the pool promises to survive, and returns how many. `None`:
/// see `mended`.
async fn lose_what_may_be_lost(user: &User, volumes: &Volumes) -> Option<usize> {
    let (site, layout) = (&user.site, user.site.plan.layout);
    if site.plan.hazard == Hazard::Wipe {
        return Some(usize::from(site.wiped()));
    }
    // At any instant, or once everything is mended (protocol.md §1.1).
    let at_once = (layout.w() - layout.k()).min(site.plan.survives_open());
    if site.plan.degrade_after.is_none() && at_once > 0 && site.world.per_mille(500) {
        return Some(site.wipe_some(at_once));
    }
    let whole = mended(user, volumes).await;
    whole.then(|| site.wipe_some(layout.m().min(site.plan.survives_open())))
}

/// Repairs until a scrub is content. `false`: too many shards have gone bad of what was stored while fewer
/// shards counted. That was not promised to survive.
async fn mended(user: &User, volumes: &Volumes) -> bool {
    user.rt.sleep(LATE).await;
    let (pool, plan) = (&volumes.engine().pool, &user.site.plan);
    let thin = plan.hazard == Hazard::Rot && plan.degrade_after.is_some();
    let mut last = String::new();
    for _ in 0..10 {
        let done: Result<ScrubReport, Error> = async {
            let repaired = pool.repair(volumes, ScrubOptions::default(), &|_| {}).await?;
            let found = pool.scrub(volumes, ScrubOptions::default(), &|_| {}).await?;
            last = format!("{repaired:?}, {found:?}");
            Ok(found)
        }
        .await;
        match done {
            Ok(found) if found.is_complete_and_clean() => return true,
            Ok(found) if thin && is_beyond_repair(&found, plan.layout.m()) => return false,
            Ok(_) => {}
            Err(e) => assert!(matches!(e.kind(), Kind::Unavailable | Kind::Timeout), "repair: {e}"),
        }
        user.rt.sleep(Duration::from_secs(5)).await;
    }
    panic!("all is well, and yet repair does not get the pool right: {last}");
}

/// Tells whether nothing is wrong but chunks that lack more than `m` shards.
fn is_beyond_repair(found: &ScrubReport, m: usize) -> bool {
    let mut lacks: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in found.rotten.iter().chain(&found.missing) {
        // HH/VOLUME/c-EPOCH-SEQ.SHARD
        let (object, _) = finding.key.rsplit_once('.').unwrap_or((&finding.key, ""));
        *lacks.entry(object.split_once('/').map_or(object, |(_, chunk)| chunk)).or_default() += 1;
    }
    let others = found.misplaced.len() + found.foreign.len() + found.orphans.len() + found.unreachable.len();
    others == 0 && !lacks.is_empty() && lacks.values().all(|n| *n > m)
}

/// Writes, flushes, and checks what is read then.
async fn still_works(site: &Site, volume: &Volume, before: Tags) {
    let tag = site.model.lock().fresh_tag();
    let (sectors, mut now) = (3..21, before);
    volume.write(at(sectors.start), written(&sectors, tag)).await.unwrap();
    volume.flush().await.unwrap();
    now[sectors.start as usize..sectors.end as usize].fill(tag);
    assert!(look(volume).await.unwrap() == now, "the volume works");
    volume.release().await.unwrap();
}
