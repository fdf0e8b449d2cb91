//! What one loss takes of a pool: its stores that share a bucket, a filesystem, a zone or a server.

use std::collections::BTreeMap;

use super::check::Check;
use super::folder_facts::Folder;
use windlass_base::units::show_count;
use windlass_store::{StoreSpec, StoreUrl};

/// A store of a pool, and the filesystem that it is on if it is a folder.
#[derive(Clone, Debug)]
pub struct Placed {
    pub spec: StoreSpec,
    pub device: Option<u64>,
}

impl Placed {
    pub fn of(spec: StoreSpec) -> Placed {
        let device = match &spec.url {
            StoreUrl::File { dir } => Folder::look(dir).ok().map(|folder| folder.device),
            _ => None,
        };
        Placed { spec, device }
    }

    /// Returns the things with which the store may be lost: the kind of each, and its name.
    fn shares(&self) -> Vec<(&'static str, String)> {
        let mut shares = Vec::new();
        shares.extend(self.spec.zone.iter().map(|zone| ("zone", zone.clone())));
        match &self.spec.url {
            StoreUrl::S3(place) => {
                let endpoint = place.endpoint.as_deref().unwrap_or("AWS");
                shares.push(("bucket", format!("{} at {endpoint}", place.bucket)));
                shares.push(("server", endpoint.to_owned()));
            }
            StoreUrl::File { .. } => {
                shares.extend(self.device.map(|device| ("filesystem", device.to_string())));
            }
            StoreUrl::Mem { .. } => {}
        }
        shares
    }
}

/// Judges how much of a pool one loss takes. `bears`: how many of its stores the pool may lose.
pub fn judge(pool: &str, stores: &[Placed], bears: Option<usize>) -> Check {
    let name = "pool-apart";
    let check = match bears {
        None => Check::unknown(name, "the pool is not open: what it may lose can't be told"),
        Some(_) if stores.len() < 2 => Check::warn(
            name,
            "has one store: when that is lost, all is",
            "make a pool of several stores, as 4+2, and move its volumes",
        ),
        Some(0) => Check::warn(
            name,
            "has no parity: the loss of any store loses data",
            "make a pool with parity, as 4+2, and move its volumes",
        ),
        Some(bears) => together(stores, bears),
    };
    check.of(pool)
}

fn together(stores: &[Placed], bears: usize) -> Check {
    let name = "pool-apart";
    let mut shared: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for share in stores.iter().flat_map(Placed::shares) {
        *shared.entry(share).or_default() += 1;
    }
    let bears_them = show_count(bears as u64, "store");
    let worst = |of_servers: bool| {
        let some = shared.iter().filter(|((kind, _), n)| (*kind == "server") == of_servers && **n > bears);
        some.max_by_key(|(_, n)| **n)
    };
    if let Some(((kind, which), n)) = worst(false) {
        let which = if *kind == "filesystem" { String::new() } else { format!(" {which}") };
        let found = format!(
            "{n} of its {} stores are in one {kind}{which}, and it bears the loss of {bears_them}",
            stores.len()
        );
        let cure = format!("`windlass pool replace` puts a store elsewhere: at most {bears} in one {kind}");
        return Check::warn(name, found, cure);
    }
    // Usual, and often meant: a provider is one server.
    match worst(true) {
        Some(((_, which), n)) => Check::ok(
            name,
            format!(
                "{n} of its stores are at {which}: when that is away, I/O waits; elsewhere they are apart"
            ),
        ),
        None => Check::ok(
            name,
            format!("no one bucket, filesystem or zone takes more than the {bears_them} that it may lose"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;

    fn judged(stores: &[(&str, Option<u64>)], bears: Option<usize>) -> (State, String) {
        let stores: Vec<Placed> = stores
            .iter()
            .map(|(url, device)| Placed { spec: url.parse().unwrap(), device: *device })
            .collect();
        let check = judge("p", &stores, bears);
        (check.state, check.found)
    }

    #[test]
    fn what_is_lost_together_is_told() {
        let apart = [("file:///a", Some(1)), ("file:///b", Some(2)), ("file:///c", Some(3))];
        assert_eq!(judged(&apart, Some(1)).0, State::Ok);
        let shared = [("file:///a", Some(1)), ("file:///b", Some(1)), ("file:///c", Some(3))];
        assert!(judged(&shared, Some(1)).1.starts_with("2 of its 3 stores are in one filesystem,"));
        assert_eq!(judged(&shared, Some(2)).0, State::Ok);
        let bucket = [("s3://b/1", None), ("s3://b/2", None), ("s3://c/3", None)];
        assert!(judged(&bucket, Some(1)).1.contains("in one bucket b at AWS"));
        let server = [("s3://a", None), ("s3://b", None), ("s3://c", None)];
        let (state, found) = judged(&server, Some(1));
        assert!(state == State::Ok && found.starts_with("3 of its stores are at AWS"), "{found}");
        let zones = [("s3://a,zone=x", None), ("s3://b,zone=x", None), ("s3://c,zone=y", None)];
        assert!(judged(&zones, Some(1)).1.contains("in one zone x"));
        assert_eq!(judged(&apart, Some(0)).0, State::Warn);
        assert_eq!(judged(&apart[..1], Some(0)).0, State::Warn);
        assert_eq!(judged(&apart, None).0, State::Unknown);
    }
}
