//! A raw disk that can only be read from its begin: a pipe, or what is compressed as a whole.
//!
//! One thread reads, decompresses and sums up; a few pieces wait for whoever takes them.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::format::{Compression, TAIL_BYTES, check_end};
use super::local_file::PipeReader;
use super::piece_source::{Content, PIECE, Piece, Source};
use super::raw_source::SECTOR;
use super::read_at::{ReadAt, hex};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Most pieces that wait for whoever takes them.
const WAITING: usize = 8;
/// Largest window of a zstd decompressor, as a power of two, and largest memory of an xz one in KiB. They are
/// what `zstd --ultra -22` and `xz -9` need, and a little.
const WINDOW_LOG_MAX: u32 = 27;
const XZ_KIB_MAX: u32 = 136 << 10;
/// Bytes of one read of a file that is read in order.
const STEP: usize = 2 << 20;

/// A stream of bytes in order, for a thread that reads them.
pub struct Bytewise(Box<dyn Read + Send>);

impl Bytewise {
    pub fn of_pipe(fd: OwnedFd) -> Bytewise {
        Bytewise(Box::new(PipeReader(fd)))
    }

    /// Returns a stream of `head` and then `rest`, for first bytes that were read to tell the format.
    pub fn after(head: Bytes, rest: Bytewise) -> Bytewise {
        Bytewise(Box::new(io::Read::chain(io::Cursor::new(head), rest.0)))
    }

    /// Reads the first bytes. Returns them, and the whole stream again.
    pub async fn peek(rt: &Rt, mut bytes: Bytewise, len: usize) -> Result<(Bytes, Bytewise)> {
        let read = move || {
            let mut head = vec![0; len];
            let n = read_fully(&mut bytes.0, &mut head)?;
            head.truncate(n);
            Ok::<_, io::Error>((Bytes::from(head), bytes))
        };
        let (head, rest) = rt.cpu(read).await??;
        Ok((head.clone(), Bytewise::after(head, rest)))
    }

    /// A file, read from start to end.
    pub fn of_file(rt: &Rt, file: Arc<dyn ReadAt>) -> Bytewise {
        let (send, receive) = mpsc::channel(2);
        let read = async move {
            let mut at = 0;
            while at < file.size() {
                let step = file.read_at(at, STEP).await;
                at += step.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let ended = step.as_ref().map_or(true, Bytes::is_empty);
                if send.send(step).await.is_err() || ended {
                    return;
                }
            }
        };
        rt.spawn(read).detach();
        Bytewise::of_channel(receive)
    }

    pub(super) fn of_channel(receive: mpsc::Receiver<Result<Bytes>>) -> Bytewise {
        Bytewise(Box::new(ChannelReader { receive, rest: Bytes::new() }))
    }
}

struct ChannelReader {
    receive: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receive.blocking_recv() {
                Some(bytes) => self.rest = bytes.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let n = into.len().min(self.rest.len());
        into[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// Fills `into` and returns how many bytes came: fewer only at the end.
fn read_fully(from: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A reader that sums up what is read through it.
struct Summing {
    inner: Box<dyn Read + Send>,
    sum: Option<Sha256>,
    told: mpsc::UnboundedSender<Note>,
}

impl Read for Summing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        if let Some(sum) = &mut self.sum {
            sum.update(&into[..n]);
            if n == 0 && !into.is_empty() {
                // At the end, which may be met more than once.
                let _ = self.told.send(Note::Sum(hex(&sum.clone().finalize())));
            }
        }
        Ok(n)
    }
}

enum Note {
    Sum(String),
}

/// A disk that is read from its start, see the module.
pub struct Stream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    notes: mpsc::UnboundedReceiver<Note>,
    name: String,
    /// Number of bytes that came.
    came: u64,
    /// Offset on the disk from which on bytes are asked for; earlier ones are dropped.
    at: u64,
    size: Option<u64>,
    sum: Option<String>,
    /// First bytes that were taken to tell what the stream is, and are to be given again.
    first: Option<io::Result<Bytes>>,
    /// The last bytes so far, where they tell whether the stream was a disk.
    judged: Option<Judged>,
}

/// The state of judging a stream that must be a raw disk, which its end tells too.
struct Judged {
    reason: Option<&'static str>,
    tail: Bytes,
}

impl Judged {
    fn take(&mut self, bytes: &Bytes) {
        self.tail = match bytes.len().checked_sub(TAIL_BYTES) {
            Some(at) => bytes.slice(at..),
            None => {
                let both = [&self.tail[..], bytes].concat();
                let at = both.len().saturating_sub(TAIL_BYTES);
                Bytes::from(both).slice(at..)
            }
        };
    }
}

impl Stream {
    /// Starts to read. `size`: of the disk, where it is known. `sums`: the file that is read is summed up, as
    /// it lies there.
    pub fn start(
        rt: &Rt,
        (name, bytes): (String, Bytewise),
        compression: Option<Compression>,
        size: Option<u64>,
        sums: bool,
    ) -> Stream {
        let (send, pieces) = mpsc::channel(WAITING);
        let (told, notes) = mpsc::unbounded_channel();
        let sum = sums.then(Sha256::new);
        let summing = Summing { inner: bytes.0, sum, told };
        let rt_of_job = rt.clone();
        // Its end is told by the channel's.
        let job = async move { rt_of_job.cpu(move || run(summing, compression, &send)).await };
        rt.spawn(job).detach();
        let size = size.map(|size| size.next_multiple_of(SECTOR));
        Stream { pieces, notes, name, came: 0, at: 0, size, sum: None, first: None, judged: None }
    }

