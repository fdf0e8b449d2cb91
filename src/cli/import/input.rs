//! What is imported: a file, a URL or a pipe, and what it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;

use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result};
use crate::image::{
    BackingDir, Bytewise, Chain, Compression, Format, HEAD_BYTES, HttpFile, HttpOpened, LocalFile, Opened,
    Raw, ReadAt, Source, Stream, detect, sha256,
};
use crate::store;

/// What the command line says of it.
#[derive(Debug)]
pub struct Asked {
    /// A path, a URL, or `-`.
    pub from: String,
    pub format: Option<Format>,
    pub backing_dir: Option<PathBuf>,
    /// In hexadecimal digits.
    pub sha256: Option<String>,
}

/// A disk that can be read.
pub struct Input {
    pub source: Box<dyn Source>,
    pub format: &'static str,
    /// Tells it from others, for who goes on later; none: it can be read once.
    pub identity: Option<String>,
    /// Of a file that was read from end to end to take it.
    pub sum: Option<String>,
    /// What it is read from, but for what can be read once only.
    files: Vec<Arc<dyn ReadAt>>,
}

enum Place {
    File(Arc<dyn ReadAt>, Reach),
    Bytes(Bytewise, Option<u64>),
}

/// What it costs to read a file twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Local,
    Far,
}

impl Input {
    /// Opens it, and tells what it is. Of a `--sha256` that differs nothing is left to do.
    pub async fn open(rt: &Rt, asked: &Asked, bar: &ProgressBar) -> Result<Input> {
        let place = locate(rt, &asked.from).await?;
        match place {
            Place::File(file, reach) => {
                let head = file.read_at(0, HEAD_BYTES).await?;
                let format = asked.format.map_or_else(|| detect(&head), Ok)?;
                of_file(rt, asked, (file, reach), format, bar).await
            }
            Place::Bytes(bytes, size) => {
                let (head, bytes) = Bytewise::peek(rt, bytes, HEAD_BYTES).await?;
                let format = asked.format.map_or_else(|| detect(&head), Ok)?;
                of_bytes(rt, asked, (bytes, size), format).await
            }
        }
    }

    /// For who has read all of it: `Invalid` when a file was written to meanwhile.
    pub async fn unchanged(&self) -> Result<()> {
        for file in &self.files {
            file.unchanged().await?;
        }
        Ok(())
    }

    /// Whether the sum is the one that was asked for, where one was.
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
            return Ok(match HttpFile::open(rt, store::web_client()?, url).await? {
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
    format: Format,
    bar: &ProgressBar,
) -> Result<Input> {
    let sums = asked.sha256.is_some();
    let size = file.size();
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
        Format::Compressed(by) => Box::new(inner(through(Some(by), None), by).await?),
    };
    Ok(Input { source, format: word(format), identity, sum, files })
}

async fn of_bytes(
    rt: &Rt,
    asked: &Asked,
    (bytes, size): (Bytewise, Option<u64>),
    format: Format,
) -> Result<Input> {
    let name = if asked.from == "-" { "standard input".to_owned() } else { asked.from.clone() };
    let sums = asked.sha256.is_some();
    let source = match format {
        Format::Raw => Stream::start(rt, (name, bytes), None, size, sums),
        Format::Compressed(by) => inner(Stream::start(rt, (name, bytes), Some(by), None, sums), by).await?,
        Format::Qcow2 => {
            let why = format!(
                "{name} is a qcow2 image, which can't be read from its begin to its end: save it to a file first"
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
    };
    Ok(Input { source: Box::new(source), format: word(format), identity: None, sum: None, files: Vec::new() })
}

/// What is inside of a compressed file must be a raw disk: tables that lead here and there need the file itself.
async fn inner(mut stream: Stream, by: Compression) -> Result<Stream> {
    let head = stream.head().await?;
    if detect(&head[..head.len().min(HEAD_BYTES)])? == Format::Raw {
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
