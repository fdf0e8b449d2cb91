//! Where NBD clients connect, and the users and groups that sockets and rules name, as they are written.

use std::fmt;
use std::str::FromStr;

use toml::de::DeValue;

use super::value_types::{Element, Fault, Raw, Setting, quoted, text};
use windlass_base::{Error, Kind, Result, nearest};
use windlass_nbd::Address;

/// A user or a group of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Account {
    Id(u32),
    Name(String),
}

impl FromStr for Account {
    type Err = Error;

    fn from_str(text: &str) -> Result<Account> {
        if text.is_empty() || text.contains([':', '\n']) {
            return Err(Error::new(Kind::Usage, format!("{text:?} is no user or group")));
        }
        Ok(text.parse().map_or_else(|_| Account::Name(text.to_owned()), Account::Id))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Id(id) => write!(f, "{id}"),
            Account::Name(name) => f.write_str(name),
        }
    }
}

/// An address of NBD clients, with the mode and owners of a unix socket:
/// `unix:PATH,mode=0660,owner=USER,group=GROUP`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAddress {
    pub address: Address,
    pub mode: Option<u32>,
    pub owner: Option<Account>,
    pub group: Option<Account>,
}

impl ListenAddress {
    pub fn of(address: Address) -> ListenAddress {
        ListenAddress { address, mode: None, owner: None, group: None }
    }

    fn set(&mut self, option: &str) -> Result<()> {
        let bad = |why: String| Error::new(Kind::Usage, why);
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| mode & !0o777 == 0);
                let mode = mode.ok_or_else(|| bad(format!("{value:?} is no mode: write mode=0660, say")))?;
                self.mode = Some(mode);
            }
            "owner" => self.owner = Some(value.parse()?),
            "group" => self.group = Some(value.parse()?),
            _ => {
                let cure = nearest(name, &["mode", "owner", "group"]);
                return Err(bad(format!("{option:?} is no option of a socket{cure}")));
            }
        }
        Ok(())
    }
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<ListenAddress> {
        if !text.starts_with("unix:") {
            return text.parse().map(ListenAddress::of);
        }
        let mut parts = text.split(',');
        let mut at = ListenAddress::of(parts.next().unwrap_or_default().parse()?);
        for option in parts {
            at.set(option).map_err(|e| e.context(text))?;
        }
        Ok(at)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.mode.iter().try_for_each(|mode| write!(f, ",mode={mode:04o}"))?;
        self.owner.iter().try_for_each(|owner| write!(f, ",owner={owner}"))?;
        self.group.iter().try_for_each(|group| write!(f, ",group={group}"))
    }
}

impl Setting for ListenAddress {
    const KIND: &'static str = "an address";
    const SAMPLE: &'static str = "\"127.0.0.1:10809\" or \"unix:/run/windlass/nbd.sock,mode=0660\"";

    fn read(raw: &Raw<'_>) -> Result<ListenAddress, Vec<Fault>> {
        let written = text::<ListenAddress>(raw)?;
        written.parse().map_err(|e: Error| vec![Fault { at: raw.span(), what: e.to_string() }])
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Element for ListenAddress {
    const LIST: &'static str = "a list of addresses";
    const LIST_SAMPLE: &'static str = "[\"127.0.0.1:10809\"]";
}

impl Setting for Account {
    const KIND: &'static str = "a user or group";
    const SAMPLE: &'static str = "\"kvm\" or 64055";

    fn read(raw: &Raw<'_>) -> Result<Account, Vec<Fault>> {
        let written = match raw.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            _ => text::<Account>(raw)?,
        };
        written.parse().map_err(|e: Error| vec![Fault { at: raw.span(), what: e.to_string() }])
    }

    fn show(&self) -> String {
        match self {
            Account::Id(id) => id.to_string(),
            Account::Name(name) => quoted(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for good in ["127.0.0.1:0", "tls:h:1", "unix:/a b", "unix:/a,mode=0660,owner=root,group=64055"] {
            assert_eq!(good.parse::<ListenAddress>().unwrap().to_string(), good);
        }
        let at: ListenAddress = "unix:/a,group=kvm".parse().unwrap();
        assert_eq!((at.mode, at.group), (None, Some(Account::Name("kvm".into()))));
        for bad in [
            "unix:",
            "unix:,mode=0600",
            "unix:/a,",
            "unix:/a,mode",
            "unix:/a,mode=1777",
            "unix:/a,owner=",
            "tls:1",
        ] {
            assert!(bad.parse::<ListenAddress>().unwrap_err().is(Kind::Usage), "{bad}");
        }
    }
}
