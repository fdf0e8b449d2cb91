//! Verbs that wait for stores: what is waited for is told, and whoever gives up is told what has become of it.
//!
//! A verb that changes something begins only when enough stores answer: given up before that it is not done, for
//! certain. Given up later it is dropped where that harms nothing, and its outcome is unknown; what must not be left half
//! done (making a pool, mounts) goes on to its end.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;

use crate::daemon::api::{KeyChange, Outcome, Replicate, SnapshotLock, Verb, VolumeMove, VolumePath};
use crate::daemon::engine_tables::EngineState;
use crate::daemon::progress::ProgressSink;
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind, Name, Result};
use windlass_pool::Need;

/// Time after which a wait is told; it is told again after each `AGAIN`.
const FIRST: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(10);

/// Pools and volumes on which a verb depends, and how the verb may end early.
pub struct Manner {
    /// Pools that the verb waits for, and what it needs of them.
    pools: BTreeSet<Name>,
    need: Option<Need>,
    /// Volumes whose unsent writes the verb may wait for.
    volumes: Vec<VolumePath>,
    end: End,
    /// Is true if the verb, asked for again, goes on where it was given up.
    resumes: bool,
}

enum End {
    /// The verb only looks: nothing is left undone.
    Looks,
    /// The verb is dropped. The texts are what may or may not have been done, and the command that shows it.
    Unknown(String, String),
    /// The verb goes on to its end.
    Finishes,
}

fn changes(paths: &[&VolumePath], need: Need, what: String, show: String) -> Manner {
    let pools = paths.iter().map(|p| p.pool.clone()).collect();
    let volumes = paths.iter().map(|p| (*p).clone()).collect();
    Manner { pools, need: Some(need), volumes, end: End::Unknown(what, show), resumes: false }
}

fn looks(pools: impl IntoIterator<Item = Name>) -> Manner {
    Manner {
        pools: pools.into_iter().collect(),
        need: None,
        volumes: Vec::new(),
        end: End::Looks,
        resumes: false,
    }
}

impl Manner {
    pub fn of(state: &EngineState, verb: &Verb) -> Manner {
        let resumes = match verb {
            Verb::PoolForceRecover(args) => !args.dry_run,
            Verb::PoolDestroy(args) => !args.dry_run,
            Verb::VolumeFlatten { .. }
            | Verb::SnapshotCopy(_)
            | Verb::Replicate(_)
            | Verb::PoolScrub { .. }
            | Verb::PoolRepair { .. }
            | Verb::PoolReplace { .. } => true,
            _ => false,
        };
        Manner { resumes, ..Manner::of_volume(state, verb) }
    }

    fn of_volume(state: &EngineState, verb: &Verb) -> Manner {
        let info = |path: &VolumePath| format!("windlass volume info {path}");
        match verb {
            Verb::VolumeRemove { path, dry_run: true, .. } => looks([path.pool.clone()]),
            Verb::VolumeCreate(args) => {
                changes(&[&args.path], Need::Decide, format!("{} was made", args.path), info(&args.path))
            }
            Verb::VolumeSalvage { to, .. } => changes(&[to], Need::Store, format!("{to} was made"), info(to)),
            Verb::VolumeRename { path, to } => {
                let show = format!("windlass volume list {}", path.pool);
                changes(&[path], Need::Decide, format!("{path} was renamed to {to}"), show)
            }
            Verb::VolumeMove(VolumeMove { path, to, .. }) => {
                let to = VolumePath { pool: to.clone(), volume: path.volume.clone() };
                changes(&[&to, path], Need::Store, format!("{path} was moved to {to}"), info(path))
            }
            Verb::VolumeRestore { path, .. } => {
                let show = format!("windlass volume list {}", path.pool);
                changes(&[path], Need::Decide, format!("{path} was brought back from the trash"), show)
            }
            Verb::VolumeRelease { path } => {
                changes(&[path], Need::Store, format!("{path} was released"), info(path))
            }
            Verb::VolumeSet { path, .. } => {
                changes(&[path], Need::Decide, format!("settings of {path} were changed"), info(path))
            }
            Verb::VolumeCollect { path } => {
                changes(&[path], Need::Store, format!("{path} was collected"), info(path))
            }
            Verb::VolumeRollBack { to, .. } => {
                let what = format!("{} was rolled back to {}", to.volume, to.snapshot);
                changes(&[&to.volume], Need::Store, what, info(&to.volume))
            }
            Verb::VolumeResize { path, .. } => {
                changes(&[path], Need::Decide, format!("{path} was resized"), info(path))
            }
            Verb::VolumeFlatten { path, .. } => {
                changes(&[path], Need::Store, format!("{path} was flattened"), info(path))
            }
            Verb::VolumeUnlock { path, .. } | Verb::VolumeKeys { path } => looks([path.pool.clone()]),
            Verb::VolumeKeyChange(KeyChange { path, .. }) => {
                let show = format!("windlass volume key list {path}");
                changes(&[path], Need::Decide, format!("key slots of {path} were changed"), show)
            }
            Verb::VolumeKeyRotate { path, .. } => {
                let show = format!("windlass volume key list {path}");
                changes(&[path], Need::Store, format!("{path} has a new data key"), show)
            }
            Verb::VolumeCheck { path } | Verb::VolumeChecksum { path, .. } => looks([path.pool.clone()]),
            Verb::VolumeTakeOver { path, .. } => {
                changes(&[path], Need::Decide, format!("{path} was taken over"), info(path))
            }
            Verb::VolumeRemove { path, .. } => {
                changes(&[path], Need::Decide, format!("{path} was removed"), info(path))
            }
            Verb::VolumeInfo { path, .. }
            | Verb::SnapshotList { path, .. }
            | Verb::SnapshotTrash { path }
            | Verb::VolumeHistory { path }
            | Verb::SnapshotAt { path, .. } => looks([path.pool.clone()]),
            Verb::VolumeList { pool: Some(name), .. } | Verb::VolumeTrash { pool: Some(name) } => {
                looks([name.clone()])
            }
            Verb::VolumeList { pool: None, .. } | Verb::VolumeTrash { pool: None } => {
                looks(state.pools.known().into_iter().map(|k| k.name))
            }
            verb => Manner::of_snapshot(verb).unwrap_or_else(|| Manner::of_pool(state, verb)),
        }
    }

