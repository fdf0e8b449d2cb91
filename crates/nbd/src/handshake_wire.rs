//! The handshake's bytes, as pure functions: greeting, options and their replies, big-endian, no I/O.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use serde::{Deserialize, Serialize};

use super::wire::{Headers, PAYLOAD_MAX, STRING_MAX, bounded, flag};
use super::{Description, ListedExport};
use windlass_base::{Error, Kind, Result};

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u32 = 1;
const NO_ZEROES: u32 = 2;

/// Most bytes of an option's data that are parsed; longer data are passed over and refused.
pub const OPTION_DATA_MAX: usize = 16 << 10;

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR + 1;
    pub const ERR_POLICY: u32 = ERROR + 2;
    pub const ERR_INVALID: u32 = ERROR + 3;
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    pub const ERR_SHUTDOWN: u32 = ERROR + 7;
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR + 10;

    pub fn is_error(reply: u32) -> bool {
        reply & ERROR != 0
    }
}

pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

/// Writes the greeting, which is the first message of a connection.
pub fn put_greeting(out: &mut impl BufMut) {
    out.put_u64(NBD_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16((FIXED_NEWSTYLE | NO_ZEROES) as u16);
}

pub const GREETING_BYTES: usize = 18;

/// Parses the greeting, for a client; only a fixed newstyle server will do. Returns whether the server can
/// leave out the zeroes behind its answer to EXPORT_NAME.
pub fn parse_greeting(b: &[u8; GREETING_BYTES]) -> Result<bool> {
    let mut b = &b[..];
    if b.get_u64() != NBD_MAGIC || b.get_u64() != OPTION_MAGIC {
        return Err(invalid("the server does not speak newstyle NBD"));
    }
    let flags = u32::from(b.get_u16());
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(invalid("the server does not speak fixed newstyle NBD"));
    }
    Ok(flags & NO_ZEROES != 0)
}

/// A client's answer to the greeting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientFlags {
    pub fixed: bool,
    pub no_zeroes: bool,
}

impl ClientFlags {
    pub const BYTES: usize = 4;

    pub fn parse(b: [u8; ClientFlags::BYTES]) -> Result<ClientFlags> {
        let flags = u32::from_be_bytes(b);
        if flags & !(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(invalid(format!("the client set flags {flags:#x} that were not offered")));
        }
        Ok(ClientFlags { fixed: flags & FIXED_NEWSTYLE != 0, no_zeroes: flags & NO_ZEROES != 0 })
    }

    pub fn put(self, out: &mut impl BufMut) {
        out.put_u32(if self.fixed { FIXED_NEWSTYLE } else { 0 } | if self.no_zeroes { NO_ZEROES } else { 0 });
    }
}

/// An option's header; `len` bytes of data follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    pub option: u32,
    pub len: u32,
}

impl OptionHeader {
    pub const BYTES: usize = 16;

    /// Parses the header. An error here is the end of the connection.
    pub fn parse(b: &[u8; OptionHeader::BYTES]) -> Result<OptionHeader> {
        let mut b = &b[..];
        let magic = b.get_u64();
        if magic != OPTION_MAGIC {
            return Err(invalid(format!("an option begins with {magic:#x}, not its magic")));
        }
        Ok(OptionHeader { option: b.get_u32(), len: b.get_u32() })
    }
}

pub fn put_option(out: &mut impl BufMut, option: u32, data: &[u8]) {
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

/// The data of INFO and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InfoRequest {
    pub name: String,
    pub wants: Vec<u16>,
}

impl InfoRequest {
    pub fn parse(data: &[u8]) -> Result<InfoRequest> {
        let short = || invalid("the lengths in the request do not add up");
        let mut b = data;
        let name_len = b.try_get_u32().map_err(|_| short())? as usize;
        if name_len > b.len() {
            return Err(short());
        }
        let (name, mut b) = b.split_at(name_len);
        let count = usize::from(b.try_get_u16().map_err(|_| short())?);
        if b.len() != 2 * count {
            return Err(short());
        }
        let wants = std::iter::from_fn(|| b.try_get_u16().ok()).collect();
        Ok(InfoRequest { name: parse_name(name)?, wants })
    }

    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u32(self.name.len() as u32);
        out.put_slice(self.name.as_bytes());
        out.put_u16(self.wants.len() as u16);
        for want in &self.wants {
            out.put_u16(*want);
        }
    }
}

/// Name of the context that tells data from holes. `CHANGES` and a snapshot's name are the context that tells
/// what has changed since that snapshot.
pub const ALLOCATION: &str = "base:allocation";
pub const CHANGES: &str = "qemu:dirty-bitmap:";

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContextRequest {
    pub name: String,
    pub queries: Vec<String>,
}

