//! Who may connect, and what each client may open: rules by the names in a client's certificate, or by the user and group
//! of its process. A listener's policy can be exchanged while clients are connected: each has what held when it came.
//!
//! What a client may not open is answered as if it were not there.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::export::{Changes, Description, Export, Exports, HeldDisk, Holding, ListedExport, StatusExtent};
use super::tls_server::TlsServer;
use windlass_base::{Error, Kind, Result, Rope};

/// A client as its connection identifies it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// The connection tells nothing about the client.
    Unknown,
    /// The names in the client's certificate, which was verified.
    Certificate(Vec<String>),
    /// A process of this host.
    Process { uid: u32, gid: u32 },
}

/// Names in which `*` stands for any characters, also for none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    pub fn new(text: impl Into<String>) -> Pattern {
        Pattern(text.into())
    }

    /// Tells whether `name` fits the pattern. The time grows at most with the product of both lengths, since
    /// clients choose names.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        // The leftmost place of each part leaves the most to those behind it.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// The clients that a rule is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    Anybody,
    /// Clients with a certificate in which a name matches the pattern.
    Certificate(Pattern),
    /// Processes of the user `uid`, and of a group: their own group has its number, or their user is among
    /// its members. `None` stands for any.
    Process {
        uid: Option<u32>,
        group: Option<(u32, BTreeSet<u32>)>,
    },
}

impl Subject {
    fn is(&self, who: &Identity) -> bool {
        match (self, who) {
            (Subject::Anybody, _) => true,
            (Subject::Certificate(pattern), Identity::Certificate(names)) => {
                names.iter().any(|name| pattern.matches(name))
            }
            (Subject::Process { uid: user, group }, Identity::Process { uid, gid }) => {
                user.is_none_or(|user| user == *uid)
                    && group.as_ref().is_none_or(|(group, members)| group == gid || members.contains(uid))
            }
            _ => false,
        }
    }
}

/// A permission for some clients to open some exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub subject: Subject,
    pub exports: Vec<Pattern>,
    /// The clients may write as well; otherwise they may only read.
    pub write: bool,
}

/// The rules for clients that connect now.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Certificate and demands of the listeners for TLS.
    pub tls: Option<TlsServer>,
    /// Rules for what each client may open. Without any, whoever can connect may open and write everything.
    pub rules: Option<Vec<Rule>>,
}

impl Policy {
    /// Returns `exports` as this client may see them. `None`: no rule is for this client.
    pub fn exports_for(&self, exports: &Arc<dyn Exports>, who: &Identity) -> Option<Arc<dyn Exports>> {
        let Some(rules) = &self.rules else { return Some(exports.clone()) };
        let rules: Vec<Rule> = rules.iter().filter(|rule| rule.subject.is(who)).cloned().collect();
        (!rules.is_empty()).then(|| Arc::new(Permitted { all: exports.clone(), rules }) as Arc<dyn Exports>)
    }
}

/// The policy of listeners, which is exchanged as a whole.
#[derive(Debug, Default)]
pub struct Access(Mutex<Arc<Policy>>);

impl Access {
    pub fn new(policy: Policy) -> Arc<Access> {
        Arc::new(Access(Mutex::new(Arc::new(policy))))
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.0.lock().clone()
    }

    /// Exchanges the policy. It holds for clients that connect from now on.
    pub fn replace(&self, policy: Policy) {
        *self.0.lock() = Arc::new(policy);
    }
}

/// Exports as seen by a client for whom there are rules.
struct Permitted {
    all: Arc<dyn Exports>,
    /// The rules that apply to this client.
    rules: Vec<Rule>,
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no export {name:?}"))
}

/// Turns errors about an export that isn't there into one, whatever the reason: a client gets the same for a
/// name that the rules keep from it.
fn plain(error: Error, name: &str) -> Error {
    match error.kind() {
        Kind::NotFound | Kind::Removed | Kind::Invalid | Kind::Usage => unknown(name),
        _ => error,
    }
}

impl Permitted {
    /// Returns whether the client may write to the export `name`. `Kind::NotFound`: it may not open the
    /// export at all.
    fn right(&self, name: &str) -> Result<bool> {
        let covers = |rule: &&Rule| rule.exports.iter().any(|pattern| pattern.matches(name));
        let mut found = self.rules.iter().filter(covers).map(|rule| rule.write).peekable();
        match found.peek() {
            Some(_) => Ok(found.any(|write| write)),
            None => Err(unknown(name)),
        }
    }
}

fn read_only(d: Description) -> Description {
    Description { read_only: true, fast_zero: false, ..d }
}

#[async_trait]
impl Exports for Permitted {
    async fn list(&self) -> Result<Vec<ListedExport>> {
        let all = self.all.list().await?;
        Ok(all.into_iter().filter(|listed| self.right(&listed.name).is_ok()).collect())
    }

