//! How names and ids of CSI and those of Windlass belong together.
//!
//! A volume's id is `POOL/VOLUME`, a snapshot's `POOL/VOLUME@SNAPSHOT`: what `windlass` itself takes. An orchestrator's name
//! for a new volume or snapshot becomes the name in Windlass as it is, where it can be one (`pvc-3f1c…`). Else that is what is
//! left of it in the characters of such names, then `..` and 24 hexadecimal digits of its SHA-256. Names with `..` in them are
//! always hashed, so two names of an orchestrator never become one.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Longest name in Windlass.
const NAME_MAX: usize = 63;
/// Separator between the slug of a name and its hash.
const HASHED: &str = "..";
const HASH_DIGITS: usize = 24;
/// Prefix of snapshots that are taken to clone a volume that is no snapshot. They go with the clone, and are
/// never shown.
const CLONED: &str = "csi-clone-";
/// Prefix of a volume's name until it is ready to be used by its own name.
const UNFINISHED: &str = "csi-new-";
/// Digits of the random number by which two snapshots for clones are told apart.
const NONCE_DIGITS: usize = 20;

/// A volume, or a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub pool: String,
    pub volume: String,
    pub snapshot: Option<String>,
}

impl Id {
    pub fn volume(pool: &str, volume: &str) -> Id {
        Id { pool: pool.to_owned(), volume: volume.to_owned(), snapshot: None }
    }

    pub fn at(&self, snapshot: &str) -> Id {
        Id { snapshot: Some(snapshot.to_owned()), ..self.clone() }
    }

    /// Returns the volume that the snapshot is of.
    pub fn parent(&self) -> Id {
        Id { snapshot: None, ..self.clone() }
    }

    /// Tells whether this is a snapshot that was taken to clone the volume.
    pub fn is_for_a_clone(&self) -> bool {
        self.snapshot.as_deref().is_some_and(is_for_a_clone)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)?;
        self.snapshot.iter().try_for_each(|snapshot| write!(f, "@{snapshot}"))
    }
}

/// The text is no id of ours: there is no such volume.
#[derive(Debug)]
pub struct Foreign;

impl FromStr for Id {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Id, Foreign> {
        let (pool, rest) = text.split_once('/').ok_or(Foreign)?;
        let (volume, snapshot) = match rest.split_once('@') {
            Some((volume, snapshot)) => (volume, Some(snapshot.to_owned())),
            None => (rest, None),
        };
        let names = [Some(pool), Some(volume), snapshot.as_deref()].into_iter().flatten().all(is_name);
        match names {
            true => Ok(Id { pool: pool.to_owned(), volume: volume.to_owned(), snapshot }),
            false => Err(Foreign),
        }
    }
}

/// Tells whether the text can be a name in Windlass.
pub fn is_name(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= NAME_MAX
        && bytes.first().is_some_and(|b| first(*b))
        && bytes.iter().all(|b| first(*b) || b"._-".contains(b))
}

/// Returns the volume's name for an orchestrator's name of it.
pub fn volume_name(name: &str) -> String {
    let text = plain(name);
    match is_unfinished(&text) {
        true => hashed(&format!("of-{name}")),
        false => text,
    }
}

fn plain(name: &str) -> String {
    match is_name(name) && !name.contains(HASHED) {
        true => name.to_owned(),
        false => hashed(name),
    }
}

/// Returns the name that a volume has until it is ready to be used; `volume` is its own name.
pub fn unfinished(volume: &str) -> String {
    plain(&format!("{UNFINISHED}{volume}"))
}

pub fn is_unfinished(volume: &str) -> bool {
    volume.starts_with(UNFINISHED)
}

/// Returns the snapshot's name for an orchestrator's name of it.
pub fn snapshot_name(name: &str) -> String {
    let text = plain(name);
    match is_for_a_clone(&text) {
        true => hashed(&format!("of-{name}")),
        false => text,
    }
}