impl ContextRequest {
    pub fn parse(data: &[u8]) -> Result<ContextRequest> {
        let mut b = data;
        let name = parse_name(string(&mut b)?)?;
        let count = b.try_get_u32().map_err(|_| contexts_do_not_add_up())?;
        let mut queries = Vec::new();
        // Each takes four bytes at least: no more are made than the data has.
        for _ in 0..count {
            let query = string(&mut b)?;
            if query.len() > STRING_MAX {
                return Err(invalid(format!("a query is at most {STRING_MAX} bytes long")));
            }
            // One that is not UTF-8 names nothing that is here.
            queries.push(String::from_utf8_lossy(query).into_owned());
        }
        if !b.is_empty() {
            return Err(contexts_do_not_add_up());
        }
        Ok(ContextRequest { name, queries })
    }

    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u32(self.name.len() as u32);
        out.put_slice(self.name.as_bytes());
        out.put_u32(self.queries.len() as u32);
        for query in &self.queries {
            out.put_u32(query.len() as u32);
            out.put_slice(query.as_bytes());
        }
    }

    /// Tells whether the request names the allocation. A listing's query may also leave out the name behind
    /// `base:`, or have no queries.
    pub fn wants_allocation(&self, lists: bool) -> bool {
        let all = lists && (self.queries.is_empty() || self.queries.iter().any(|query| query == "base:"));
        all || self.queries.iter().any(|query| query == ALLOCATION)
    }

    /// Tells whether any query may be for changes.
    pub fn wants_changes(&self, lists: bool) -> bool {
        lists && self.wants_all_changes() || self.queries.iter().any(|query| query.starts_with(CHANGES))
    }

    /// Returns those of `snapshots` since which the request asks for changes; none twice.
    pub fn changes_since(&self, snapshots: Vec<String>, lists: bool) -> Vec<String> {
        if lists && self.wants_all_changes() {
            return snapshots;
        }
        let named: BTreeSet<&str> = self.queries.iter().filter_map(|q| q.strip_prefix(CHANGES)).collect();
        snapshots.into_iter().filter(|snapshot| named.contains(&**snapshot)).collect()
    }

    /// Tells whether a listing asks for all snapshots.
    fn wants_all_changes(&self) -> bool {
        self.queries.is_empty() || self.queries.iter().any(|query| query == "qemu:" || query == CHANGES)
    }
}

fn contexts_do_not_add_up() -> Error {
    invalid("the lengths in the request do not add up")
}

fn string<'a>(b: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = b.try_get_u32().map_err(|_| contexts_do_not_add_up())? as usize;
    let (text, rest) = b.split_at_checked(len).ok_or_else(contexts_do_not_add_up)?;
    *b = rest;
    Ok(text)
}

/// Writes a reply with one context of an export. `id` is its number in answers to BLOCK_STATUS; a listing has
/// none.
pub fn put_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    let mut data = id.to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    put_reply(out, option, reply::META_CONTEXT, &data);
}

/// Parses a context, for a client: its name, and its number in answers.
pub fn parse_context(data: &[u8]) -> Result<(String, u32)> {
    let mut b = data;
    let id = b.try_get_u32().map_err(|_| invalid("a context's name is too short"))?;
    Ok((parse_name(b)?, id))
}

/// Parses an export's name as a client sends it.
pub fn parse_name(bytes: &[u8]) -> Result<String> {
    if bytes.len() > STRING_MAX {
        return Err(invalid(format!("an export's name is at most {STRING_MAX} bytes long")));
    }
    let name = std::str::from_utf8(bytes).map_err(|_| invalid("an export's name is UTF-8"))?;
    Ok(name.to_string())
}

