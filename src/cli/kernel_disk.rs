//! The kernel's NBD devices: made, given new sockets, and let go, by netlink (Linux's `nbd-netlink.h`).
//!
//! The kernel holds a device's requests for as long as it may be given a socket in the place of one that is dead, and tells
//! all who listen when one dies.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use neli::consts::nl::NlmF;
use neli::consts::socket::NlFamily;
use neli::err::RouterError;
use neli::genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder, NoUserHeader};
use neli::nl::NlPayload;
use neli::router::asynchronous::{NlRouter, NlRouterReceiverHandle};
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use neli::{Size, ToBytes};
use rustix::io::Errno;

use windlass_base::{Error, Kind, Result};
use windlass_nbd::Info;

const FAMILY: &str = "nbd";
const GROUP: &str = "nbd_mc_group";
const VERSION: u8 = 1;

mod command {
    pub const CONNECT: u8 = 1;
    pub const DISCONNECT: u8 = 2;
    pub const RECONFIGURE: u8 = 3;
    pub const LINK_DEAD: u8 = 4;
    pub const STATUS: u8 = 5;
}

mod attribute {
    pub const INDEX: u16 = 1;
    pub const SIZE_BYTES: u16 = 2;
    pub const BLOCK_SIZE_BYTES: u16 = 3;
    pub const SERVER_FLAGS: u16 = 5;
    pub const SOCKETS: u16 = 7;
    pub const DEAD_CONN_TIMEOUT: u16 = 8;
    pub const DEVICE_LIST: u16 = 9;
    pub const BACKEND_IDENTIFIER: u16 = 10;
    /// Attributes inside of SOCKETS: an item, and the descriptor inside of it.
    pub const SOCKET_ITEM: u16 = 1;
    pub const SOCKET_FD: u16 = 1;
    /// Attributes inside of DEVICE_LIST: an item, and the state inside of it.
    pub const DEVICE_ITEM: u16 = 1;
    pub const DEVICE_CONNECTED: u16 = 2;
}

/// Unit in which a partition table on the disk counts, here as in a guest.
const SECTOR: u64 = 512;

type Message = Genlmsghdr<u8, u16>;
type Attribute = Nlattr<u16, Buffer>;

/// A connection to the kernel's NBD client, by which devices are made and let go.
pub struct KernelDisks {
    router: NlRouter,
    family: u16,
}

/// A receiver of the kernel's messages on devices that lose a connection.
pub struct Losses(NlRouterReceiverHandle<u16, Message>);

impl KernelDisks {
    /// Connects to the kernel's NBD client. `Kind::Unsupported`: this kernel has none, or has not loaded it.
    pub async fn open() -> Result<(KernelDisks, Losses)> {
        let doing = "talking to the kernel's NBD client";
        let opened = NlRouter::connect(NlFamily::Generic, None, Groups::empty()).await;
        let (router, losses) = opened.map_err(|e| failed(doing, e))?;
        let Ok(family) = router.resolve_genl_family(FAMILY).await else {
            let why = "this kernel has no NBD client, or has not loaded it: `modprobe nbd`, as root";
            return Err(Error::new(Kind::Unsupported, why));
        };
        let group = router.resolve_nl_mcast_group(FAMILY, GROUP).await.map_err(|e| failed(doing, e))?;
        router.add_mcast_membership(Groups::new_groups(&[group])).map_err(|e| failed(doing, e))?;
        Ok((KernelDisks { router, family }, Losses(losses)))
    }

    /// Makes a device of connections to an export: the one of that number, or the first that is free. Returns
    /// its number. Requests wait for `patience` while there is no connection. `name` stands in the device's
    /// `backend` in sysfs.
    pub async fn connect(
        &self,
        number: Option<u32>,
        export: &Info,
        sockets: &[OwnedFd],
        patience: Duration,
        name: &str,
    ) -> Result<u32> {
        let mut asked = vec![
            attribute(attribute::SIZE_BYTES, export.size)?,
            attribute(attribute::BLOCK_SIZE_BYTES, SECTOR)?,
            attribute(attribute::SERVER_FLAGS, u64::from(export.flags))?,
            attribute(attribute::DEAD_CONN_TIMEOUT, patience.as_secs())?,
            attribute(attribute::BACKEND_IDENTIFIER, name)?,
            list(sockets)?,
        ];
        if let Some(number) = number {
            asked.push(attribute(attribute::INDEX, number)?);
        }
        let told = self.ask("making an NBD device", command::CONNECT, asked).await?;
        told.iter().find_map(index).ok_or_else(|| Error::new(Kind::Invalid, "the kernel names no device"))
    }

