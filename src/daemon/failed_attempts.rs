//! What this daemon has tried in vain, each with the reason, until it succeeds or is wanted no more. `status` tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::answers::HostTrouble;
use super::api::VolumePath;
use windlass_base::Name;
use windlass_base::rt::Instant;

/// Most failed attempts that are kept at a time: names that clients ask for are the clients' choice.
const KEPT_MAX: usize = 100;
/// Time after which a client's failed attempt is forgotten: a client that still wants the volume has tried again by
/// then.
const CLIENTS: Duration = Duration::from_secs(10 * 60);

/// Something that the daemon tries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Attempt {
    /// The attempt to find a pool of windlass.toml that this host does not know yet.
    FindPool(Name),
    /// The attempt to mount what windlass.toml plans, by its folder.
    Mount(String),
    /// A pool's planned scrub.
    Scrub(Name),
    /// The attempt to open a volume again that was open here when the daemon was cut off.
    Reopen(VolumePath),
    /// The attempt to let a client in that asked for a volume or snapshot, by its export's name.
    Connect(String),
}

/// Attempts that failed, each with the time and the reason. See the module.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<Attempt, (Instant, String)>>);

impl Troubles {
    pub fn failed(&self, attempt: Attempt, now: Instant, why: String) {
        let mut all = self.0.lock();
        all.retain(|attempt, (at, _)| !is_over(attempt, *at, now));
        if all.len() < KEPT_MAX || all.contains_key(&attempt) {
            all.insert(attempt, (now, why));
        }
    }

    /// Forgets an attempt that has succeeded, or that nobody wants any more.
    pub fn over(&self, attempt: &Attempt) {
        self.0.lock().remove(attempt);
    }

    pub fn list(&self, now: Instant) -> Vec<HostTrouble> {
        let all = self.0.lock();
        let standing = all.iter().filter(|(attempt, (at, _))| !is_over(attempt, *at, now));
        let told = |(attempt, (_, why)): (&Attempt, &(Instant, String))| HostTrouble {
            name: attempt.name().into(),
            trouble: attempt.failed_by(why),
        };
        standing.map(told).collect()
    }
}

fn is_over(attempt: &Attempt, at: Instant, now: Instant) -> bool {
    matches!(attempt, Attempt::Connect(_)) && now.since(at) > CLIENTS
}

impl Attempt {
    fn name(&self) -> &'static str {
        match self {
            Attempt::FindPool(_) => "pool",
            Attempt::Mount(_) => "mount",
            Attempt::Scrub(_) => "scrub",
            Attempt::Reopen(_) => "reopen",
            Attempt::Connect(_) => "client",
        }
    }

    /// Returns a sentence that tells that the attempt fails, why, and what to do.
    pub fn failed_by(&self, why: &str) -> String {
        match self {
            Attempt::FindPool(name) => {
                format!(
                    "pool {name} can't be found now; it is tried again, as windlass.toml names it (`systemctl reload windlass`: at once): {why}"
                )
            }
            Attempt::Mount(dir) => {
                format!(
                    "{dir} can't be mounted now; it is tried again, as windlass.toml plans it (`systemctl reload windlass`: at once): {why}"
                )
            }
            Attempt::Scrub(name) => format!(
                "pool {name}: its planned scrub failed and is tried again within an hour (`windlass pool scrub {name}` does it now): {why}"
            ),
            Attempt::Reopen(path) => format!(
                "{path}: it was open here when the daemon was cut off, and can't be opened now: what it had not stored waits in \
                 this host's journal. While stores or a peer are away it is tried again; else a client that opens it tries: {}",
                with_key(&path.to_string(), why)
            ),
            Attempt::Connect(export) => {
                format!("{export}: a client could not connect: {}", with_key(export, why))
            }
        }
    }
}

/// Returns the reason. For a volume without its key the sentence tells what gives the key, with the volume's name in
/// it.
fn with_key(volume: &str, why: &str) -> String {
    if !why.contains("its key is not here") {
        return why.to_owned();
    }
    format!(
        "it is encrypted, and its key is not here. `windlass volume unlock {volume} --key-file FILE` gives it until the daemon \
         ends, and `key_file` under [volume.\"{volume}\"] of windlass.toml at each start"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_told_until_it_succeeds_and_a_clients_for_a_while() {
        let (troubles, at) = (Troubles::default(), |s| Instant(Duration::from_secs(s)));
        let connect = |n: u32| Attempt::Connect(format!("p/v{n}"));
        troubles.failed(Attempt::Mount("/m".into()), at(0), "the folder is not there".into());
        troubles.failed(connect(1), at(0), "no key".into());
        troubles.failed(connect(1), at(500), "no key yet".into());
        let said = |s| troubles.list(at(s)).into_iter().map(|told| told.trouble).collect::<Vec<_>>();
        assert!(said(1000).len() == 2 && said(1000)[1].ends_with("no key yet"), "{:?}", said(1000));
        let later = said(1101);
        assert!(later.len() == 1 && later[0].starts_with("/m can't be mounted"), "{later:?}");
        troubles.over(&Attempt::Mount("/m".into()));
        assert!(said(1101).is_empty());
        // Names without end take no memory without end, and keep no place for long.
        (0..1000).for_each(|n| troubles.failed(connect(n), at(2000), "no".into()));
        assert_eq!(said(2000).len(), KEPT_MAX);
        troubles.failed(connect(5000), at(2601), "no".into());
        assert_eq!(said(2601).len(), 1);
    }
}