    fn of_snapshot(verb: &Verb) -> Option<Manner> {
        let info = |path: &VolumePath| format!("windlass volume info {path}");
        Some(match verb {
            Verb::SnapshotPromise { paths } => {
                let of: Vec<&VolumePath> = paths.iter().map(|p| &p.volume).collect();
                let show = of.first().map_or_else(String::new, |p| format!("windlass snapshot list {p}"));
                changes(&of, Need::Store, "the snapshots are in the pool".into(), show)
            }
            Verb::SnapshotRemove { path, dry_run: true, .. } => looks([path.volume.pool.clone()]),
            Verb::SnapshotCreate { paths, .. } => {
                let of: Vec<&VolumePath> = paths.iter().map(|p| &p.volume).collect();
                let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
                let show = of.first().map_or_else(String::new, |p| format!("windlass snapshot list {p}"));
                changes(&of, Need::Store, format!("{} was made", names.join(", ")), show)
            }
            Verb::SnapshotRemove { path, .. } => {
                let show = format!("windlass snapshot list {}", path.volume);
                changes(&[&path.volume], Need::Store, format!("{path} was removed"), show)
            }
            Verb::Replicate(Replicate { from, to }) => {
                let show = format!("windlass snapshot list {to}");
                changes(&[to, from], Need::Store, format!("{from} was copied to {to}"), show)
            }
            Verb::SnapshotCopy(args) => {
                let what = format!("{} was copied to {}", args.from, args.to);
                let show = format!("windlass snapshot list {}", args.to);
                changes(&[&args.to, &args.from.volume], Need::Store, what, show)
            }
            Verb::Clone { from, to, .. } => {
                changes(&[to, &from.volume], Need::Store, format!("{to} was made"), info(to))
            }
            Verb::CloneMany(args) => {
                let (of, pool) = (&args.from.volume, &args.from.volume.pool);
                let what = format!("all {} clones of {} were made", args.count, args.from);
                changes(&[of], Need::Store, what, format!("windlass volume list {pool}"))
            }
            Verb::SnapshotLock(SnapshotLock { path, .. }) => {
                let show = format!("windlass snapshot list {}", path.volume);
                changes(&[&path.volume], Need::Decide, format!("{path} was locked"), show)
            }
            Verb::SnapshotRestore { path, .. } => {
                let (show, what) =
                    (format!("windlass snapshot list {}", path.volume), "brought back from the trash");
                changes(&[&path.volume], Need::Store, format!("{path} was {what}"), show)
            }
            _ => return None,
        })
    }

    fn of_pool(state: &EngineState, verb: &Verb) -> Manner {
        match verb {
            Verb::PoolRepair { name, labels: true, .. } => Manner {
                end: End::Unknown("labels were written".into(), format!("windlass pool status {name}")),
                ..looks([])
            },
            Verb::PoolRepair { name, .. } => Manner {
                end: End::Unknown("everything was mended".into(), format!("windlass pool scrub {name}")),
                ..looks([name.clone()])
            },
            Verb::PoolReplace { name, .. } => Manner {
                end: End::Unknown("the store was replaced".into(), format!("windlass pool status {name}")),
                ..looks([name.clone()])
            },
            // It opens what can't be opened: nothing is waited for. Cut off, it is run again.
            Verb::PoolForceRecover(args) => Manner {
                end: End::Unknown(
                    format!("pool {} was recovered", args.name),
                    format!("windlass pool force-recover {} --dry-run", args.name),
                ),
                ..looks([])
            },
            Verb::PoolDestroy(args) if args.dry_run => looks([]),
            // By labels, since its registers may be gone already. Cut off, it is run again.
            Verb::PoolDestroy(args) => Manner {
                end: End::Unknown(
                    format!("pool {} was destroyed", args.name),
                    format!("windlass pool destroy {} --dry-run", args.name),
                ),
                ..looks([])
            },
            Verb::PoolSet { name, .. } => Manner {
                need: Some(Need::Decide),
                end: End::Unknown("the settings were changed".into(), format!("windlass pool status {name}")),
                ..looks([name.clone()])
            },
            Verb::PoolStatus { name, .. } | Verb::PoolScrub { name, .. } => looks([name.clone()]),
            Verb::PoolList => looks(state.pools.known().into_iter().map(|k| k.name)),
            Verb::MountEnded { .. } | Verb::MountList | Verb::Status => looks([]),
            // Of pools that are made or forgotten, and of mounts.
            _ => Manner { end: End::Finishes, ..looks([]) },
        }
    }