    async fn describe(&self, name: &str) -> Result<Description> {
        let writes = self.right(name)?;
        let d = self.all.describe(name).await.map_err(|e| plain(e, name))?;
        Ok(if writes { d } else { read_only(d) })
    }

    async fn changes_since(&self, name: &str) -> Result<Vec<String>> {
        self.right(name)?;
        self.all.changes_since(name).await.map_err(|e| plain(e, name))
    }

    async fn open(&self, name: &str, peer: &str) -> Result<Arc<dyn Export>> {
        let writes = self.right(name)?;
        let export = self.all.open(name, peer).await.map_err(|e| plain(e, name))?;
        Ok(if writes { export } else { Arc::new(ReadOnly(export)) })
    }

    /// Checks the rules by the name under which the client opened the disk, since that name is what they
    /// allowed.
    async fn open_again(&self, name: &str, held: &HeldDisk, peer: &str) -> Result<Arc<dyn Export>> {
        let writes = self.right(name)?;
        let export = self.all.open_again(name, held, peer).await?;
        Ok(if writes { export } else { Arc::new(ReadOnly(export)) })
    }
}

/// An export that its client may only read.
struct ReadOnly(Arc<dyn Export>);

fn may_not_write() -> Error {
    Error::new(Kind::ReadOnly, "this client may only read: no rule of `allow` lets it write here")
}

#[async_trait]
impl Export for ReadOnly {
    fn describe(&self) -> Description {
        read_only(self.0.describe())
    }
    fn holding(&self) -> Arc<dyn Holding> {
        self.0.holding()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn turn(&self, writes: bool, bytes: u64) -> Option<BoxFuture<'_, ()>> {
        self.0.turn(writes, bytes)
    }
    async fn read(&self, offset: u64, len: usize) -> Result<Rope> {
        self.0.read(offset, len).await
    }
    async fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<StatusExtent>> {
        self.0.extents(offset, len, max).await
    }
    async fn changes(&self, snapshot: &str) -> Result<Box<dyn Changes>> {
        self.0.changes(snapshot).await
    }
    async fn changes_again(&self, snapshot: &str, held: &HeldDisk) -> Result<Box<dyn Changes>> {
        self.0.changes_again(snapshot, held).await
    }
    async fn write(&self, _: u64, _: Bytes) -> Result<()> {
        Err(may_not_write())
    }
    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Err(may_not_write())
    }
    async fn trim(&self, _: u64, _: u64) -> Result<()> {
        Err(may_not_write())
    }
    fn hang_up(&self) -> CancellationToken {
        self.0.hang_up()
    }
    /// Passes on to the export, also for a reader: a flush covers what others have written.
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let fits = |pattern: &str, name: &str| Pattern::new(pattern).matches(name);
        for (pattern, name) in [
            ("tank/web", "tank/web"),
            ("tank/web-*", "tank/web-"),
            ("tank/web-*", "tank/web-1@s"),
            ("*", ""),
            ("*@*", "a@b"),
            ("a*b*c", "a-b-bc"),
            ("*ab", "aab"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("tank/web", "tank/web@s"),
            ("tank/web", "tank/we"),
            ("tank/web-*", "tank/web"),
            ("web", "tank/web"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("", "a"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    /// Matches by the rule itself, slowly.
    fn model(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], name) => name.is_empty(),
            ([b'*', rest @ ..], name) => (0..=name.len()).any(|at| model(rest, &name[at..])),
            ([p, rest @ ..], [n, name @ ..]) => p == n && model(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_are_as_the_model(pattern in "[ab*]{0,7}", name in "[ab]{0,9}") {
            prop_assert_eq!(Pattern::new(&*pattern).matches(&name), model(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn a_rule_is_for_whom_it_says() {
        let process = |uid, gid| Identity::Process { uid, gid };
        let named = |names: &[&str]| Identity::Certificate(names.iter().map(ToString::to_string).collect());
        let web = Subject::Certificate(Pattern::new("web-*"));
        assert!(web.is(&named(&["db", "web-1"])) && !web.is(&named(&["db"])) && !web.is(&named(&[])));
        assert!(!web.is(&Identity::Unknown) && !web.is(&process(0, 0)));
        let group = Some((7, BTreeSet::from([3])));
        let both = Subject::Process { uid: Some(2), group: group.clone() };
        assert!(both.is(&process(2, 7)) && !both.is(&process(2, 8)) && !both.is(&process(3, 7)));
        let group = Subject::Process { uid: None, group };
        assert!(group.is(&process(9, 7)) && group.is(&process(3, 8)) && !group.is(&process(9, 8)));
        assert!(!group.is(&Identity::Unknown) && !group.is(&named(&["web-1"])));
        assert!(Subject::Anybody.is(&Identity::Unknown));
    }
}
