//! What lets NBD clients in, from the configuration to what the NBD face takes: certificates are read, users and groups are
//! looked up.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;

use super::config::{Account, Allow, ClientCertificates, Config, ListenAddress};
use crate::base::rt::{Disk, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};
use crate::nbd::{Address, Pattern, Policy, Rule, SocketRights, Subject, TlsPem, TlsServer};

/// Largest file of certificates, users or groups, in bytes.
const FILE_MAX: usize = 1 << 20;

async fn read(disk: &dyn Disk, file: &str) -> Result<Bytes> {
    disk.read(Path::new(file), FILE_MAX).await.context(|| format!("reading {file}"))
}

/// What holds for whoever connects from now on.
pub async fn policy(rt: &Rt, disk: &dyn Disk, config: &Config) -> Result<Policy> {
    let tls = tls(rt, disk, config).await?;
    let Some(allow) = &config.top.allow else { return Ok(Policy { tls, rules: None }) };
    let accounts = Accounts::load(disk).await;
    let rules = allow.values().map(|written| rule(&accounts, written)).collect::<Result<Vec<_>>>()?;
    Ok(Policy { tls, rules: Some(rules) })
}

async fn tls(rt: &Rt, disk: &dyn Disk, config: &Config) -> Result<Option<TlsServer>> {
    let tls = &config.tls;
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(None) };
    let (certificate, key) = (read(disk, cert).await?, read(disk, key).await?);
    let client_ca = match &tls.client_ca {
        Some(file) => Some(read(disk, file).await?),
        None => None,
    };
    let optional =
        tls.client_certificates.as_ref().is_some_and(|it| it.value == ClientCertificates::Optional);
    let pem = TlsPem { certificate: &certificate, key: &key, client_ca: client_ca.as_deref(), optional };
    TlsServer::new(rt, pem).map(Some).map_err(|e| e.context("[tls]"))
}

fn rule(accounts: &Accounts, written: &Allow) -> Result<Rule> {
    let subject = match (&written.cn, &written.user, &written.group) {
        (Some(name), ..) => Subject::Certificate(Pattern::new(name)),
        (None, None, None) => Subject::Anybody,
        (None, user, group) => Subject::Process {
            uid: user.as_ref().map(|user| accounts.user(user)).transpose()?,
            group: group.as_ref().map(|group| accounts.group(group)).transpose()?,
        },
    };
    let exports = written.exports.iter().map(Pattern::new).collect();
    Ok(Rule { subject, exports, write: written.write })
}

/// Users and groups of this host, as its files have them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    users: Vec<(String, u32)>,
    /// With their members' names.
    groups: Vec<(String, u32, Vec<String>)>,
}

impl Accounts {
    /// What can't be read has nobody; whoever is asked for by name is then missed.
    async fn load(disk: &dyn Disk) -> Accounts {
        let text = |file: &'static str| async move {
            let bytes = read(disk, file).await.unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Accounts::parse(&text("/etc/passwd").await, &text("/etc/group").await)
    }

    /// From the texts of passwd(5) and group(5).
    pub(super) fn parse(passwd: &str, group: &str) -> Accounts {
        let user = |line: &str| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
        };
        let group_of = |line: &str| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?);
            let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
            Some((name, id, members.map(str::to_owned).collect()))
        };
        Accounts {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    fn user(&self, user: &Account) -> Result<u32> {
        match user {
            Account::Id(id) => Ok(*id),
            Account::Name(name) => self.user_named(name).ok_or_else(|| unknown("user", name, "/etc/passwd")),
        }
    }

    fn user_named(&self, name: &str) -> Option<u32> {
        self.users.iter().find(|(it, _)| it == name).map(|(_, id)| *id)
    }

    /// And its members.
    fn group(&self, group: &Account) -> Result<(u32, BTreeSet<u32>)> {
        let found = self.groups.iter().find(|(name, id, _)| match group {
            Account::Id(wanted) => id == wanted,
            Account::Name(wanted) => name == wanted,
        });
        match (found, group) {
            (Some((_, id, members)), _) => {
                Ok((*id, members.iter().filter_map(|name| self.user_named(name)).collect()))
            }
            (None, Account::Id(id)) => Ok((*id, BTreeSet::new())),
            (None, Account::Name(name)) => Err(unknown("group", name, "/etc/group")),
        }
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let why = format!("there is no {what} {name} in {file}: correct the name, or write its number");
    Error::new(Kind::Usage, why)
}

/// Of an address's socket: its owner's alone unless something else was said.
pub async fn rights(disk: &dyn Disk, at: &ListenAddress) -> Result<SocketRights> {
    let mut rights = SocketRights::default();
    rights.mode = at.mode.unwrap_or(rights.mode);
    if at.owner.is_some() || at.group.is_some() {
        let accounts = Accounts::load(disk).await;
        rights.uid = at.owner.as_ref().map(|owner| accounts.user(owner)).transpose()?;
        rights.gid = at.group.as_ref().map(|group| accounts.group(group)).transpose()?.map(|(id, _)| id);
    }
    Ok(rights)
}

/// Who is let in at an address, in words.
pub fn lets_in(at: &ListenAddress, policy: &Policy, config: &Config) -> String {
    let who = match (&at.address, &config.tls.client_ca, &config.tls.client_certificates) {
        (Address::Unix(_), ..) => {
            format!("processes of this host that may use the socket (mode {:04o})", at.mode.unwrap_or(0o600))
        }
        (Address::Tcp(_), ..) => "whoever reaches it, without TLS".to_owned(),
        (Address::Tls(_), None, _) => "whoever reaches it, by TLS without a certificate".to_owned(),
        (Address::Tls(_), Some(_), Some(asked)) if asked.value == ClientCertificates::Optional => {
            "whoever reaches it, by TLS with a certificate or without".to_owned()
        }
        (Address::Tls(_), Some(ca), _) => format!("who has a certificate of {}, by TLS", ca.value),
    };
    match policy.rules.as_ref().map(Vec::len) {
        None => format!("{who}, to all exports"),
        Some(1) => format!("{who}, as the one rule of `allow` says"),
        Some(many) => format!("{who}, as the {many} rules of `allow` say"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let accounts = Accounts::parse(
            "root:x:0:0::/root:/bin/sh\nkvm:x:7:8::/:\nbroken\nweb:x:9:10::/:\n",
            "kvm:x:8:web,gone\nempty:x:11:\n\n",
        );
        let name = |text: &str| Account::Name(text.to_owned());
        assert_eq!(accounts.user(&name("kvm")).unwrap(), 7);
        assert_eq!(accounts.user(&Account::Id(5)).unwrap(), 5);
        assert_eq!(accounts.group(&name("kvm")).unwrap(), (8, BTreeSet::from([9])));
        assert_eq!(accounts.group(&Account::Id(8)).unwrap(), (8, BTreeSet::from([9])));
        assert_eq!(accounts.group(&Account::Id(4)).unwrap(), (4, BTreeSet::new()));
        assert!(accounts.user(&name("broken")).unwrap_err().to_string().contains("/etc/passwd"));
        assert!(accounts.group(&name("none")).unwrap_err().is(Kind::Usage));
    }
}
