//! What is imported: a file, a URL or a pipe, and what it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_image::{
    BackingDir, Bytewise, Chain, Compression, Detected, Format, HEAD_BYTES, HttpFile, HttpOpened, LocalFile,
    Opened, Raw, ReadAt, Source, Stream, TAIL_BYTES, check_end, compression_named, compression_of, detect,
    sha256,
};

/// The image as the command line describes it.
#[derive(Debug)]
pub struct Asked {
    /// A path, a URL, or `-`.
    pub from: String,
    pub format: Option<Format>,
    pub backing_dir: Option<PathBuf>,
    /// The sum that the image must have, in hexadecimal digits.
    pub sha256: Option<String>,
}

/// A disk that can be read.
pub struct Input {
    pub source: Box<dyn Source>,
    pub format: &'static str,
    /// A text that tells the image from others, for a run that goes on later. `None`: the image can be read
    /// only once.
    pub identity: Option<String>,
    /// The SHA-256 of a file, if it was read from end to end to take the sum.
    pub sum: Option<String>,
    /// True if something tells that all of the image has come: a length, a sum, or the end that a compressed
    /// file has.
    pub vouched: bool,
    /// The files that are read; none where the image can be read only once.
    files: Vec<Arc<dyn ReadAt>>,
}

/// The format that an image is read as.
#[derive(Clone, Copy, Debug)]
struct Told {
    format: Format,
    /// Finding from the first bytes. `None`: the user has named the format, and nothing is judged.
    judged: Option<Detected>,
}

impl Asked {
    /// Decides the format of the image, by its first bytes unless the user has named it. The bytes of a raw
    /// disk that the user calls one are not judged: a guest writes the first bytes of its disk. It is
    /// decompressed where the file's name says so, which no guest writes.
    fn told(&self, head: &[u8]) -> Result<Told> {
        let Some(said) = self.format else {
            let found = detect(head)?;
            return Ok(Told { format: found.format, judged: Some(found) });
        };
        let path = match self.from.contains("://") {
            true => self.from.split(['?', '#']).next().unwrap_or_default(),
            false => &self.from,
        };
        let format = match (said, compression_named(path)) {
            (Format::Raw, Some(by)) if compression_of(head) == Some(by) => Format::Compressed(by),
            (Format::Raw, Some(_)) => {
                let why = format!(
                    "{} is not compressed as its name says: give it another name, if its bytes are the disk's own",
                    self.from
                );
                return Err(Error::new(Kind::Invalid, why));
            }
            (said, _) => said,
        };
        Ok(Told { format, judged: None })
    }
}

enum Place {
    File(Arc<dyn ReadAt>, Reach),
    Bytes(Bytewise, Option<u64>),
}

/// Distances of a file, by the cost of reading it twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Local,
    Far,
}

impl Input {
    /// Opens the image, and finds out its format. If the file has another sum than `--sha256` asks for,
    /// nothing is left to do.
    pub async fn open(rt: &Rt, asked: &Asked, bar: &ProgressBar) -> Result<Input> {
        let place = locate(rt, &asked.from).await?;
        match place {
            Place::File(file, reach) => {
                let head = file.read_at(0, HEAD_BYTES).await?;
                of_file(rt, asked, (file, reach), asked.told(&head)?, bar).await
            }
            Place::Bytes(bytes, size) => {
                let (head, bytes) = Bytewise::peek(rt, bytes, HEAD_BYTES).await?;
                of_bytes(rt, asked, (bytes, size), asked.told(&head)?).await
            }
        }
    }

    /// Checks, after all of the image was read, that it did not change. `Invalid`: a file was written to
    /// meanwhile.
    pub async fn unchanged(&self) -> Result<()> {
        for file in &self.files {
            file.unchanged().await?;
        }
        Ok(())
    }

    /// Checks that the sum is the one that was asked for, if one was.
    pub fn check_sum(asked: &Asked, sum: Option<&str>) -> Result<()> {
        let Some(wanted) = &asked.sha256 else { return Ok(()) };
        let from = &asked.from;
        match sum {
            Some(sum) if sum == wanted => Ok(()),
            Some(sum) => {
                let why = format!("{from} has the SHA-256 {sum}, not {wanted}: it is not imported");
                Err(Error::new(Kind::Corrupt, why))
            }
            None => Err(Error::new(Kind::Internal, format!("{from} was not summed up"))),
        }
    }
}

async fn locate(rt: &Rt, from: &str) -> Result<Place> {
    let opened = match from {
        "-" => {
            let stdin =
                rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(io::Error::from)?;
            LocalFile::of(rt, stdin, "standard input".into())?
        }
        url if url.contains("://") => {
            return Ok(match HttpFile::open(rt, windlass_store::web_client()?, url).await? {
                HttpOpened::File(file) => Place::File(file.shared(), Reach::Far),
                HttpOpened::Stream(bytes, size) => Place::Bytes(bytes, size),
            });
        }
        path => LocalFile::open(rt, Path::new(path))?,
    };
    Ok(match opened {
        Opened::File(file) => Place::File(Arc::new(file), Reach::Local),
        Opened::Pipe(fd) => Place::Bytes(Bytewise::of_pipe(fd), None),
    })
}

