//! What the owner of a volume and its peer tell each other, a frame each (see `base::rt::link`). All numbers are little-endian.
//!
//! | first byte | from | then |
//! |---:|---|---|
//! | 1 begin | owner | version (2), 2; pool id (16); volume id (16); epoch (8); lsn (8): everything after it comes; id of the host whose session of this epoch the head was asked to name, or 0 (16); host id (16); its name (4 + n) |
//! | 2 begun | peer | lsn (8): up to there it has on its disk all that the pool lacks; 0: nothing; bytes (8) that the session has room for; host id (16); its name (4 + n) |
//! | 3 refused | peer | 1 when the session takes no more records, else 0 (1); why (4 + n) |
//! | 4 record | owner | hash (8, XXH3-64 of all that follows); lsn (8); kind (1); 1: first block (8), data; 2: first block (8), blocks (8); 3: a mark, as in a journal |
//! | 5 trim | owner | lsn (8): the pool has all up to here |
//! | 6 sync | owner | lsn (8): all up to here was sent |
//! | 7 synced | peer | lsn (8): that of a sync, which the peer's disk has |
//! | 8 ended | owner | nothing: the head names no mirror any more |
//! | 8 ended | peer | nothing: that was all that an owner asked for |
//! | 9 hear | owner | as begin, of the session that the head names: what lies after that lsn is asked for |
//!
//! The first frame is begin, its answer begun or refused. Then the owner sends records in the order of their lsns, and the peer
//! answers each sync. Or it is hear: the answer is begun, records in the order of their lsns, and ended.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::head::Host;
use windlass_base::codec::{Reader, Writer};
use windlass_base::format_limits::BLOCK;
use windlass_base::log_record::{Mark, Op, Record};
use windlass_base::{Epoch, Error, HostId, Kind, Lsn, PoolId, Result, VolumeId};

const VERSION: u16 = 2;
/// Most bytes of a record's data.
pub const DATA_MAX: usize = 1 << 20;
const NAME_MAX: usize = 255;
const WHY_MAX: usize = 1_000;

/// The first message of an owner: the mirror session that it asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begin {
    pub pool: PoolId,
    pub volume: VolumeId,
    pub epoch: Epoch,
    /// The last record before those that are to come.
    pub from: Lsn,
    /// The host that the head was asked to name, with its session of that epoch. Where that session is lost
    /// no other may take its place there.
    pub asked: Option<HostId>,
    pub owner: Host,
}

/// A message between an owner and its peer, as the module describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Begin(Begin),
    Begun { end: Lsn, room: u64, host: Host },
    Refused { closed: bool, why: String },
    Record(Record),
    Trim(Lsn),
    Sync(Lsn),
    Synced(Lsn),
    Ended,
    Hear(Begin),
}

