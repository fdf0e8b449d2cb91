//! One store: whether it answers, what the credentials may do, whether it keeps its promises, its clock, and what its
//! owner has set for the bucket.

use std::path::Path;
use std::time::Duration;

use super::check::Check;
use super::folder_facts::{FLEETING, Folder, unmounted};
use crate::cli::daemon_user::DaemonUser;
use windlass_base::rt::Rt;
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind};
use windlass_pool::{LABEL_MAX, LABELS, Label, pool_of_label};
use windlass_store::{
    self as store, Asked, BucketRules, ByteRange, Effort, Fitness, LifecycleRule, Right, StoreUrl, TriedRight,
};

/// Most names that are looked at which may be a label's.
const LABELS_MAX: usize = 8;
/// Prefix of the objects in a pool's store that are written only to look at them, and taken away again.
const PROBES: &str = "probe/";
/// Longest wait for one store.
const LOOK: Duration = Duration::from_secs(45);
/// Difference of clocks in ms from which a warning is given; the store's answers tell whole seconds.
const SKEW_WARN_MS: u64 = 5_000;
/// Difference of clocks in ms from which a store is in trouble: S3 refuses what is signed at a time that
/// differs by 15 minutes.
const SKEW_BAD_MS: u64 = 300_000;
const FULL: u64 = 90;
const OVERFULL: u64 = 99;
/// Classes whose objects can't be read before somebody restores them.
const ARCHIVES: &[&str] = &["GLACIER", "DEEP_ARCHIVE"];

/// Facts on a store, see the module. A fact that was not looked at is `None`.
#[derive(Debug)]
pub struct StoreFacts {
    pub url: StoreUrl,
    /// The store is listed by a pool that this host knows, so it must have that pool's label.
    pub of_pool: bool,
    /// Reason why the store can't be opened, or did not answer in time.
    pub closed: Option<Error>,
    pub tried: Vec<TriedRight>,
    pub promises: Option<Result<Fitness, Error>>,
    /// By its label: it holds registers of a pool, or data only. `None`: it has no label, or that can't be read.
    pub registers: Option<bool>,
    pub labelled: Option<bool>,
    pub rules: Option<BucketRules>,
    pub public: Option<bool>,
    /// The folder of a store that lies in one, or why it can't be looked at.
    pub folder: Option<Result<Folder, String>>,
    /// The disk that /etc/fstab says should be mounted above the folder.
    pub unmounted: Option<String>,
    /// Reason why the daemon's user can't write into the folder, whoever runs this command; and the cure.
    pub shut: Option<(String, String)>,
}

impl StoreFacts {
    pub async fn look(rt: &Rt, (url, of_pool): (StoreUrl, bool), user: &DaemonUser) -> StoreFacts {
        let mut facts = StoreFacts {
            url: url.clone(),
            of_pool,
            closed: None,
            tried: Vec::new(),
            promises: None,
            registers: None,
            labelled: None,
            rules: None,
            public: None,
            folder: None,
            unmounted: None,
            shut: None,
        };
        if let StoreUrl::File { dir } = &url {
            facts.folder = Some(Folder::look(dir).map_err(|e| e.to_string()));
            let cure = || format!("`chown -R {}: {}`", user.name(), dir.display());
            facts.shut = user.unwritten(dir).map(|why| (why, cure()));
            let [fstab, mounts] = ["/etc/fstab", "/proc/self/mounts"]
                .map(|table| std::fs::read_to_string(table).unwrap_or_default());
            facts.unmounted =
                unmounted(Path::new(dir), &fstab, &mounts).map(|place| place.display().to_string());
        }
        if rt.timeout(LOOK, Box::pin(facts.ask(rt))).await.is_none() && facts.closed.is_none() {
            facts.closed = Some(Error::new(
                Kind::Timeout,
                format!("{url} did not answer all questions within {LOOK:?}"),
            ));
        }
        facts
    }

