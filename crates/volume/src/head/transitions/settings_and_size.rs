//! What a volume is told while it lives: other settings, a larger size, and the trace of a clone's first boot.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::head::boot_trace::{BootTrace, Trace};
use crate::head::head_value::{Head, Move, NEW_HEAD_MAX};
use windlass_base::{Epoch, Error, Kind, Result};

impl Head {
    /// Grows the volume to `size` bytes; what is behind its old end reads as zeros. `Refused` when it is
    /// larger already.
    pub fn grow(&self, epoch: Epoch, size: u64) -> Result<Move> {
        self.owned(epoch)?;
        self.no_template()?;
        match size.cmp(&self.size) {
            Ordering::Less => Err(Error::new(Kind::Refused, "the volume is larger than that by now")),
            Ordering::Equal => Ok(Move::Already),
            Ordering::Greater => self.with(|h| h.size = size),
        }
    }

    /// Changes settings, all of the assignments or none. `by`: the ownership of who asks; none: the volume is
    /// released, and anybody may.
    pub fn set_settings(&self, by: Option<Epoch>, assignments: &[String]) -> Result<Move> {
        match by {
            Some(epoch) => self.owned(epoch)?,
            None => self.may_take(&BTreeSet::new())?,
        }
        let settings = self.settings.assigned(assignments)?;
        if settings == self.settings {
            return Ok(Move::Already);
        }
        settings.check_for(self.keys.is_some())?;
        self.with(|h| {
            h.settings = settings;
            h.boot = h.boot.take().filter(|_| settings.boot_trace.is_kept());
        })
    }

    /// Keeps what a clone's first boot has read, unless another was first, or nobody asks for it any more.
    ///
    /// Any host may make this change, as a clone may be another host's. It waits for no claim, and only the
    /// volume's owner sets what may be kept.
    pub fn keep_boot(&self, trace: &Trace) -> Result<Move> {
        self.gone()?;
        if self.settings.boot_trace != BootTrace::Record {
            return Ok(Move::Already);
        }
        let kept = self.with(|h| {
            h.settings.boot_trace = trace.kept();
            h.boot = Some(trace.clone());
        })?;
        match &kept {
            Move::To(head) if head.encode()?.len() > NEW_HEAD_MAX => {
                Err(Error::new(Kind::Refused, "the volume's description has no room for a boot trace"))
            }
            _ => Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heads_for_tests::{OWNED, born, claimer, host, owned, to};
    use super::super::ownership::Claimer;
    use super::*;
    use crate::head::FlushMode;

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        let head = owned();
        let size = head.size;
        assert_eq!(head.grow(OWNED, size).unwrap(), Move::Already);
        assert!(head.grow(OWNED, size - 512).unwrap_err().is(Kind::Refused));
        assert!(head.grow(Epoch(2), size + 512).is_err(), "not the owner");
        assert_eq!(to(head.grow(OWNED, size + 512)).size, size + 512);
    }

    #[test]
    fn settings_are_changed_by_the_owner_or_of_a_released_volume_by_anybody() {
        let set = |head: &Head, by: Option<Epoch>, what: &[&str]| {
            let what: Vec<String> = what.iter().map(|one| (*one).to_owned()).collect();
            head.set_settings(by, &what)
        };
        let changed = to(set(&born(), None, &["flush=pool", "max-tail=1s"]));
        assert_eq!((changed.settings.flush, changed.settings.max_tail_ms), (FlushMode::Pool, 1_000));
        assert_eq!(set(&changed, None, &["flush=pool"]).unwrap(), Move::Already);
        assert!(
            set(&born(), None, &["flush=pool", "max-tail=1"]).unwrap_err().is(Kind::Usage),
            "all or none"
        );
        let owned = owned();
        assert!(set(&owned, None, &["flush=pool"]).unwrap_err().is(Kind::Owned));
        assert!(set(&owned, Some(Epoch(2)), &["flush=pool"]).unwrap_err().is(Kind::Fenced));
        let zstd = to(set(&owned, Some(OWNED), &["compression=zstd"]));
        assert_eq!((zstd.format, owned.format), (2, 1), "who doesn't know it refuses the head");
        assert_eq!(Head::decode(&zstd.encode().unwrap()).unwrap(), zstd);
        assert_eq!(to(set(&zstd, Some(OWNED), &["compression=lz4"])).format, 1);
        let (two, none) = (host(2), BTreeSet::new());
        let claimed = to(owned.claim(&Claimer { force: true, ..claimer(&two, 22, &none) }));
        assert!(
            set(&claimed, Some(OWNED), &["flush=pool"]).unwrap_err().is(Kind::Fenced),
            "a claim freezes them"
        );
    }
}