impl Begin {
    fn encode(&self, kind: u8, w: &mut Writer) {
        w.u8(kind).u16(VERSION).u128(self.pool.0).u128(self.volume.0).u64(self.epoch.0);
        w.u64(self.from.0).u128(self.asked.map_or(0, |host| host.0));
        put_host(w, &self.owner);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Begin> {
        if r.u16()? != VERSION {
            let why = "the other daemon mirrors volumes in another way: use the same version of windlass";
            return Err(Error::new(Kind::Unsupported, why));
        }
        let (pool, volume, epoch) = (PoolId(r.u128()?), VolumeId(r.u128()?), Epoch(r.u64()?));
        if !epoch.is_counted() {
            return Err(r.bad("nobody has counted to a number in it"));
        }
        let from = counted(r)?;
        let asked = Some(HostId(r.u128()?)).filter(|host| host.0 != 0);
        Ok(Begin { pool, volume, epoch, from, asked, owner: host(r)? })
    }
}

fn put_host(w: &mut Writer, host: &Host) {
    let name = shortened(&host.name, NAME_MAX);
    w.u128(host.id.0).bytes(name.as_bytes());
}

fn shortened(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn text(r: &mut Reader<'_>, max: usize) -> Result<String> {
    let bytes = r.bytes(max)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| r.bad("a text is not UTF-8"))
}

fn host(r: &mut Reader<'_>) -> Result<Host> {
    Ok(Host { id: HostId(r.u128()?), name: text(r, NAME_MAX)? })
}

fn counted(r: &mut Reader<'_>) -> Result<Lsn> {
    let lsn = Lsn(r.u64()?);
    if lsn.is_counted() { Ok(lsn) } else { Err(r.bad("nobody has counted to a number in it")) }
}

fn hash_of(parts: [&[u8]; 2]) -> u64 {
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.digest()
}

impl Message {
    /// Returns the parts of the message's frame. A record's data stay where they are.
    pub fn frame(&self) -> Vec<Bytes> {
        let mut w = Writer::with_capacity(64);
        match self {
            Message::Begin(begin) => begin.encode(1, &mut w),
            Message::Begun { end, room, host } => {
                w.u8(2).u64(end.0).u64(*room);
                put_host(&mut w, host);
            }
            Message::Refused { closed, why } => {
                w.u8(3).u8((*closed).into()).bytes(shortened(why, WHY_MAX).as_bytes());
            }
            Message::Record(record) => return record_frame(record),
            Message::Trim(lsn) => {
                w.u8(5).u64(lsn.0);
            }
            Message::Sync(lsn) => {
                w.u8(6).u64(lsn.0);
            }
            Message::Synced(lsn) => {
                w.u8(7).u64(lsn.0);
            }
            Message::Ended => {
                w.u8(8);
            }
            Message::Hear(begin) => begin.encode(9, &mut w),
        }
        vec![w.buf.into()]
    }

    pub fn parse(frame: &Bytes) -> Result<Message> {
        let mut r = Reader::new(frame, "a message of a mirror");
        let message = match r.u8()? {
            1 => Message::Begin(Begin::decode(&mut r)?),
            2 => Message::Begun { end: counted(&mut r)?, room: r.u64()?, host: host(&mut r)? },
            3 => Message::Refused { closed: r.u8()? == 1, why: text(&mut r, WHY_MAX)? },
            4 => return parse_record(frame).map(Message::Record),
            5 => Message::Trim(counted(&mut r)?),
            6 => Message::Sync(counted(&mut r)?),
            7 => Message::Synced(counted(&mut r)?),
            8 => Message::Ended,
            9 => Message::Hear(Begin::decode(&mut r)?),
            _ => return Err(r.bad("it is of an unknown kind")),
        };
        r.end()?;
        Ok(message)
    }
}

/// Number of bytes before a write's data.
const WRITE_HEAD: usize = 1 + 8 + 8 + 1 + 8;

fn record_frame(record: &Record) -> Vec<Bytes> {
    let mut w = Writer::with_capacity(WRITE_HEAD + 8);
    w.u8(4).u64(0).u64(record.lsn.0);
    let data = match &record.op {
        Op::Write { block, data } => {
            w.u8(1).u64(*block);
            data.clone()
        }
        Op::Zero { block, blocks } => {
            w.u8(2).u64(*block).u64(*blocks);
            Bytes::new()
        }
        Op::Mark(mark) => {
            w.u8(3);
            mark.encode(&mut w);
            Bytes::new()
        }
    };
    let hash = hash_of([&w.buf[9..], &data]);
    w.buf[1..9].copy_from_slice(&hash.to_le_bytes());
    vec![w.buf.into(), data]
}

fn parse_record(frame: &Bytes) -> Result<Record> {
    let mut r = Reader::new(frame, "a record of a mirror");
    let (_, hash) = (r.u8()?, r.u64()?);
    if hash != hash_of([&frame[9..], &[]]) {
        return Err(r.bad("its checksum is wrong"));
    }
    let lsn = counted(&mut r)?;
    if lsn == Lsn(0) {
        return Err(r.bad("it has no number"));
    }
    let op = match r.u8()? {
        1 => {
            let block = r.u64()?;
            let data = frame.slice(WRITE_HEAD.min(frame.len())..);
            let whole =
                !data.is_empty() && (data.len() as u64).is_multiple_of(BLOCK) && data.len() <= DATA_MAX;
            if !whole || block.checked_add(data.len() as u64 / BLOCK).is_none() {
                return Err(r.bad("its data are no blocks"));
            }
            return Ok(Record { lsn, op: Op::Write { block, data } });
        }
        2 => {
            let (block, blocks) = (r.u64()?, r.u64()?);
            if block.checked_add(blocks).is_none() {
                return Err(r.bad("its blocks are none"));
            }
            Op::Zero { block, blocks }
        }
        3 => Op::Mark(Mark::decode(&mut r)?),
        _ => return Err(r.bad("it is of an unknown kind")),
    };
    r.end()?;
    Ok(Record { lsn, op })
}

/// Targets of fuzzing.
#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use super::*;
    use windlass_base::{Nonce, StateId};