    async fn ask(&mut self, rt: &Rt) {
        let bucket = match store::open(rt, &self.url).await {
            Ok(bucket) => bucket,
            Err(error) => return self.closed = Some(error),
        };
        self.rules = bucket.rules().await;
        let list = store::List { prefix: LABELS.to_owned(), max: LABELS_MAX, ..store::List::default() };
        let names = bucket.list(&list, store::Cause::Label).await;
        let names = names.map(|page| page.objects.into_iter().map(|object| object.key));
        let label = names.map(|mut names| names.find(|key| pool_of_label(key).is_some()));
        self.labelled = label.as_ref().ok().map(Option::is_some);
        // Nothing is written into an empty folder that may be the place of a disk which is not mounted.
        if self.of_pool && self.labelled == Some(false) && self.folder.is_some() {
            return;
        }
        self.tried = store::try_rights(rt, &*bucket, PROBES).await;
        if self.may(Right::List) && self.may(Right::Put) && self.may(Right::Get) {
            self.promises = Some(store::probe_fitness(rt, &*bucket, PROBES, Effort::SHORT).await);
        }
        // Any key will do: who may not even ask for it is told so.
        let key = label.ok().flatten().unwrap_or_else(|| LABELS.to_owned());
        let range = ByteRange::Whole { max: LABEL_MAX };
        if let Ok(Some(found)) = bucket.get(&key, range, store::Cause::Label).await
            && let Ok(label) = Label::decode(&found.body)
        {
            self.registers = Some(label.hint.acceptors.contains(&label.index));
        }
        self.public = store::is_public(rt, &self.url, &key).await;
    }

    fn may(&self, right: Right) -> bool {
        self.tried.iter().any(|one| one.right == right && one.outcome.is_ok())
    }

    fn first_error(&self) -> Option<&Error> {
        self.tried.iter().find_map(|one| one.outcome.as_ref().err())
    }

    pub fn judge(&self) -> Vec<Check> {
        let mut all = self.of_folder();
        all.push(self.reachable());
        if self.closed.is_none() {
            all.extend(self.label());
        }
        if self.answers() && !self.tried.is_empty() {
            // Of a folder that may be the place of a disk which is not mounted, nobody should change the owner.
            let shut =
                self.shut.as_ref().filter(|_| self.unmounted.is_none() && self.labelled != Some(false));
            all.push(match shut {
                Some((why, cure)) => Check::bad("store-rights", why, cure),
                None => self.rights(),
            });
            all.extend(self.promised());
        }
        all.extend(self.rules.iter().flat_map(|rules| self.of_rules(rules)));
        let url = self.url.to_string();
        all.into_iter().map(|check| check.of(url.clone())).collect()
    }

    /// Tells whether something of that name answers, whatever it allows.
    fn answers(&self) -> bool {
        self.closed.is_none() && !self.tried.first().is_some_and(|one| is_silent(&one.outcome))
    }

    fn reachable(&self) -> Check {
        let name = "store-reachable";
        let silent = self.tried.first().filter(|one| is_silent(&one.outcome));
        let error = self.closed.as_ref().or(silent.and_then(|one| one.outcome.as_ref().err()));
        let Some(error) = error else { return Check::ok(name, "answers") };
        let what = error.to_string();
        let cure = match &self.url {
            StoreUrl::File { dir } => {
                let dir = dir.display();
                format!("mount the disk that holds {dir}, or make the folder if the store is new")
            }
            _ if what.contains("NoSuchBucket") => "create the bucket, or correct its name in the URL".to_owned(),
            _ if what.contains("certificate") || what.contains("UnknownIssuer") => {
                "give the file of its certificate authority by `ca=` in the URL".to_owned()
            }
            _ if error.is(Kind::Usage) => "correct the store's URL, as the message says".to_owned(),
            _ => "check `endpoint=` of the URL, the network between, a proxy of the environment, and the server".to_owned(),
        };
        Check::bad(name, what, cure)
    }

    fn label(&self) -> Option<Check> {
        let missing = self.of_pool && self.labelled == Some(false);
        missing.then(|| {
            let found = "has no label of its pool: it was emptied, or its disk is not mounted";
            Check::bad(
                "store-label",
                found,
                "mount what belongs there; if it is lost, `windlass pool repair POOL` takes it in again",
            )
        })
    }