/// Writes a reply to an option.
pub fn put_reply(out: &mut Vec<u8>, option: u32, reply: u32, data: &[u8]) {
    out.put_u64(REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(reply);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

pub fn put_refusal(out: &mut Vec<u8>, option: u32, reply: u32, text: &str) {
    put_reply(out, option, reply, bounded(text).as_bytes());
}

/// Writes the reply that names one export of a LIST.
pub fn put_listed(out: &mut Vec<u8>, listed: &ListedExport) {
    let (name, text) = (bounded(&listed.name), bounded(&listed.text));
    let mut data = Vec::with_capacity(4 + name.len() + text.len());
    data.put_u32(name.len() as u32);
    data.put_slice(name.as_bytes());
    data.put_slice(text.as_bytes());
    put_reply(out, option::LIST, reply::SERVER, &data);
}

pub fn parse_listed(data: &[u8]) -> Result<ListedExport> {
    let mut b = data;
    let len = b.try_get_u32().map_err(|_| invalid("a listing is too short"))? as usize;
    if len > b.len() {
        return Err(invalid("a listing is too short"));
    }
    let (name, text) = b.split_at(len);
    Ok(ListedExport { name: parse_name(name)?, text: String::from_utf8_lossy(text).into_owned() })
}

/// Returns the transmission flags of an export.
pub fn flags_of(d: &Description, headers: Headers) -> u16 {
    let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA;
    let when = [
        (d.read_only, flag::READ_ONLY),
        (!d.read_only, flag::SEND_TRIM | flag::SEND_WRITE_ZEROES),
        (!d.read_only && d.fast_zero, flag::SEND_FAST_ZERO),
        (headers.has_chunks(), flag::SEND_DF),
        (d.multi_conn, flag::CAN_MULTI_CONN),
    ];
    for (holds, flag) in when {
        flags |= if holds { flag } else { 0 };
    }
    flags
}

/// Returns the least alignment that clients are told: sectors, which kernels need, unless the size isn't a
/// multiple of them. The server takes requests of any alignment.
fn block_min(size: u64) -> u32 {
    if size.is_multiple_of(512) { 512 } else { 1 }
}

const BLOCK_PREFERRED: u32 = 4096;

/// Writes the information before the ACK of an INFO or a GO: EXPORT always, the rest when asked for.
pub fn put_infos(out: &mut Vec<u8>, option: u32, d: &Description, headers: Headers, wants: &[u16]) {
    let mut put = |kind: u16, body: &[u8]| {
        let mut data = Vec::with_capacity(2 + body.len());
        data.put_u16(kind);
        data.put_slice(body);
        put_reply(out, option, reply::INFO, &data);
    };
    let mut export = Vec::with_capacity(10);
    export.put_u64(d.size);
    export.put_u16(flags_of(d, headers));
    put(info::EXPORT, &export);
    if wants.contains(&info::NAME) {
        put(info::NAME, bounded(&d.name).as_bytes());
    }
    if wants.contains(&info::DESCRIPTION) && !d.text.is_empty() {
        put(info::DESCRIPTION, bounded(&d.text).as_bytes());
    }
    if wants.contains(&info::BLOCK_SIZE) {
        let sizes = [block_min(d.size), BLOCK_PREFERRED, PAYLOAD_MAX];
        put(info::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
    }
}

/// Writes the answer to EXPORT_NAME.
pub fn put_old_answer(out: &mut Vec<u8>, d: &Description, headers: Headers, no_zeroes: bool) {
    out.put_u64(d.size);
    out.put_u16(flags_of(d, headers));
    if !no_zeroes {
        out.put_bytes(0, 124);
    }
}

/// A reply's header as a client reads it; `len` bytes of data follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    pub option: u32,
    pub reply: u32,
    pub len: u32,
}

impl ReplyHeader {
    pub const BYTES: usize = 20;

    pub fn parse(b: &[u8; ReplyHeader::BYTES]) -> Result<ReplyHeader> {
        let mut b = &b[..];
        if b.get_u64() != REPLY_MAGIC {
            return Err(invalid("an option's reply does not begin with its magic"));
        }
        Ok(ReplyHeader { option: b.get_u32(), reply: b.get_u32(), len: b.get_u32() })
    }
}

/// A server's information about an export, as a client reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info {
    pub size: u64,
    /// Transmission flags, as in `wire::flag`.
    pub flags: u16,
    pub name: Option<String>,
    pub text: Option<String>,
    /// Least and preferred block size, and largest payload, in bytes.
    pub block: Option<[u32; 3]>,
}

impl Info {
    /// Tells whether one client may use several connections: each sees what another one has flushed.
    pub fn allows_many_connections(&self) -> bool {
        self.flags & flag::CAN_MULTI_CONN != 0
    }

    /// Returns the information that a client gets who must not write to the export.
    #[must_use]
    pub fn to_read(mut self) -> Info {
        self.flags |= flag::READ_ONLY;
        self
    }

    /// Takes in one `reply::INFO`; unknown kinds are passed over.
    pub fn take(&mut self, data: &[u8]) -> Result<()> {
        let bad = |_| invalid("an export's information is too short");
        let mut b = data;
        match b.try_get_u16().map_err(bad)? {
            info::EXPORT => {
                self.size = b.try_get_u64().map_err(bad)?;
                self.flags = b.try_get_u16().map_err(bad)?;
            }
            info::NAME => self.name = Some(String::from_utf8_lossy(b).into_owned()),
            info::DESCRIPTION => self.text = Some(String::from_utf8_lossy(b).into_owned()),
            info::BLOCK_SIZE => {
                let mut next = || b.try_get_u32().map_err(bad);
                self.block = Some([next()?, next()?, next()?]);
            }
            _ => {}
        }
        Ok(())
    }
}