    /// Gives a device a socket in the place of a dead one, and the export's size. False: the device is gone.
    /// Where no socket is dead the kernel drops the new one, and answers as if it had taken it.
    pub async fn reconnect(&self, number: u32, export: &Info, socket: &OwnedFd, name: &str) -> Result<bool> {
        let asked = vec![
            attribute(attribute::INDEX, number)?,
            attribute(attribute::SIZE_BYTES, export.size)?,
            attribute(attribute::BACKEND_IDENTIFIER, name)?,
            list(std::slice::from_ref(socket))?,
        ];
        match self.ask("giving an NBD device its new connection", command::RECONFIGURE, asked).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(Kind::NotFound) || error.is(Kind::NoSpace) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn disconnect(&self, number: u32) -> Result<()> {
        let asked = vec![attribute(attribute::INDEX, number)?];
        self.ask("letting an NBD device go", command::DISCONNECT, asked).await.map(drop)
    }

    /// Tells whether the device is there, with connections or waiting for some.
    pub async fn is_connected(&self, number: u32) -> Result<bool> {
        let asked = vec![attribute(attribute::INDEX, number)?];
        let told = self.ask("asking for an NBD device", command::STATUS, asked).await?;
        let connected = |message: &Message| {
            let all = message.attrs().get_attr_handle();
            let devices = all.get_nested_attributes::<u16>(attribute::DEVICE_LIST).ok()?;
            let device = devices.get_nested_attributes::<u16>(attribute::DEVICE_ITEM).ok()?;
            device.get_attr_payload_as::<u8>(attribute::DEVICE_CONNECTED).ok()
        };
        Ok(told.iter().filter_map(connected).any(|is| is != 0))
    }

    async fn ask(&self, doing: &str, command: u8, asked: Vec<Attribute>) -> Result<Vec<Message>> {
        let body = GenlmsghdrBuilder::<u8, u16, NoUserHeader>::default()
            .cmd(command)
            .version(VERSION)
            .attrs(asked.into_iter().collect::<GenlBuffer<_, _>>())
            .build()
            .map_err(internal)?;
        let sent = self.router.send(self.family, NlmF::ACK, NlPayload::Payload(body)).await;
        let mut answers: NlRouterReceiverHandle<u16, Message> = sent.map_err(|e| failed(doing, e))?;
        let mut told = Vec::new();
        while let Some(answer) = answers.next::<u16, Message>().await {
            match answer.map_err(|e| failed(doing, e))?.nl_payload() {
                NlPayload::Payload(message) => told.push(message.clone()),
                NlPayload::Err(e) => return Err(refused(doing, *e.error())),
                _ => {}
            }
        }
        Ok(told)
    }
}

impl Losses {
    /// Waits for the next device that loses a connection, and returns its number. It never returns if the
    /// kernel tells nothing more.
    pub async fn next(&mut self) -> u32 {
        while let Some(told) = self.0.next::<u16, Message>().await {
            if let Ok(message) = told
                && let NlPayload::Payload(message) = message.nl_payload()
                && *message.cmd() == command::LINK_DEAD
                && let Some(number) = index(message)
            {
                return number;
            }
        }
        std::future::pending().await
    }
}

fn index(message: &Message) -> Option<u32> {
    message.attrs().get_attr_handle().get_attr_payload_as::<u32>(attribute::INDEX).ok()
}

fn attribute<T: Size + ToBytes>(kind: u16, value: T) -> Result<Attribute> {
    let kind = AttrTypeBuilder::default().nla_type(kind).build().map_err(internal)?;
    NlattrBuilder::default().nla_type(kind).nla_payload(value).build().map_err(internal)
}

fn list(sockets: &[OwnedFd]) -> Result<Attribute> {
    let mut all = attribute(attribute::SOCKETS, Vec::<u8>::new())?;
    for socket in sockets {
        let number = u32::try_from(socket.as_raw_fd()).map_err(internal)?;
        let item = attribute(attribute::SOCKET_ITEM, Vec::<u8>::new())?;
        let item = item.nest(&attribute(attribute::SOCKET_FD, number)?).map_err(internal)?;
        all = all.nest(&item).map_err(internal)?;
    }
    Ok(all)
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, format!("a message to the kernel can't be made: {error}"))
}

fn failed<T: std::fmt::Debug, P: std::fmt::Debug>(doing: &str, error: RouterError<T, P>) -> Error {
    match error {
        RouterError::Nlmsgerr(told) => refused(doing, *told.error()),
        RouterError::Io(kind) => Error::from(io::Error::from(kind)).context(doing),
        other => Error::new(Kind::Io, format!("{doing}: {other:?}")),
    }
}

/// Makes the error for a refused request. `code`: an errno below 0.
fn refused(doing: &str, code: i32) -> Error {
    let errno = Errno::from_raw_os_error(-code);
    let (kind, hint) = match errno {
        Errno::PERM | Errno::ACCESS => (Kind::Denied, ": only root may, with CAP_SYS_ADMIN"),
        Errno::BUSY | Errno::EXIST => {
            (Kind::Exists, ": another one has it; name none, and a free one is taken")
        }
        Errno::NODEV | Errno::NOENT | Errno::INVAL => (Kind::NotFound, ": it is not there, or not connected"),
        Errno::NOSPC => (Kind::NoSpace, ""),
        _ => (Kind::Io, ""),
    };
    Error::new(kind, format!("{doing}: {errno}{hint}"))
}