    fn rights(&self) -> Check {
        let name = "store-rights";
        let lacks: Vec<String> = self
            .tried
            .iter()
            .filter(|one| one.outcome.is_err())
            .map(|one| format!("{:?}", one.right).to_lowercase())
            .collect();
        let Some(error) = self.first_error() else {
            return Check::ok(name, "objects may be listed, put, read and deleted");
        };
        let what = error.to_string();
        let bad_keys =
            ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "redentials"];
        if bad_keys.iter().any(|code| what.contains(code)) && !self.may(Right::List) {
            let cure = "correct the keys: `windlass credentials set`, `profile=`, `passwd_file=`, or AWS_ACCESS_KEY_ID and \
                AWS_SECRET_ACCESS_KEY of the daemon";
            return Check::bad("store-credentials", format!("the keys are not accepted: {what}"), cure);
        }
        let found = format!("may not {}: {what}", lacks.join(", "));
        let (Some(place), true) = (self.s3(), self.denied()) else {
            let cure = match (&self.url, error.kind()) {
                (StoreUrl::File { .. }, Kind::NoSpace) => "free space on that disk".to_owned(),
                (StoreUrl::File { dir }, _) => {
                    format!("make {} writable for this user (`chown`, `chmod u+rwx`)", dir.display())
                }
                _ => "do as the message says".to_owned(),
            };
            return Check::bad(name, found, cure);
        };
        let cure = format!("give the rights that `windlass policy pool {place}` prints");
        match lacks.as_slice() {
            [one] if one == "delete" => {
                Check::warn(name, format!("{found}; objects that nobody needs stay, and are paid for"), cure)
            }
            _ => Check::bad(name, found, cure),
        }
    }

    fn denied(&self) -> bool {
        self.tried.iter().filter_map(|one| one.outcome.as_ref().err()).all(|e| e.is(Kind::Denied))
    }

    fn s3(&self) -> Option<String> {
        matches!(self.url, StoreUrl::S3(_)).then(|| format!("'{}'", self.url))
    }

    fn promised(&self) -> Option<Check> {
        let name = "store-promises";
        Some(match self.promises.as_ref()? {
            Ok(fit) => match (&fit.why, self.registers) {
                (None, _) => Check::ok(name, "conditional writes, ranges and reads after writes hold"),
                (Some(why), Some(true)) => {
                    let cure = "it holds registers of its pool: `windlass pool replace` it by a store that keeps conditions";
                    Check::bad(name, why.to_string(), cure)
                }
                (Some(_), Some(false)) => Check::ok(
                    name,
                    "ranges and reads after writes hold; of its pool it holds data only, no registers",
                ),
                (Some(why), None) => {
                    let cure = "a pool takes it for data only, beside stores that keep conditions and hold its registers";
                    Check::warn(name, why.to_string(), cure)
                }
            },
            Err(e) if e.is(Kind::Refused) => {
                let cure = "use another store for a pool: `windlass pool replace`; a mount can stay";
                Check::bad(name, e.to_string(), cure)
            }
            Err(e) => Check::unknown(name, e.to_string()),
        })
    }

    fn of_folder(&self) -> Vec<Check> {
        let mut all = Vec::new();
        if let Some(place) = &self.unmounted {
            let found = format!("by /etc/fstab a disk belongs at {place}, and none is mounted there");
            all.push(Check::bad("store-mounted", found, format!("`mount {place}`")));
        }
        let Some(Ok(folder)) = &self.folder else { return all };
        if folder.is(FLEETING) {
            let kind = folder.kind.unwrap_or_default();
            let found = format!("is on {kind}: its objects are gone with the machine or container");
            all.push(Check::warn("store-filesystem", found, "`windlass pool replace` it by one on a disk"));
        }
        let (free, percent) = (show_bytes(folder.free_bytes), folder.percent());
        let found = format!("its filesystem is {percent} % full, {free} are free");
        let cure = "free space there, or move the store with its contents to a larger disk";
        all.push(match percent {
            OVERFULL.. => Check::bad("store-space", found, cure),
            FULL.. => Check::warn("store-space", found, cure),
            _ => Check::ok("store-space", found),
        });
        all
    }

    fn of_rules(&self, rules: &BucketRules) -> Vec<Check> {
        let bucket = match &self.url {
            StoreUrl::S3(place) => place.bucket.as_str(),
            _ => "",
        };
        vec![
            clock(rules.ahead_ms),
            versioning(&rules.versioning, bucket),
            lifecycle(&rules.lifecycle),
            public(self.public, rules.public),
            retention(&rules.retention),
        ]
    }
}

