//! What is listened on and what lets clients in, from the configuration to what the NBD face takes: certificates are read, users
//! and groups are looked up, and what would be open to the network without TLS is refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;

use super::config::{Account, Allow, ClientCertificates, Config, List, ListenAddress};
use crate::base::rt::{Disk, Rt};
use crate::base::{Error, Kind, Result, ResultExt as _};
use crate::nbd::{Address, Pattern, Policy, Rule, SocketRights, Subject, TlsPem, TlsServer};

/// Largest file of certificates, users or groups, in bytes.
const FILE_MAX: usize = 1 << 20;

async fn read(disk: &dyn Disk, file: &str) -> Result<Bytes> {
    disk.read(Path::new(file), FILE_MAX).await.context(|| format!("reading {file}"))
}

/// Addresses by flags, else by the configuration.
fn by_flags<T>(flags: &[String], written: Option<&List<T>>) -> Result<Vec<T>>
where
    T: Clone + FromStr<Err = Error>,
{
    match flags {
        [] => Ok(written.map(|list| list.values().cloned().collect()).unwrap_or_default()),
        flags => flags.iter().map(|text| text.parse()).collect(),
    }
}

/// What the command line says of addresses. Where it says nothing of a kind, the configuration counts.
#[derive(Clone, Copy, Debug)]
pub struct Flags<'a> {
    pub nbd: &'a [String],
    pub metrics: &'a [String],
    /// Also on TCP that other hosts reach, in the open.
    pub insecure: bool,
}

/// What is to be listened on.
#[derive(Debug)]
pub struct Given {
    pub nbd: Vec<ListenAddress>,
    pub metrics: Vec<Address>,
    /// What lets NBD clients in.
    pub policy: Policy,
}

/// What is to be listened on, and what lets clients in. Nothing is listened on yet: what may not be served is refused while
/// whoever serves it now still can.
pub async fn given(rt: &Rt, disk: &dyn Disk, config: &Config, flags: Flags<'_>) -> Result<Given> {
    let nbd: Vec<ListenAddress> = by_flags(flags.nbd, config.top.nbd.as_deref())?;
    let metrics: Vec<Address> = by_flags(flags.metrics, config.top.metrics.as_deref())?;
    let policy = policy(rt, disk, config).await?;
    for at in &nbd {
        check(at, &policy, flags.insecure).await?;
        rights(disk, at).await?;
    }
    for address in &metrics {
        check_metrics(address, flags.insecure).await?;
    }
    Ok(Given { nbd, metrics, policy })
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

/// `Refused`: in the open, and others than this host reach it. `Usage`: by TLS, without a certificate.
pub async fn check(at: &ListenAddress, policy: &Policy, insecure: bool) -> Result<()> {
    let address = &at.address;
    match address {
        Address::Unix(_) => Ok(()),
        Address::Tls(_) if policy.tls.is_some() => Ok(()),
        Address::Tls(_) => {
            let why = format!(
                "{address} needs a certificate: write [tls] with `cert` and `key` into windlass.toml"
            );
            Err(Error::new(Kind::Usage, why))
        }
        Address::Tcp(_) if insecure => Ok(()),
        Address::Tcp(host_port) => match is_of_this_host(host_port).await? {
            true => Ok(()),
            false => Err(open_to_the_network(address)),
        },
    }
}

/// Whether no other host reaches it.
pub async fn is_of_this_host(host_port: &str) -> Result<bool> {
    let found = tokio::net::lookup_host(host_port).await.context(|| format!("listening on {host_port}"))?;
    Ok(found.map(|at| at.ip()).all(|ip| ip.is_loopback()))
}

/// The same, of metrics and the page, which have no password.
async fn check_metrics(address: &Address, insecure: bool) -> Result<()> {
    match address {
        Address::Unix(_) => Ok(()),
        Address::Tls(_) => {
            let why = format!("{address}: metrics are not served by TLS; give HOST:PORT or unix:PATH");
            Err(Error::new(Kind::Usage, why))
        }
        Address::Tcp(_) if insecure => Ok(()),
        Address::Tcp(host_port) => match is_of_this_host(host_port).await? {
            true => Ok(()),
            false => {
                let why = format!(
                    "metrics {address} are reached from other hosts, and without a password they tell names, URLs and loads: serve \
                     them on 127.0.0.1 or on a unix socket, or say --insecure where nobody else is on that network"
                );
                Err(Error::new(Kind::Refused, why))
            }
        },
    }
}

fn open_to_the_network(address: &Address) -> Error {
    let why = format!(
        "{address} is reached from other hosts, and without TLS whoever reaches it may read and write all volumes: \
         listen on tls:{address}, on 127.0.0.1 or on a unix socket, or say --insecure where nobody else is on that network"
    );
    Error::new(Kind::Refused, why)
}

/// Who reads metrics and the page at an address, in words.
pub async fn reads_metrics(address: &Address) -> String {
    let who = match address {
        Address::Unix(_) => "processes of this user",
        Address::Tcp(host_port) | Address::Tls(host_port) => match is_of_this_host(host_port).await {
            Ok(true) => "all processes of this host",
            _ => "whoever reaches it",
        },
    };
    format!("{who}, without a password; nothing can be changed there")
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

    #[tokio::test]
    async fn what_is_open_to_the_network_is_refused() {
        let check = |address: &str, insecure| {
            let at: ListenAddress = address.parse().unwrap();
            async move { check(&at, &Policy::default(), insecure).await }
        };
        for fine in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:0", "unix:/x"] {
            check(fine, false).await.unwrap();
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            assert!(check(open, false).await.unwrap_err().is(Kind::Refused), "{open}");
            check(open, true).await.unwrap();
        }
        assert!(check("tls:0.0.0.0:1", true).await.unwrap_err().is(Kind::Usage));
    }

    #[tokio::test]
    async fn metrics_that_other_hosts_reach_are_refused_and_it_is_told_who_reads_them() {
        let check = |address: &str, insecure| {
            let address: Address = address.parse().unwrap();
            async move { check_metrics(&address, insecure).await }
        };
        for fine in ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/x"] {
            check(fine, false).await.unwrap();
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let why = check(open, false).await.unwrap_err();
            assert!(why.is(Kind::Refused) && why.to_string().contains("--insecure"), "{why}");
            check(open, true).await.unwrap();
        }
        assert!(check("tls:127.0.0.1:1", true).await.unwrap_err().is(Kind::Usage));
        for (address, who) in
            [("127.0.0.1:1", "all processes of this host"), ("0.0.0.0:1", "whoever reaches it")]
        {
            let told = reads_metrics(&address.parse().unwrap()).await;
            assert!(told.starts_with(who), "{told}");
        }
    }
}
