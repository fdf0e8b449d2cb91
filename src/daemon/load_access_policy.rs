//! What lets NBD clients in, from the configuration to what the NBD face takes: certificates are read, users and groups are
//! looked up.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;

use super::config::{Account, Allow, ClientCertificates, Config, ListenAddress};
use super::key_places::check_private_to_group;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Accounts, Error, Kind, Result, ResultExt as _};
use windlass_nbd::{Address, Pattern, Policy, Rule, SocketRights, Subject, TlsPem, TlsServer};

/// Largest file of certificates, users or groups, in bytes.
const FILE_MAX: usize = 1 << 20;

async fn read(disk: &dyn Disk, file: &str) -> Result<Bytes> {
    disk.read(Path::new(file), FILE_MAX).await.context(|| format!("reading {file}"))
}

/// Returns the policy for whoever connects from now on.
pub async fn policy(rt: &Rt, disk: &dyn Disk, config: &Config) -> Result<Policy> {
    let tls = tls(rt, disk, config).await?;
    let Some(allow) = &config.top.allow else { return Ok(Policy { tls, rules: None }) };
    let accounts = accounts(disk).await;
    let rules = allow.values().map(|written| rule(&accounts, written)).collect::<Result<Vec<_>>>()?;
    Ok(Policy { tls, rules: Some(rules) })
}

async fn tls(rt: &Rt, disk: &dyn Disk, config: &Config) -> Result<Option<TlsServer>> {
    let tls = &config.tls;
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(None) };
    check_private_to_group(Path::new(key.as_str())).map_err(|e| e.context("[tls]"))?;
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
        (None, by_user, by_group) => Subject::Process {
            uid: by_user.as_ref().map(|it| user(accounts, it)).transpose()?,
            group: by_group.as_ref().map(|it| group(accounts, it)).transpose()?,
        },
    };
    let exports = written.exports.iter().map(Pattern::new).collect();
    Ok(Rule { subject, exports, write: written.write })
}

/// Returns the users and groups of this host. A file that can't be read has nobody; whoever is asked for by name is
/// then missed.
async fn accounts(disk: &dyn Disk) -> Accounts {
    let text = |file: &'static str| async move {
        let bytes = read(disk, file).await.unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Accounts::parse(&text("/etc/passwd").await, &text("/etc/group").await)
}

fn user(accounts: &Accounts, user: &Account) -> Result<u32> {
    match user {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => accounts.user_named(name).ok_or_else(|| unknown("user", name, "/etc/passwd")),
    }
}

/// Returns a group's id and its members.
fn group(accounts: &Accounts, group: &Account) -> Result<(u32, BTreeSet<u32>)> {
    let id = match group {
        Account::Id(id) => *id,
        Account::Name(name) => {
            accounts.group_named(name).ok_or_else(|| unknown("group", name, "/etc/group"))?
        }
    };
    Ok((id, accounts.members(id)))
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let why = format!("there is no {what} {name} in {file}: correct the name, or write its number");
    Error::new(Kind::Usage, why)
}

/// Returns the users and groups that the configuration names for sockets and rules and that `accounts` lacks: each
/// one's key and line, and what is wrong.
pub fn unknown_accounts(config: &Config, accounts: &Accounts) -> Vec<(&'static str, usize, String)> {
    let mut wrong = Vec::new();
    let mut look = |key, line, by_user: &Option<Account>, by_group: &Option<Account>| {
        let no_user = by_user.as_ref().and_then(|it| user(accounts, it).err());
        let no_group = by_group.as_ref().and_then(|it| group(accounts, it).err());
        wrong.extend(no_user.into_iter().chain(no_group).map(|why| (key, line, why.to_string())));
    };
    if let Some(list) = &config.top.nbd {
        list.values().for_each(|at| look("nbd", list.line, &at.owner, &at.group));
    }
    if let Some(list) = &config.top.allow {
        list.values().for_each(|rule| look("allow", list.line, &rule.user, &rule.group));
    }
    wrong
}

/// Returns the rights of an address's socket: its owner's alone unless something else was said.
pub async fn rights(disk: &dyn Disk, at: &ListenAddress) -> Result<SocketRights> {
    let mut rights = SocketRights::default();
    rights.mode = at.mode.unwrap_or(rights.mode);
    if at.owner.is_some() || at.group.is_some() {
        let accounts = accounts(disk).await;
        rights.uid = at.owner.as_ref().map(|owner| user(&accounts, owner)).transpose()?;
        rights.gid = at.group.as_ref().map(|it| group(&accounts, it)).transpose()?.map(|(id, _)| id);
    }
    Ok(rights)
}

/// Tells in words who is let in at an address.
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
    fn users_and_groups_are_looked_up() {
        let accounts = Accounts::parse("kvm:x:7:8::/:\nweb:x:9:10::/:\n", "kvm:x:8:web,gone\n");
        let name = |text: &str| Account::Name(text.to_owned());
        assert_eq!(user(&accounts, &name("kvm")).unwrap(), 7);
        assert_eq!(user(&accounts, &Account::Id(5)).unwrap(), 5);
        assert_eq!(group(&accounts, &name("kvm")).unwrap(), (8, BTreeSet::from([9])));
        assert_eq!(group(&accounts, &Account::Id(8)).unwrap(), (8, BTreeSet::from([9])));
        assert_eq!(group(&accounts, &Account::Id(4)).unwrap(), (4, BTreeSet::new()));
        assert!(user(&accounts, &name("broken")).unwrap_err().to_string().contains("/etc/passwd"));
        assert!(group(&accounts, &name("none")).unwrap_err().is(Kind::Usage));
    }
}
