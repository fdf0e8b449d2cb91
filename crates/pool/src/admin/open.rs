//! Opening a pool: found by its stores' labels, whichever of them answer.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::handle::Pool;
use crate::io::PoolContext;
use crate::local::HostClock;
use crate::local::MissingShards;
use crate::local::ProvenServers;
use crate::local::ScrubCursor;
use crate::register::Register;
use crate::stores::PoolConfig;
use crate::stores::Roster;
use crate::stores::{Found, find_all, hints, read_labels, refuse_destroyed};
use crate::stores::{PoolHost, PoolStore};
use windlass_base::{Error, Kind, Result};

/// Longest time that the first value may take to be in every store, and that opening waits for what every store says.
pub(super) const EVERYWHERE: Duration = Duration::from_secs(2);
/// Time after which opening says who does not answer.
const OPEN_WAIT: Duration = Duration::from_secs(10);

impl Pool {
    /// Opens a pool from its stores' labels. A store that is away, emptied or another pool's doesn't hinder, as long as a
    /// majority of those that hold registers answer.
    ///
    /// A label only tells where to begin. Nobody writes a generation into one, without the generation before it, until it is
    /// known chosen: where a majority knows nothing of it that label is wrong, and the next one tells.
    pub fn open(host: PoolHost, stores: Vec<PoolStore>) -> BoxFuture<'static, Result<Arc<Pool>>> {
        Box::pin(async move {
            let labels = read_labels(&host, &stores).await;
            refuse_destroyed(&labels)?;
            Pool::open_labelled(host, stores, labels).await
        })
    }

    /// Opens a pool as `open` does, also one whose destruction was begun and broken off: for whoever continues the
    /// destruction. Other hosts may have the pool open all the while, and write to it.
    pub fn open_to_destroy(host: PoolHost, stores: Vec<PoolStore>) -> BoxFuture<'static, Result<Arc<Pool>>> {
        Box::pin(async move {
            let labels = read_labels(&host, &stores).await;
            Pool::open_labelled(host, stores, labels).await
        })
    }

    async fn open_labelled(
        host: PoolHost,
        mut stores: Vec<PoolStore>,
        mut labels: Vec<Found>,
    ) -> Result<Arc<Pool>> {
        let hints = hints(&stores, &labels)?;
        let given = stores.len();
        for hint in &hints {
            if let Some(pool) = Pool::open_by(&host, hint, &mut stores, &mut labels).await? {
                return Ok(pool);
            }
            // The others are those that this label listed.
            stores.truncate(given);
            labels.truncate(given);
            let (name, generation) = (&hint.name, hint.generation.0);
            let wrong: Vec<&str> = tell(&stores, &labels, hint).collect();
            tracing::warn!(pool = %name, generation, ?wrong, "no majority of the pool's stores knows what these labels tell");
        }
        Err(undecided(&stores, &labels, &hints[0]))
    }

    /// Opens the pool by the description in one label. `None`: a majority of the stores that the description names has none.
    async fn open_by(
        host: &PoolHost,
        hint: &PoolConfig,
        stores: &mut Vec<PoolStore>,
        labels: &mut Vec<Found>,
    ) -> Result<Option<Arc<Pool>>> {
        // While a replacement is under way registers may still be where they were before.
        let config = hint.predecessor().unwrap_or_else(|| hint.clone());
        let seats = find_all(host, &config, stores, labels).await?;
        let roster = Roster::new(host, &config, stores.clone(), &seats);
        for (member, seat) in roster.current().members.iter().zip(&seats) {
            if let Some(Found::Silent(why)) = seat.map(|at| &labels[at]) {
                // Waited for once is enough: it counts as away until it answers.
                member.was_silent(why);
            }
        }
        if hint.forced.is_some() {
            // Written after that generation was known chosen. The stores that it gave up may be back and tell another story.
            roster.learn(&hint.encode()).await?;
        }
        let register = Register::new(host.rt.clone(), roster.clone(), PoolConfig::register(config.pool));
        if config.acceptors.len() > 1 {
            // The same where the label of who could tell is behind: those that were given up would agree among themselves.
            register.hear_soon(EVERYWHERE).await?;
        }
        let Some(value) = register.with_deadline(OPEN_WAIT).read().await? else { return Ok(None) };
        let current = PoolConfig::decode(&value)?;
        roster.learn(&value).await?;
        if roster.current().generation != current.generation {
            return Err(Error::new(Kind::Corrupt, "the stores' labels and the pool's description disagree"));
        }
        let missing_shards =
            MissingShards::open(&host.rt, host.disk.clone(), &host.folder, current.pool).await?;
        let scrub_cursor = ScrubCursor::new(host.disk.clone(), &host.folder, current.pool);
        let proven = ProvenServers::new(host.disk.clone(), &host.folder, current.pool);
        let clock = HostClock::open(&host.rt, &host.disk, &host.folder).await;
        let rt = host.rt.clone();
        let context =
            PoolContext::new(rt, current.layout, roster, missing_shards, scrub_cursor, proven, clock);
        Ok(Some(Pool::new(&current, context)))
    }
}

/// Returns the URLs of the stores whose labels have this description.
fn tell<'a>(
    stores: &'a [PoolStore],
    labels: &'a [Found],
    hint: &'a PoolConfig,
) -> impl Iterator<Item = &'a str> {
    let of = move |(_, found): &(_, &Found)| found.label().is_some_and(|label| label.hint == *hint);
    stores.iter().zip(labels).filter(of).map(|(store, _)| store.url.as_str())
}

/// Returns the error for stores that have labels of a pool and no description. The text must not tell anybody to delete
/// something: labels can be wrong, and then all of the pool is there.
fn undecided(stores: &[PoolStore], labels: &[Found], newest: &PoolConfig) -> Error {
    let wrong: Vec<&str> = tell(stores, labels, newest).collect();
    let why = format!(
        "pool {} has no description in its stores, though {} tell of its generation {}: either its creation was broken off, \
         then create it in other places; or these labels are wrong: delete nothing",
        newest.name,
        wrong.join(", "),
        newest.generation.0
    );
    Error::new(Kind::Invalid, why)
}