fn is_silent(outcome: &Result<(), Error>) -> bool {
    outcome.as_ref().is_err_and(Error::is_transient)
}

fn untold(name: &str, why: &str) -> Check {
    Check::unknown(name, why)
}

fn clock(ahead: Asked<i64>) -> Check {
    let name = "store-clock";
    let ahead = match ahead {
        Ok(ahead) => ahead,
        Err(why) => return untold(name, why),
    };
    let way = if ahead > 0 { "behind" } else { "ahead of" };
    let found = format!("this host's clock is {} s {way} the store's", ahead.unsigned_abs() / 1000);
    let cure = "set this host's clock: `timedatectl set-ntp true`, or `chronyc makestep`";
    match ahead.unsigned_abs() {
        SKEW_BAD_MS.. => Check::bad(name, format!("{found}; at 15 minutes S3 refuses all requests"), cure),
        SKEW_WARN_MS.. => Check::warn(name, found, cure),
        _ => Check::ok(name, "both clocks agree"),
    }
}

fn versioning(status: &Asked<Option<String>>, bucket: &str) -> Check {
    let name = "store-versioning";
    match status {
        Err(why) => untold(name, why),
        Ok(None) => Check::ok(name, "keeps no old versions"),
        Ok(Some(status)) if status == "Enabled" => Check::warn(
            name,
            "keeps old versions: what Windlass deletes or writes anew stays, and is paid for",
            format!(
                "where that is not meant to guard against a stolen host, `aws s3api put-bucket-versioning --bucket {bucket} \
                 --versioning-configuration Status=Suspended`; in any case a lifecycle rule with NoncurrentVersionExpiration"
            ),
        ),
        Ok(Some(_)) => {
            Check::ok(name, "keeps no new versions; those of before stay until a lifecycle rule expires them")
        }
    }
}

fn lifecycle(rules: &Asked<Vec<LifecycleRule>>) -> Check {
    let name = "store-lifecycle";
    let rules = match rules {
        Ok(rules) => rules,
        Err(why) => return untold(name, why),
    };
    let called = |rule: &LifecycleRule| match rule.id.as_str() {
        "" => format!("a rule for {:?}", rule.prefix),
        id => format!("rule {id:?}"),
    };
    let cure = "take the rule away, or give it a prefix that is not the store's";
    if let Some((rule, when)) = rules.iter().find_map(|rule| Some((rule, rule.deletes.as_ref()?))) {
        let found = format!("{} deletes the store's objects {when}: data is lost", called(rule));
        return Check::bad(name, found, cure);
    }
    let moves = || rules.iter().flat_map(|rule| rule.moves.iter().map(move |to| (rule, to)));
    if let Some((rule, (class, when))) = moves().find(|(_, (class, _))| ARCHIVES.contains(&class.as_str())) {
        let found =
            format!("{} moves the store's objects to {class} {when}: they can't be read there", called(rule));
        return Check::bad(name, found, cure);
    }
    if let Some((rule, (class, when))) = moves().next() {
        let found = format!(
            "{} moves the store's objects to {class} {when}: reads and deletes cost more there",
            called(rule)
        );
        return Check::warn(name, found, cure);
    }
    Check::ok(name, "no rule deletes or moves the store's objects")
}