    fn joined(message: &Message) -> Vec<u8> {
        message.frame().concat()
    }

    pub fn some_messages() -> Vec<Vec<u8>> {
        let host = Host { id: HostId(3), name: "h".into() };
        let (from, end) = (Lsn(4), Lsn(9));
        let (pool, volume, epoch, asked) = (PoolId(1), VolumeId(2), Epoch(3), Some(HostId(3)));
        let begin = Begin { pool, volume, epoch, from, asked, owner: host.clone() };
        let hear = Begin { asked: None, ..begin.clone() };
        let mark = Mark {
            state: StateId(1),
            name: "s".parse().expect("a name"),
            group: Nonce(1),
            group_size: 1,
            created_ms: 9,
            size: 1 << 20,
            history: false,
        };
        let data = Bytes::from(vec![7; 4096]);
        let ops = [Op::Write { block: 3, data }, Op::Zero { block: 5, blocks: 2 }, Op::Mark(mark)];
        let records = ops.into_iter().zip(1..).map(|(op, lsn)| Message::Record(Record { lsn: Lsn(lsn), op }));
        let others = [
            Message::Begin(begin),
            Message::Begun { end, room: 1 << 20, host },
            Message::Refused { closed: true, why: "no".into() },
            Message::Trim(end),
            Message::Sync(end),
            Message::Synced(end),
            Message::Ended,
            Message::Hear(hear),
        ];
        records.chain(others).map(|message| joined(&message)).collect()
    }

    /// Parses a frame as it came, and the frame with the hash put right.
    pub fn message(data: &[u8]) {
        let mut frames = vec![data.to_vec()];
        if data.first() == Some(&4) && data.len() > 9 {
            let mut summed = data.to_vec();
            let hash = hash_of([&data[9..], &[]]);
            summed[1..9].copy_from_slice(&hash.to_le_bytes());
            frames.push(summed);
        }
        for frame in frames {
            if let Ok(message) = Message::parse(&frame.into()) {
                assert_eq!(Message::parse(&joined(&message).into()).ok(), Some(message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_what_is_cut_or_changed_is_none() {
        for frame in fuzz::some_messages() {
            let whole = Bytes::from(frame.clone());
            let message = Message::parse(&whole).unwrap();
            assert_eq!(message.frame().concat(), frame);
            for cut in 0..frame.len() {
                assert!(Message::parse(&whole.slice(..cut)).is_err(), "{message:?} cut to {cut}");
            }
            if matches!(message, Message::Record(_)) {
                let mut changed = frame.clone();
                let at = changed.len() - 1;
                changed[at] ^= 1;
                assert!(Message::parse(&changed.into()).unwrap_err().is(Kind::Invalid));
            }
            let longer = [frame, vec![0]].concat();
            assert!(Message::parse(&longer.into()).is_err());
        }
    }

    #[test]
    fn long_names_are_cut_at_a_letter() {
        let host = Host { id: HostId(1), name: "ö".repeat(200) };
        let frame = Message::Begun { end: Lsn(1), room: 0, host }.frame().concat();
        let Message::Begun { host, .. } = Message::parse(&frame.into()).unwrap() else { panic!("another") };
        assert_eq!(host.name.len(), 254);
    }
}
