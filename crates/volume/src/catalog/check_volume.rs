//! A check of a volume, on any host: its owner may go on meanwhile.

use futures::future::BoxFuture;

use super::volumes::Volumes;
use crate::checkpoint::{CheckReport, check};
use crate::handle::Known;
use crate::head::Head;
use windlass_base::{Error, Kind, Name, Result};

/// Number of times that a check begins, each time with a newer checkpoint.
const CHECKS_MAX: usize = 5;

impl Volumes {
    /// Recomputes from the maps of one recorded checkpoint what is needed, and compares it with that checkpoint's chunk table.
    /// Where the volume is open, nothing of it is deleted meanwhile; elsewhere its owner may delete what later checkpoints
    /// don't need, and then the newest of them is checked, from the beginning.
    pub fn check<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<CheckReport>> {
        Box::pin(async move {
            let id = self.id(name).await?;
            let (mut tries, mut failed) = (0, None::<(Head, Error, bool)>);
            loop {
                // Before the head is read: all that it names stays.
                let kept = match self.here(id).map(|v| v.known()) {
                    Some(Known::Live(session)) => Some(session.keep_retired()),
                    _ => None,
                };
                let head = self.head(name, id).await?;
                self.engine.check_open(name, &head).await?;
                if let Some((was, error, held)) = failed.take() {
                    if was.checkpoint.nonce == head.checkpoint.nonce {
                        return Err(error);
                    }
                    if tries == CHECKS_MAX {
                        return Err(self.outrun(name, &head, error, held));
                    }
                    tracing::debug!(volume = %name, %error, "a newer checkpoint was made: the check begins anew");
                }
                tries += 1;
                match check(&self.engine, &head).await {
                    // The next look at the head tells damage from what was deleted.
                    Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Unavailable | Kind::Removed) => {
                        failed = Some((head, e, kept.is_some_and(|kept| kept.holds())));
                    }
                    done => return done,
                }
            }
        })
    }

    /// Returns the error of a check that came to no end, though it began with a newer checkpoint every time. `held`: this host
    /// deleted nothing that the last one needed.
    fn outrun(&self, name: &Name, head: &Head, error: Error, held: bool) -> Error {
        let title = self.engine.title(name);
        let why = match &head.active.owner {
            Some(owner) if owner.id != self.engine.host.id => format!(
                "volume {title} is being changed by its owner {owner} faster than it can be checked from here: run \
                 `windlass volume check` on that host"
            ),
            _ if held => return error.context(format!("volume {title}")),
            _ => format!(
                "volume {title} is being changed faster than it can be checked: try again when less is written to it"
            ),
        };
        Error::new(Kind::Unavailable, why)
    }
}