/// Returns a name for a new snapshot by which a volume is cloned. `drawn` tells it from the snapshots of
/// earlier clones of this name, which show what their source was then. The clone's name follows, for people.
pub fn clone_snapshot(drawn: u128, volume: &str) -> String {
    let nonce = format!("{drawn:032x}");
    let name = format!("{CLONED}{}-{volume}", &nonce[..NONCE_DIGITS]);
    name[..name.len().min(NAME_MAX)].to_owned()
}

pub fn is_for_a_clone(snapshot: &str) -> bool {
    snapshot.starts_with(CLONED)
}

fn hashed(name: &str) -> String {
    let kept = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-').then_some(c);
    let slug: String = name.to_ascii_lowercase().chars().filter_map(kept).collect();
    let slug = slug.trim_start_matches(['-', '_']);
    let room = NAME_MAX - HASHED.len() - HASH_DIGITS;
    let slug = if slug.is_empty() { "x" } else { &slug[..slug.len().min(room)] };
    let digest = Sha256::digest(name.as_bytes());
    let digits: String = digest.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{slug}{HASHED}{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_name_stays_as_it_is() {
        let usual = "pvc-3f1c0c1e-7c5a-4a53-9a5f-0d5f6f7a8b9c";
        assert_eq!(volume_name(usual), usual);
        assert_eq!(volume_name(&"a".repeat(63)), "a".repeat(63));
    }

    #[test]
    fn other_names_are_hashed_and_none_becomes_anothers() {
        let odd = ["", "Web", "web ", "-web", "_", "ä", "a..b", "Sanity-Controller-0F", "web/1", "x@y"];
        let long = format!("sanity-{}", "a".repeat(121));
        let mut all: Vec<String> = odd.iter().map(|name| volume_name(name)).collect();
        all.push(volume_name(&long));
        // A name that looks as if it had been hashed is hashed itself.
        all.push(volume_name(&volume_name("Web")));
        for name in &all {
            assert!(is_name(name), "{name}");
        }
        let (count, mut once) = (all.len(), all);
        once.sort();
        once.dedup();
        assert_eq!(once.len(), count);
        // Volumes are found again by this: it stays as it is.
        assert_eq!(volume_name("Web"), "web..2975104784a401e3880e2215");
        assert!(volume_name(&long).starts_with("sanity-aaaa"));
        assert_eq!(volume_name(&long).len(), NAME_MAX);
    }

    #[test]
    fn snapshots_for_clones_are_told_from_others() {
        let short = clone_snapshot(0xab << 100, "pvc-1");
        assert_eq!(short, "csi-clone-00000ab0000000000000-pvc-1");
        let long = clone_snapshot(u128::MAX, &"v".repeat(63));
        assert!(is_name(&long) && is_for_a_clone(&long) && is_for_a_clone(&short));
        assert_ne!(clone_snapshot(1 << 100, "pvc-1"), short, "another attempt's");
        for name in ["csi-clone-pvc-1", "CSI-clone-x", "csi-clone-"] {
            let own = snapshot_name(name);
            assert!(is_name(&own) && !is_for_a_clone(&own), "{own}");
        }
        assert_eq!(snapshot_name("snapshot-1"), "snapshot-1");
    }

    #[test]
    fn no_volume_has_the_name_of_an_unfinished_one() {
        assert_eq!(unfinished("pvc-1"), "csi-new-pvc-1");
        assert!(is_name(&unfinished(&"v".repeat(63))) && is_unfinished(&unfinished(&"v".repeat(63))));
        for name in ["csi-new-pvc-1", "CSI-new-x", "csi-new-"] {
            let own = volume_name(name);
            assert!(is_name(&own) && !is_unfinished(&own), "{own}");
        }
    }

    #[test]
    fn ids_are_paths_of_windlass() {
        for text in ["tank/web", "tank/web@monday", "t/w..0a"] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
        for text in
            ["", "web", "tank/", "/web", "tank/web@", "tank/Web", "a/b/c", "a/b@c@d", "fake-vol-id", "a/../b"]
        {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
        let id: Id = "tank/web@csi-clone-x".parse().unwrap();
        assert!(id.is_for_a_clone() && !id.parent().is_for_a_clone());
        assert_eq!(id.parent(), Id::volume("tank", "web"));
        assert_eq!(id.parent().at("csi-clone-x"), id);
    }
}