    /// Carries `work` out as the module says.
    pub async fn carry(
        &self,
        state: &EngineState,
        progress: &ProgressSink,
        work: impl Future<Output = Result<Outcome>>,
    ) -> Result<Outcome> {
        let mut told = std::pin::pin!(self.tell(state, progress).fuse());
        let mut given_up = std::pin::pin!(
            async {
                match self.end {
                    End::Finishes => std::future::pending().await,
                    _ => progress.given_up().cancelled().await,
                }
            }
            .fuse()
        );
        let mut stopped = std::pin::pin!(state.stop.cancelled().fuse());
        // `work` is not polled before the pools are ready: whoever gives up until then is told truly that nothing was
        // changed.
        let mut ready = std::pin::pin!(self.ready(state).fuse());
        futures::select_biased! {
            () = ready => {}
            () = told => {}
            () = given_up => return Err(self.not_begun("given up")),
            () = stopped => return Err(self.not_begun("the daemon is shutting down")),
        }
        let mut work = std::pin::pin!(work.fuse());
        futures::select_biased! {
            done = work => done,
            () = told => Err(Error::new(Kind::Internal, "telling what is waited for has ended")),
            () = given_up => Err(self.broken_off()),
        }
    }

    /// Returns when enough stores answer, or when that can't be told: then the verb itself says why.
    async fn ready(&self, state: &EngineState) {
        let Some(need) = self.need else { return };
        join_all(self.pools.iter().map(|name| async {
            if let Ok(open) = state.pools.get(name).await {
                open.pool.ready(need).await;
            }
        }))
        .await;
    }

    /// Returns a sentence that tells what has been done when the verb has succeeded.
    pub fn deed(&self) -> Option<String> {
        match &self.end {
            End::Unknown(what, _) => Some(what.clone()),
            _ => None,
        }
    }

    fn not_begun(&self, why: &str) -> Error {
        let what = if self.need.is_some() { ": nothing was changed" } else { "" };
        Error::new(Kind::Closed, format!("{why}{what}"))
    }

    fn broken_off(&self) -> Error {
        let again = if self.resumes { "; the same command goes on where it was" } else { "" };
        match &self.end {
            End::Unknown(what, show) => Error::new(
                Kind::Closed,
                format!("given up midway: it is not known whether {what}; `{show}` shows it{again}"),
            ),
            _ => self.not_begun(&format!("given up{again}")),
        }
    }

    /// Tells again and again what is waited for; it never returns.
    async fn tell(&self, state: &EngineState, progress: &ProgressSink) {
        let rt = &state.host_context.rt;
        let began = rt.now();
        rt.sleep(FIRST).await;
        loop {
            let seconds = rt.now().since(began).as_secs();
            for sentence in self.waits(state) {
                progress.say(format!("{sentence} ({seconds} s)"));
            }
            rt.sleep(AGAIN).await;
        }
    }

    /// Returns what is waited for now, as far as it can be told.
    pub fn waits(&self, state: &EngineState) -> Vec<String> {
        let opened = state.pools.opened();
        let mut said = Vec::new();
        for name in &self.pools {
            let Some((_, open)) = opened.iter().find(|(n, _)| n == name) else {
                said.push(format!(
                    "waiting for pool {name} to open: too few of its stores have answered yet"
                ));
                continue;
            };
            let condition = open.pool.condition();
            if condition.lacks(self.need.unwrap_or(Need::Decide)) {
                said.push(format!("waiting for pool {name}: {}", condition.sentence()));
            }
        }
        if said.is_empty() {
            for path in &self.volumes {
                let open = opened.iter().find(|(n, _)| *n == path.pool);
                let unsent =
                    open.and_then(|(_, o)| o.volumes.glance(&path.volume)).map_or(0, |i| i.unsent_bytes);
                if unsent > 0 {
                    said.push(format!(
                        "waiting for {path}: {} are on their way to the pool",
                        show_bytes(unsent)
                    ));
                }
            }
        }
        said
    }
}
