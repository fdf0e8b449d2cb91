//! Where a server listens: `HOST:PORT`, `tls:HOST:PORT` or `unix:PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use windlass_base::{Error, Kind, Result};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `HOST:PORT`; port 0 lets the system choose.
    Tcp(String),
    /// `HOST:PORT`, by TLS alone; port 0 lets the system choose.
    Tls(String),
    Unix(PathBuf),
}

const FORMS: &str = "give HOST:PORT or unix:PATH, or tls:HOST:PORT for NBD clients";

/// Prefixes of addresses in other programs, which are no host names here.
const SCHEMES: [&str; 6] = ["tcp", "tls", "http", "https", "nbd", "nbds"];

impl Address {
    /// Returns the NBD URI of one export at this address, as QEMU, libnbd and nbdkit take it.
    pub fn uri(&self, export: &str) -> String {
        const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'/')
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~')
            .remove(b'@');
        let name = percent_encoding::utf8_percent_encode(export, PLAIN);
        match self {
            Address::Tcp(host_port) => format!("nbd://{host_port}/{name}"),
            Address::Tls(host_port) => format!("nbds://{host_port}/{name}"),
            Address::Unix(path) => {
                let path = path.to_string_lossy();
                format!("nbd+unix:///{name}?socket={}", percent_encoding::utf8_percent_encode(&path, PLAIN))
            }
        }
    }
}

impl Address {
    /// Tells whether nobody can listen here while somebody listens at `other`. Port 0 is chosen by the system
    /// and never taken.
    pub fn is_taken_by(&self, other: &Address) -> bool {
        const ANY: [&str; 2] = ["0.0.0.0", "[::]"];
        let place = |address: &Address| match address {
            Address::Tcp(at) | Address::Tls(at) => at
                .rsplit_once(':')
                .map(|(host, port)| (host.replace("localhost", "127.0.0.1"), port.to_owned())),
            Address::Unix(_) => None,
        };
        match (self, other, place(self), place(other)) {
            (Address::Unix(one), Address::Unix(other), ..) => one == other,
            (.., Some((host, port)), Some((other_host, other_port))) => {
                let any = ANY.contains(&host.as_str()) || ANY.contains(&other_host.as_str());
                port == other_port && port.parse() != Ok(0u16) && (host == other_host || any)
            }
            _ => false,
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(s: &str) -> Result<Address> {
        let bad = |why: &str| Error::new(Kind::Usage, format!("`{s}` is no address: {why}"));
        if let Some(path) = s.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(bad("unix: needs a path"))
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        let (by_tls, at) = s.strip_prefix("tls:").map_or((false, s), |at| (true, at));
        let (host, port) = at.rsplit_once(':').ok_or_else(|| bad(FORMS))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad(FORMS));
        }
        // A host of such a name would be looked for in vain, or worse, found.
        let scheme = host.split(':').next().unwrap_or(host);
        if SCHEMES.contains(&scheme) || host.contains('/') {
            return Err(bad(FORMS));
        }
        Ok(if by_tls { Address::Tls(at.to_owned()) } else { Address::Tcp(at.to_owned()) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host_port) => f.write_str(host_port),
            Address::Tls(host_port) => write!(f, "tls:{host_port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for good in ["127.0.0.1:0", "[::1]:10809", "localhost:10809", "tls:[::1]:0", "unix:/run/a b.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        let schemes = ["tcp:1", "tcp:h:1", "tls:tcp:1", "tls:tls:1", "nbd://h:1", "http://h:1", "h/a:1"];
        for bad in
            ["", "unix:", "localhost", ":1", "h:99999", "h:", "tls:10809", "tls::1"].iter().chain(&schemes)
        {
            assert_eq!(bad.parse::<Address>().unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        let taken = |one: &str, other: &str| {
            one.parse::<Address>().unwrap().is_taken_by(&other.parse::<Address>().unwrap())
        };
        assert!(taken("127.0.0.1:9", "localhost:9") && taken("tls:h:9", "h:9") && taken("0.0.0.0:9", "h:9"));
        assert!(taken("unix:/a", "unix:/a") && !taken("unix:/a", "unix:/b") && !taken("unix:/a", "h:1"));
        assert!(!taken("h:9", "h:10") && !taken("h:9", "g:9") && !taken("h:0", "h:0"));
        let uri = |a: &str| a.parse::<Address>().unwrap().uri("pool/vol@snap");
        assert_eq!(uri("h:1"), "nbd://h:1/pool/vol@snap");
        assert_eq!(uri("tls:h:1"), "nbds://h:1/pool/vol@snap");
        assert_eq!(uri("unix:/a b?.sock"), "nbd+unix:///pool/vol@snap?socket=/a%20b%3F.sock");
    }
}