    /// Makes the stream fail at its end if it was no raw disk. `reason`: what its first bytes say for a disk.
    pub fn must_be_disk(&mut self, reason: Option<&'static str>) {
        self.judged = Some(Judged { reason, tail: Bytes::new() });
    }

    /// Returns the first bytes of the contents, decompressed. They are read again later.
    pub async fn head(&mut self) -> Result<Bytes> {
        if self.first.is_none() {
            self.first = self.pieces.recv().await;
        }
        match self.first.take() {
            Some(Err(e)) => Err(unreadable(&self.name, e)),
            Some(Ok(bytes)) => {
                self.first = Some(Ok(bytes.clone()));
                Ok(bytes)
            }
            None => Ok(Bytes::new()),
        }
    }
}

/// A reader of the members of a gzip file, one behind the other. Zeros behind the last one, which fill up a
/// tape or what `dd` wrote, are ignored, as gzip(1) does.
struct Gzip<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.0 else { return Ok(0) };
            let n = member.read(into)?;
            if n > 0 || into.is_empty() {
                return Ok(n);
            }
            // A member has ended. Its decoder says so again if this is interrupted.
            let rest = member.get_mut();
            match rest.fill_buf()?.first() {
                None => return Ok(0),
                Some(0) => skip_zeros(rest)?,
                Some(_) => self.0 = self.0.take().map(|ended| GzDecoder::new(ended.into_inner())),
            }
        }
    }
}

/// Reads to the end, where nothing but zeros may come.
fn skip_zeros(rest: &mut impl BufRead) -> io::Result<()> {
    loop {
        let zeros = rest.fill_buf()?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "behind its end lies something else"));
        }
        match zeros.len() {
            0 => return Ok(()),
            len => rest.consume(len),
        }
    }
}

fn run(input: Summing, compression: Option<Compression>, send: &mpsc::Sender<io::Result<Bytes>>) {
    if let Err(e) = decompress(input, compression, send) {
        let _ = send.blocking_send(Err(e));
    }
}

/// Returns a reader of the contents: decompressed, where the input is compressed.
pub(super) fn decoder_of(
    input: impl Read + 'static,
    compression: Option<Compression>,
) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        None => Box::new(input),
        Some(Compression::Gzip) => {
            Box::new(Gzip(Some(GzDecoder::new(BufReader::with_capacity(128 << 10, input)))))
        }
        Some(Compression::Xz) => Box::new(lzma_rust2::XzReader::new_mem_limit(
            BufReader::with_capacity(128 << 10, input),
            true,
            XZ_KIB_MAX,
        )),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::new(input)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

fn decompress(
    input: Summing,
    compression: Option<Compression>,
    send: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut decoder = decoder_of(input, compression)?;
    loop {
        let mut piece = vec![0; PIECE as usize];
        let n = read_fully(&mut *decoder, &mut piece)?;
        let ended = n < piece.len();
        piece.truncate(n);
        if n > 0 && send.blocking_send(Ok(piece.into())).is_err() {
            // Nobody takes more.
            return Ok(());
        }
        if ended {
            return Ok(());
        }
    }
}

#[async_trait]
impl Source for Stream {
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let next = match self.first.take() {
                Some(first) => Some(first),
                None => self.pieces.recv().await,
            };
            let Some(bytes) = next else {
                while let Ok(Note::Sum(sum)) = self.notes.try_recv() {
                    self.sum = Some(sum);
                }
                return self.end();
            };
            let mut bytes = bytes.map_err(|e| unreadable(&self.name, e))?;
            if let Some(judged) = &mut self.judged {
                judged.take(&bytes);
            }
            let before = self.at.saturating_sub(self.came).min(bytes.len() as u64);
            let offset = self.came + before;
            self.came += bytes.len() as u64;
            bytes = bytes.slice(before as usize..);
            if !bytes.is_empty() {
                return Ok(Some(piece(offset, bytes)));
            }
        }
    }

    fn sum(&self) -> Option<String> {
        self.sum.clone()
    }
}

