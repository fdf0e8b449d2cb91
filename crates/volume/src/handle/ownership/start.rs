//! How a session begins: the tasks that its replay needs, the replay of the journal, then all others. Until the replay is in, memory
//! does not know of all that the journal alone has, so nothing runs that may trim, mend or add to the journal.

use std::sync::Arc;

use crate::checkpoint::{compact, delete_retired, make_checkpoints, sweep_when_due};
use crate::head::Stop;
use crate::mirroring::keep_mirror;
use crate::read::VolumeContext;
use crate::session::takeover::Taken;
use crate::session::{
    Session, confirm_when_asked, cut_chunks, keep_history, mend_journal, trim_journal, watch_quota,
    watch_stores,
};
use crate::space::{ChunkTable, Tables};
use windlass_base::Result;
use windlass_journal::Journal;

/// Builds the tip from what was adopted, replays the journal, starts the tasks. The tables and the chunk table are those
/// under the head's checkpoint. Replaying is given up when `left` is ready.
///
/// # Errors
/// What was adopted or the journal can't be read, or `left` was ready first; the journal is let go then.
pub async fn start(
    context: Arc<VolumeContext>,
    taken: Taken,
    journal: Journal,
    books: (Tables, ChunkTable),
    left: impl Future<Output = ()>,
) -> Result<Arc<Session>> {
    let after = taken.adopted.last().map_or(taken.head.checkpoint.last_lsn, |a| a.toc.last);
    let before = taken.before;
    let session = Session::new(context, taken, journal, books)?;
    let gated = session.head.lock().is_mirrored_elsewhere(session.context.engine.host.id);
    if gated {
        // Before any task: what closes the gate too would lift this one.
        session.begin_gated();
    }
    session.run(cut_chunks);
    session.run(confirm_when_asked);
    session.run(make_checkpoints);
    session.run(watch_stores);
    let chunk_table = ChunkTable::clone(&session.chunk_table.lock());
    session.recorded(chunk_table);
    match session.replay(after, left).await {
        Ok(()) => {
            session.run(trim_journal);
            session.run(mend_journal);
            if session.journal.failed().is_some() {
                session.mending.want();
            }
            session.run(watch_quota);
            session.run(delete_retired);
            session.run(compact);
            session.run(move |session| sweep_when_due(session, before));
            session.run(move |session| keep_mirror(session, gated));
            session.run(keep_history);
            Ok(session)
        }
        Err(stop) => {
            session.stop(Stop::Again);
            // The next attempt opens it again.
            let _ = session.leave_journal().await;
            Err(stop.error())
        }
    }
}