async fn of_file(
    rt: &Rt,
    asked: &Asked,
    (file, reach): (Arc<dyn ReadAt>, Reach),
    told: Told,
    bar: &ProgressBar,
) -> Result<Input> {
    let Told { format, judged } = told;
    let sums = asked.sha256.is_some();
    let size = file.size();
    if let (Format::Raw, Some(found)) = (format, judged)
        && size > 0
    {
        let at = size.saturating_sub(TAIL_BYTES as u64);
        check_end(found.reason, size, &file.read_at(at, TAIL_BYTES).await?)?;
    }
    let mut identity = file.identity();
    let mut files = vec![file.clone()];
    let through =
        |by, size| Stream::start(rt, (file.name(), Bytewise::of_file(rt, file.clone())), by, size, sums);
    // What is far away is read once: it is summed up on the way.
    let on_the_way = match format {
        Format::Raw => reach == Reach::Far,
        Format::Qcow2 => false,
        Format::Compressed(_) => true,
    };
    let sum = match sums && !on_the_way {
        true => Some(summed(rt, &file, bar).await?),
        false => None,
    };
    if sum.is_some() {
        Input::check_sum(asked, sum.as_deref())?;
    }
    let source: Box<dyn Source> = match format {
        Format::Raw if sums && on_the_way => Box::new(through(None, Some(size))),
        Format::Raw => Box::new(Raw::new(file)),
        Format::Qcow2 => {
            let dir = asked.backing_dir.as_deref().map(BackingDir::open).transpose()?;
            let chain = Chain::open(rt, file, dir.as_ref()).await?;
            (identity, files) = (chain.identity(), chain.files());
            Box::new(chain)
        }
        Format::Compressed(by) => Box::new(inner(through(Some(by), None), by, judged.is_some()).await?),
    };
    Ok(Input { source, format: word(format), identity, sum, files, vouched: true })
}

async fn of_bytes(
    rt: &Rt,
    asked: &Asked,
    (bytes, size): (Bytewise, Option<u64>),
    Told { format, judged }: Told,
) -> Result<Input> {
    let name = if asked.from == "-" { "standard input".to_owned() } else { asked.from.clone() };
    let sums = asked.sha256.is_some();
    let source = match format {
        Format::Raw => {
            let mut stream = Stream::start(rt, (name, bytes), None, size, sums);
            if let Some(found) = judged {
                stream.must_be_disk(found.reason);
            }
            stream
        }
        Format::Compressed(by) => {
            let stream = Stream::start(rt, (name, bytes), Some(by), None, sums);
            inner(stream, by, judged.is_some()).await?
        }
        Format::Qcow2 => {
            let why = format!(
                "{name} is a qcow2 image, which can't be read from its begin to its end: save it to a file first"
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
    };
    let vouched = format != Format::Raw || size.is_some() || sums;
    let (source, files) = (Box::new(source), Vec::new());
    Ok(Input { source, format: word(format), identity: None, sum: None, files, vouched })
}

/// Checks the contents of a compressed file: they must be a raw disk, since a format with tables needs a file
/// that can be read anywhere. `judged`: the user has not said that it is a raw disk.
async fn inner(mut stream: Stream, by: Compression, judged: bool) -> Result<Stream> {
    if !judged {
        return Ok(stream);
    }
    let head = stream.head().await?;
    let found = detect(&head[..head.len().min(HEAD_BYTES)]);
    let found = found.map_err(|e| e.context("what is compressed in it"))?;
    if found.format == Format::Raw {
        stream.must_be_disk(found.reason);
        return Ok(stream);
    }
    let how = match by {
        Compression::Gzip => "gunzip",
        Compression::Xz => "unxz",
        Compression::Zstd => "unzstd",
    };
    let why = format!(
        "what is compressed in it is no raw disk: decompress it first (`{how}`), and import the result"
    );
    Err(Error::new(Kind::Unsupported, why))
}

async fn summed(rt: &Rt, file: &Arc<dyn ReadAt>, bar: &ProgressBar) -> Result<String> {
    bar.set_message("summing up");
    bar.set_length(file.size());
    let sum = sha256(rt, file, |at| bar.set_position(at)).await?;
    bar.reset();
    Ok(sum)
}

fn word(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
        Format::Compressed(Compression::Gzip) => "raw, gzip",
        Format::Compressed(Compression::Xz) => "raw, xz",
        Format::Compressed(Compression::Zstd) => "raw, zstd",
    }
}

/// Reads 64 hexadecimal digits.
pub fn parse_sum(text: &str) -> Result<String> {
    let sum = text.to_ascii_lowercase();
    match sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(sum),
        false => Err(Error::new(Kind::Usage, format!("{text:?} is no SHA-256: 64 hexadecimal digits are"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: &str, format: Option<Format>, head: &[u8]) -> Result<(Format, bool)> {
        let asked = Asked { from: from.into(), format, backing_dir: None, sha256: None };
        asked.told(head).map(|told| (told.format, told.judged.is_some()))
    }

    #[test]
    fn a_raw_disk_is_decompressed_where_its_name_says_so() {
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0";
        let compressed = Format::Compressed(Compression::Gzip);
        assert_eq!(told("x.gz", None, gzip).unwrap(), (compressed, true));
        assert_eq!(told("x.gz", Some(Format::Raw), gzip).unwrap(), (compressed, false));
        assert_eq!(told("https://h/x.gz?v=1", Some(Format::Raw), gzip).unwrap(), (compressed, false));
        assert_eq!(told("x.raw", Some(Format::Raw), gzip).unwrap(), (Format::Raw, false), "a guest's bytes");
        assert_eq!(told("-", Some(Format::Raw), gzip).unwrap(), (Format::Raw, false));
        assert_eq!(told("-", None, gzip).unwrap(), (compressed, true));
        assert!(told("x.gz", Some(Format::Raw), &[0; 512]).unwrap_err().is(Kind::Invalid));
        assert_eq!(told("x.tar", Some(Format::Raw), &[7; 512]).unwrap(), (Format::Raw, false));
    }
}