impl Stream {
    fn end(&self) -> Result<Option<Piece>> {
        let came = self.came.next_multiple_of(SECTOR);
        if let Some(Judged { reason, tail }) = self.judged.as_ref().filter(|_| came > 0) {
            // What was made of it is given up, as of any image that turns out to be none.
            check_end(*reason, self.came, tail).map_err(|e| Error::new(Kind::Invalid, e.to_string()))?;
        }
        match self.size {
            Some(size) if came != size => {
                let why = format!("{} ended after {came} bytes of {size}", self.name);
                Err(Error::new(Kind::Invalid, why))
            }
            _ => Ok(None),
        }
    }
}

/// Makes a piece of the bytes. The last one of a disk is filled up to a whole sector.
fn piece(offset: u64, bytes: Bytes) -> Piece {
    let len = (bytes.len() as u64).next_multiple_of(SECTOR);
    let bytes = match len as usize - bytes.len() {
        0 => bytes,
        more => [&bytes[..], &vec![0; more]].concat().into(),
    };
    Piece { offset, len, content: Content::Data(Box::pin(async move { Ok(bytes) })) }
}

/// Makes an error that tells damaged input from input that can't be read.
fn unreadable(name: &str, e: io::Error) -> Error {
    use io::ErrorKind as K;
    let damaged = matches!(e.kind(), K::InvalidData | K::InvalidInput | K::UnexpectedEof | K::OutOfMemory);
    let kind = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(Error::kind);
    match kind {
        Some(kind) => Error::new(kind, e.to_string()),
        None if damaged => Error::new(Kind::Invalid, format!("{name} can't be decompressed: {e}")),
        None => Error::from(e).context(format!("reading {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw_source::whole;
    use std::io::Write as _;
    use windlass_base::rt::RealRuntime;

    fn disk() -> Vec<u8> {
        (0..2_500_000u32).map(|n| (n / 1000) as u8).collect()
    }

    async fn through(bytes: Vec<u8>, by: Option<Compression>, size: Option<u64>) -> Result<(Bytes, String)> {
        let rt = Rt::new(RealRuntime::current());
        let input = Bytewise(Box::new(io::Cursor::new(bytes)));
        let mut stream = Stream::start(&rt, ("it".into(), input), by, size, true);
        let all = whole(&mut stream).await?;
        Ok((all, stream.sum().unwrap_or_default()))
    }

    fn packed(by: Option<Compression>) -> Vec<u8> {
        match by {
            None => disk(),
            Some(Compression::Gzip) => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&disk()).unwrap();
                gzip.finish().unwrap()
            }
            Some(Compression::Zstd) => zstd::stream::encode_all(&disk()[..], 1).unwrap(),
            Some(Compression::Xz) => XZ_OF_ZEROS.to_vec(),
        }
    }

    /// `head -c 1000 /dev/zero | xz`.
    const XZ_OF_ZEROS: &[u8] = include_bytes!("zeros.xz");

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_compressed_is_read_and_summed_up() {
        for by in [None, Some(Compression::Gzip), Some(Compression::Zstd)] {
            let packed = packed(by);
            let (all, sum) = through(packed.clone(), by, None).await.unwrap();
            assert_eq!(all.len(), 2_500_096);
            assert!(all[..2_500_000] == disk());
            assert_eq!(sum, hex(&Sha256::digest(&packed)));
        }
        let (all, _) = through(packed(Some(Compression::Xz)), Some(Compression::Xz), None).await.unwrap();
        assert!(all.len() == 1024 && all.iter().all(|b| *b == 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn zeros_behind_a_gzip_are_ignored_and_nothing_else() {
        let by = Some(Compression::Gzip);
        let twice = [packed(by), packed(by)].concat();
        let (all, _) = through(twice.clone(), by, None).await.unwrap();
        assert!(all[..5_000_000] == [disk(), disk()].concat());
        let filled_up = [&twice[..], &[0; 300_000]].concat();
        let (also, sum) = through(filled_up.clone(), by, None).await.unwrap();
        assert!(also == all && sum == hex(&Sha256::digest(&filled_up)));
        let more = [&filled_up[..], b"junk"].concat();
        assert!(through(more, by, None).await.unwrap_err().is(Kind::Invalid));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_cut_off_or_damaged_is_an_error() {
        for by in [Compression::Gzip, Compression::Zstd, Compression::Xz].map(Some) {
            let whole = packed(by);
            let cut = whole[..whole.len() / 2].to_vec();
            assert!(through(cut, by, None).await.is_err(), "{by:?}");
            let mut damaged = whole.clone();
            damaged[whole.len() / 2] ^= 0x55;
            // This zstd has no sum of its own.
            let noticed = through(damaged, by, None).await.is_err();
            assert!(noticed || by == Some(Compression::Zstd), "{by:?}");
        }
        let short = through(disk(), None, Some(3_000_000)).await.unwrap_err();
        assert!(short.is(Kind::Invalid), "{short}");
    }
}