fn public(tried: Option<bool>, policy: Asked<bool>) -> Check {
    let name = "store-public";
    let cure = "close it: `aws s3api put-public-access-block`, a bucket policy without \"Principal\": \"*\", or keys for the server";
    match (tried, policy) {
        (Some(true), _) => Check::warn(name, "anybody who reaches it can list or read it without keys", cure),
        (_, Ok(true)) => Check::warn(name, "its policy lets anybody in", cure),
        (Some(false), _) => Check::ok(name, "without keys nothing can be listed or read"),
        (None, Ok(false)) => Check::ok(name, "its policy lets nobody in without keys"),
        (None, Err(why)) => untold(name, why),
    }
}

fn retention(kept: &Asked<Option<String>>) -> Check {
    let name = "store-retention";
    match kept {
        Err(why) => untold(name, why),
        Ok(None) => Check::ok(name, "objects may be deleted at once"),
        Ok(Some(time)) => Check::warn(
            name,
            format!(
                "object lock keeps each version for {time}: what Windlass deletes or writes anew stays as long, and is paid for"
            ),
            "where that is not meant to guard against a stolen host, take the default retention away: `aws s3api \
             put-object-lock-configuration` without a Rule",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::State;
    use windlass_store::ConditionalPuts;

    fn calm() -> BucketRules {
        BucketRules {
            ahead_ms: Ok(700),
            versioning: Ok(None),
            lifecycle: Ok(Vec::new()),
            public: Ok(false),
            retention: Ok(None),
        }
    }

    fn facts(url: &str) -> StoreFacts {
        let all = [Right::List, Right::Put, Right::Head, Right::Get, Right::Delete];
        StoreFacts {
            url: url.parse().unwrap(),
            of_pool: true,
            closed: None,
            tried: all.map(|right| TriedRight { right, outcome: Ok(()) }).into(),
            promises: Some(Ok(Fitness { conditions: ConditionalPuts::Held, why: None })),
            registers: Some(true),
            labelled: Some(true),
            rules: Some(calm()),
            public: Some(false),
            folder: None,
            unmounted: None,
            shut: None,
        }
    }

    fn deny(facts: &mut StoreFacts, right: Right, why: &str) {
        let one = facts.tried.iter_mut().find(|one| one.right == right).unwrap();
        one.outcome = Err(Error::new(Kind::Denied, why));
    }

    fn states(facts: &StoreFacts) -> Vec<(String, State)> {
        facts.judge().into_iter().filter(|c| c.state != State::Ok).map(|c| (c.name, c.state)).collect()
    }

    #[test]
    fn each_trouble_of_a_bucket_is_named() {
        assert!(states(&facts("s3://b/p")).is_empty());
        fn rule(change: impl FnOnce(&mut LifecycleRule)) -> Asked<Vec<LifecycleRule>> {
            let mut rule = LifecycleRule { id: "r".into(), ..LifecycleRule::default() };
            change(&mut rule);
            Ok(vec![rule])
        }
        type Change = fn(&mut BucketRules);
        let troubles: [(&str, State, Change); 11] = [
            ("store-clock", State::Warn, |r| r.ahead_ms = Ok(-9_000)),
            ("store-clock", State::Bad, |r| r.ahead_ms = Ok(600_000)),
            ("store-clock", State::Unknown, |r| r.ahead_ms = Err("silent")),
            ("store-versioning", State::Warn, |r| r.versioning = Ok(Some("Enabled".into()))),
            ("store-versioning", State::Unknown, |r| r.versioning = Err("denied")),
            ("store-lifecycle", State::Bad, |r| {
                r.lifecycle = rule(|r| r.deletes = Some("after 7 days".into()))
            }),
            ("store-lifecycle", State::Bad, |r| {
                r.lifecycle = rule(|r| r.moves = vec![("GLACIER".into(), "after 1 days".into())]);
            }),
            ("store-lifecycle", State::Warn, |r| {
                r.lifecycle = rule(|r| r.moves = vec![("STANDARD_IA".into(), "after 30 days".into())]);
            }),
            ("store-lifecycle", State::Unknown, |r| r.lifecycle = Err("unsupported")),
            ("store-public", State::Warn, |r| r.public = Ok(true)),
            ("store-retention", State::Warn, |r| r.retention = Ok(Some("30 days".into()))),
        ];
        for (name, state, change) in troubles {
            let mut facts = facts("s3://b/p");
            change(facts.rules.as_mut().unwrap());
            assert_eq!(states(&facts), [(name.to_owned(), state)]);
        }
    }

    #[test]
    fn missing_rights_are_told_apart_from_wrong_keys() {
        let mut kept = facts("s3://b/p");
        deny(&mut kept, Right::Delete, "Access Denied (AccessDenied)");
        assert_eq!(states(&kept), [("store-rights".to_owned(), State::Warn)]);
        assert!(
            kept.judge().iter().any(|c| c.cure.as_ref().is_some_and(|cure| cure.contains("windlass policy")))
        );
        deny(&mut kept, Right::Put, "Access Denied (AccessDenied)");
        assert_eq!(states(&kept), [("store-rights".to_owned(), State::Bad)]);
        let mut keys = facts("s3://b/p");
        for right in [Right::List, Right::Put, Right::Delete] {
            deny(&mut keys, right, "no (SignatureDoesNotMatch)");
        }
        assert_eq!(states(&keys), [("store-credentials".to_owned(), State::Bad)]);
        let mut away = facts("s3://b/p");
        let outcome = Err(Error::new(Kind::Unavailable, "connection refused"));
        (away.tried, away.rules) = (vec![TriedRight { right: Right::List, outcome }], None);
        assert_eq!(states(&away), [("store-reachable".to_owned(), State::Bad)]);
        let mut broken = facts("s3://b/p");
        broken.promises = Some(Err(Error::new(Kind::Refused, "it overwrites")));
        assert_eq!(states(&broken), [("store-promises".to_owned(), State::Bad)]);
        let why = || Some(Error::new(Kind::Refused, "it ignores conditions"));
        broken.promises = Some(Ok(Fitness { conditions: ConditionalPuts::None, why: why() }));
        for (registers, wanted) in
            [(Some(true), Some(State::Bad)), (Some(false), None), (None, Some(State::Warn))]
        {
            broken.registers = registers;
            let found: Vec<State> = states(&broken).into_iter().map(|(_, state)| state).collect();
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_trouble_of_a_folder_is_named() {
        let folder = Folder {
            uid: 0,
            mode: 0o700,
            device: 1,
            kind: None,
            free_bytes: 50,
            used_bytes: 50,
            free_inodes: None,
        };
        let with = |change: fn(&mut StoreFacts, &mut Folder)| {
            let (mut facts, mut folder) = (facts("file:///s"), folder.clone());
            facts.rules = None;
            change(&mut facts, &mut folder);
            facts.folder = Some(Ok(folder));
            states(&facts)
        };
        let one = |name: &str, state| [(name.to_owned(), state)];
        assert!(with(|_, _| {}).is_empty());
        assert_eq!(with(|_, f| f.free_bytes = 5), one("store-space", State::Warn));
        assert_eq!(with(|_, f| f.free_bytes = 0), one("store-space", State::Bad));
        assert_eq!(with(|_, f| f.kind = Some("tmpfs")), one("store-filesystem", State::Warn));
        assert_eq!(with(|s, _| s.labelled = Some(false)), one("store-label", State::Bad));
        assert_eq!(with(|s, _| s.unmounted = Some("/srv".into())), one("store-mounted", State::Bad));
        let shut = Some(("user windlass can't write there".to_owned(), "chown".to_owned()));
        let (mut shut_facts, one_shut) = (facts("file:///s"), one("store-rights", State::Bad));
        (shut_facts.rules, shut_facts.shut) = (None, shut);
        assert_eq!(states(&shut_facts), one_shut);
        shut_facts.unmounted = Some("/srv".into());
        assert_eq!(
            states(&shut_facts),
            one("store-mounted", State::Bad),
            "its place is not to be given away"
        );
        assert_eq!(with(|s, _| deny(s, Right::Put, "not writable")), one("store-rights", State::Bad));
    }
}
