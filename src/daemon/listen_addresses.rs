//! What is listened on, by flags or by the configuration. What would be open to the network without TLS is refused.

use std::str::FromStr;
use std::sync::Arc;

use super::config::{Config, List, ListenAddress};
use super::load_access_policy::{policy, rights};
use super::metrics_users::MetricsUsers;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_nbd::{Address, Policy};

/// Returns the addresses that flags give, else those of the configuration.
fn by_flags<T>(flags: &[String], written: Option<&List<T>>) -> Result<Vec<T>>
where
    T: Clone + FromStr<Err = Error>,
{
    match flags {
        [] => Ok(written.map(|list| list.values().cloned().collect()).unwrap_or_default()),
        flags => flags.iter().map(|text| text.parse()).collect(),
    }
}

/// Addresses by the command line. Where it gives none of a kind, the configuration counts.
#[derive(Clone, Copy, Debug)]
pub struct Flags<'a> {
    pub nbd: &'a [String],
    pub metrics: &'a [String],
    /// Is true if TCP without TLS may be listened on where other hosts reach it.
    pub insecure: bool,
}

/// Everything that is to be listened on.
#[derive(Debug)]
pub struct Given {
    pub nbd: Vec<ListenAddress>,
    pub metrics: Metrics,
    /// Rules that let NBD clients in.
    pub policy: Policy,
}

/// Addresses where metrics are read; and the users who may read them, where a password is asked for.
#[derive(Debug)]
pub struct Metrics {
    pub addresses: Vec<Address>,
    pub users: Option<Arc<MetricsUsers>>,
}

/// Returns what is to be listened on, and what lets clients in. Nothing is listened on yet: what may not be served is
/// refused while whoever serves it now still can.
pub async fn given(rt: &Rt, disk: &Arc<dyn Disk>, config: &Config, flags: Flags<'_>) -> Result<Given> {
    let nbd: Vec<ListenAddress> = by_flags(flags.nbd, config.top.nbd.as_deref())?;
    let addresses: Vec<Address> = by_flags(flags.metrics, config.top.metrics.as_deref())?;
    let policy = policy(rt, &**disk, config).await?;
    for at in &nbd {
        check(at, &policy, flags.insecure).await?;
        rights(&**disk, at).await?;
    }
    for address in &addresses {
        check_metrics(address, flags.insecure).await?;
    }
    let users = if addresses.is_empty() { None } else { MetricsUsers::of(rt, disk, config).await? };
    Ok(Given { nbd, metrics: Metrics { addresses, users }, policy })
}

/// Checks that an address may be listened on.
///
/// # Errors
/// `Refused`: the address is without TLS, and others than this host reach it. `Usage`: it is by TLS, and there is no
/// certificate.
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

/// Tells whether no other host reaches the address.
pub async fn is_of_this_host(host_port: &str) -> Result<bool> {
    let found = tokio::net::lookup_host(host_port).await.context(|| format!("listening on {host_port}"))?;
    Ok(found.map(|at| at.ip()).all(|ip| ip.is_loopback()))
}

/// Checks that metrics and the page may be served at an address. Without TLS, what they tell is in the open, and a
/// password too.
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
                    "metrics {address} are reached from other hosts, and without TLS they tell names, URLs and loads, a password too: serve \
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

/// Tells in words who reads metrics and the page at an address.
pub async fn reads_metrics(address: &Address, users: Option<&MetricsUsers>) -> String {
    if users.is_some() {
        return "who knows a password of `metrics_users`; nothing can be changed there".to_owned();
    }
    let who = match address {
        Address::Unix(_) => "processes of this user",
        Address::Tcp(host_port) | Address::Tls(host_port) => match is_of_this_host(host_port).await {
            Ok(true) => "all processes of this host",
            _ => "whoever reaches it",
        },
    };
    format!("{who}, without a password; nothing can be changed there")
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let told = reads_metrics(&address.parse().unwrap(), None).await;
            assert!(told.starts_with(who), "{told}");
        }
    }
}
