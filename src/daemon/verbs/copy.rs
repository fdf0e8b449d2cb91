//! Copies of snapshots in other volumes, of other pools mostly.

use crate::base::Result;
use crate::base::size::show_bytes;
use crate::daemon::answers::SnapshotCopied;
use crate::daemon::api::{Outcome, SnapshotCopy};
use crate::daemon::control::ProgressSink;
use crate::daemon::engine_tables::EngineState;
use crate::volume::{Copied, Copying};

/// Cut off, the next one goes on. Nobody uses the copy meanwhile.
pub async fn copy_snapshot(
    state: &EngineState,
    args: &SnapshotCopy,
    progress: &ProgressSink,
) -> Result<Outcome> {
    let copied = copy(state, args, &|doing, done, total| progress.tell(doing, done, total)).await?;
    let note = said(args, &copied);
    let answer = SnapshotCopied { from: args.from.clone(), to: args.to.clone(), copied };
    Ok(Outcome::of(&answer)?.note(note))
}

async fn copy(
    state: &EngineState,
    args: &SnapshotCopy,
    progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
) -> Result<Copied> {
    let SnapshotCopy { from, to, roll_back, verify_all } = args;
    let source = &state.pools.get(&from.volume.pool).await?.volumes;
    let target = &state.pools.get(&to.pool).await?.volumes;
    let _alone = state.sessions.alone(to, target, "copied to", false).await?;
    let how = Copying { roll_back: *roll_back, verify_all: *verify_all, progress };
    let from = (source, &from.volume.volume, &from.snapshot);
    crate::volume::copy_snapshot(from, (target, &to.volume), how).await
}

fn said(SnapshotCopy { from, to, .. }: &SnapshotCopy, copied: &Copied) -> String {
    if copied.already {
        return format!("{to} has {from} already");
    }
    let on = match &copied.base {
        Some(base) => format!("on {to}@{base}"),
        None => "in full".into(),
    };
    format!(
        "{from} was copied to {to}@{}, {on}: {} written, {} zeroed, {} compared on both sides",
        from.snapshot,
        show_bytes(copied.copied_bytes),
        show_bytes(copied.zeroed_bytes),
        show_bytes(copied.verified_bytes)
    )
}
