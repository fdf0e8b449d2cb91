//! A qcow2 image with all that it is built on, as pieces of one disk.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;

use super::compressed_cluster::unpack;
use super::header::{Backing, ClusterCompression};
use super::image_extents::{Extent, Image};
use super::refcount_check::check;
use crate::backing_dir::BackingDir;
use crate::piece_source::{Content, PIECE, Piece, Source, UNDER_WAY};
use crate::raw_source::SECTOR;
use crate::read_at::{ReadAt, read_padded};
use windlass_base::format_limits::BLOCK;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Most images in a chain. A chain that leads back to itself ends by this limit too.
const DEPTH_MAX: usize = 8;
/// Most bytes of the L1 tables of a chain.
const L1_BYTES_MAX: usize = 64 << 20;
/// Fewest zeros that end a piece.
const ZEROS_MIN: u64 = 64 << 10;

/// One file of the chain.
#[derive(Debug)]
enum Layer {
    Qcow2(Box<Image>),
    Raw(Arc<dyn ReadAt>),
}

impl Layer {
    fn size(&self) -> u64 {
        match self {
            Layer::Qcow2(image) => image.header.size,
            Layer::Raw(file) => file.size(),
        }
    }

    fn file(&self) -> &Arc<dyn ReadAt> {
        match self {
            Layer::Qcow2(image) => &image.file,
            Layer::Raw(file) => file,
        }
    }

    /// Returns the unit in which the file is read, in bytes. A file may end in the middle of its last cluster
    /// or sector.
    fn unit(&self) -> u64 {
        match self {
            Layer::Qcow2(image) => image.header.cluster(),
            Layer::Raw(_) => SECTOR,
        }
    }

    async fn extent(&self, offset: u64, max: u64) -> Result<(u64, Extent)> {
        let file = match self {
            Layer::Qcow2(image) => return image.extent(offset, max).await,
            Layer::Raw(file) => file,
        };
        Ok(match file.data_after(offset).await? {
            Some(data) if data.start <= offset => ((data.end - offset).min(max), Extent::Data { offset }),
            Some(data) => ((data.start - offset).min(max), Extent::Zero),
            None => (max, Extent::Zero),
        })
    }
}

/// A part of a piece and where its bytes come from: a layer's number, and what the bytes are there.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Offset of the part from the start of the piece.
    at: u64,
    len: u64,
    layer: usize,
    extent: Extent,
}

impl Part {
    /// Returns offset and length of what must be read of the layer's file. `None`: the part is zero.
    fn needs(&self) -> Option<(u64, u64)> {
        match self.extent {
            Extent::Data { offset } => Some((offset, self.len)),
            Extent::Compressed { offset, bytes, .. } => Some((offset, bytes)),
            Extent::Absent | Extent::Zero => None,
        }
    }
}

/// A run of one layer's file.
#[derive(Clone, Copy, Debug)]
struct Run {
    layer: usize,
    offset: u64,
    len: u64,
}

/// A qcow2 image with all that it is built on, see the module.
#[derive(Debug)]
pub struct Chain {
    rt: Rt,
    layers: Arc<Vec<Layer>>,
    /// Bytes of the disk, in whole sectors.
    size: u64,
    piece: u64,
    at: u64,
}

impl Chain {
    /// Opens the image and what it is built on, which must lie in `dir`, and checks each of them.
    pub async fn open(rt: &Rt, file: Arc<dyn ReadAt>, dir: Option<&BackingDir>) -> Result<Chain> {
        let (mut layers, mut next, mut l1_bytes) = (Vec::new(), Some((file, true)), 0);
        while let Some((file, is_qcow2)) = next.take() {
            if layers.len() == DEPTH_MAX {
                let why = format!(
                    "it is built on more than {} images: flatten it (`qemu-img convert`)",
                    DEPTH_MAX - 1
                );
                return Err(Error::new(Kind::Unsupported, why));
            }
            if !is_qcow2 {
                layers.push(Layer::Raw(file));
                break;
            }
            let image = Image::open(file).await?;
            l1_bytes += image.l1().len();
            if l1_bytes > L1_BYTES_MAX {
                return Err(Error::new(
                    Kind::Unsupported,
                    "the tables of its chain are too large: flatten it",
                ));
            }
            check(&image).await.map_err(|e| damaged(&image, e))?;
            if let Some(backing) = &image.header.backing {
                next = Some(open_backing(rt, backing, dir)?);
            }
            layers.push(Layer::Qcow2(Box::new(image)));
        }
        let largest = |piece: u64, layer: &Layer| piece.max(layer.unit());
        let piece = layers.iter().fold(PIECE, largest);
        let size = layers[0].size().next_multiple_of(SECTOR);
        Ok(Chain { rt: rt.clone(), layers: Arc::new(layers), size, piece, at: 0 })
    }

    /// Returns a text that tells all files of the chain from others, if each of them can be told.
    pub fn identity(&self) -> Option<String> {
        let all: Option<Vec<_>> = self.layers.iter().map(|layer| layer.file().identity()).collect();
        Some(all?.join("; "))
    }

    pub fn files(&self) -> Vec<Arc<dyn ReadAt>> {
        self.layers.iter().map(|layer| layer.file().clone()).collect()
    }

    /// Finds what lies on the disk from `offset` on, in the topmost layer that has something to say. Returns
    /// the length, the layer's number and the extent.
    async fn extent(&self, offset: u64, max: u64) -> Result<(u64, usize, Extent)> {
        let mut max = max;
        for (at, layer) in self.layers.iter().enumerate() {
            let left = layer.size().saturating_sub(offset);
            if left == 0 {
                break;
            }
            let found = layer.extent(offset, max.min(left)).await;
            let (len, extent) = found.map_err(|e| e.context(layer.file().name()))?;
            max = len;
            if extent != Extent::Absent {
                return Ok((len, at, extent));
            }
        }
        Ok((max, 0, Extent::Zero))
    }

    /// Collects the parts of the piece that begins with `first`. The piece's length is known only after its
    /// start was looked up.
    async fn parts(&self, first: (u64, usize, Extent), len: u64) -> Result<Vec<Part>> {
        let (mut parts, mut at, mut found) = (Vec::new(), 0, first);
        loop {
            let (here, layer, extent) = (found.0.min(len - at), found.1, found.2);
            parts.push(Part { at, len: here, layer, extent });
            at += here;
            if at == len {
                return Ok(parts);
            }
            found = self.extent(self.at + at, len - at).await?;
        }
    }
}

fn damaged(image: &Image, why: Error) -> Error {
    let name = image.file.name();
    why.context(format!("{name} contradicts itself (`qemu-img check` says more, and may mend it)"))
}

/// Opens the file below an image. Returns it, and whether it is qcow2.
fn open_backing(rt: &Rt, backing: &Backing, dir: Option<&BackingDir>) -> Result<(Arc<dyn ReadAt>, bool)> {
    let name = &backing.name;
    let dir = dir.ok_or_else(|| {
        let why = format!(
            "the image is built on {name:?}, and no file that an image names is opened unasked: say --backing-dir DIR, the \
             folder that holds it, or flatten the image first (`qemu-img convert`)"
        );
        Error::new(Kind::Refused, why)
    })?;
    let is_qcow2 = match backing.format.as_deref() {
        Some("qcow2") => true,
        Some("raw") => false,
        Some(other) => {
            let why = format!("the image is built on {name:?}, which is {other}: raw and qcow2 are read");
            return Err(Error::new(Kind::Unsupported, why));
        }
        None => {
            let why = format!(
                "the image does not say the format of {name:?}, which it is built on: `qemu-img rebase -u -F FORMAT -b NAME IMAGE` \
                 writes it down"
            );
            return Err(Error::new(Kind::Unsupported, why));
        }
    };
    Ok((Arc::new(dir.file(rt, name)?), is_qcow2))
}

#[async_trait]
impl Source for Chain {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    /// Bounds the pieces under way by half of the memory. Where clusters are compressed, the bytes that are
    /// read for a piece may be twice its size and more.
    fn pieces_max(&self) -> usize {
        let reads = self.layers.iter().map(|layer| layer.file().reads_max()).min();
        ((UNDER_WAY / 2 / self.piece) as usize).min(reads.unwrap_or(1))
    }

    fn skip_to(&mut self, offset: u64) {
        self.at = offset;
    }

    async fn next(&mut self) -> Result<Option<Piece>> {
        let (offset, left) = (self.at, self.size - self.at.min(self.size));
        if left == 0 {
            return Ok(None);
        }
        let first = self.extent(offset, left).await?;
        // Pieces begin between blocks of the target.
        let zeros = if first.0 == left { left } else { first.0.saturating_sub((offset + first.0) % BLOCK) };
        if first.2 == Extent::Zero && (zeros >= ZEROS_MIN || zeros == left) {
            self.at += zeros;
            return Ok(Some(Piece { offset, len: zeros, content: Content::Zero }));
        }
        let len = (self.piece - offset % self.piece).min(left);
        let parts = self.parts(first, len).await?;
        self.at += len;
        let (rt, layers) = (self.rt.clone(), self.layers.clone());
        Ok(Some(Piece { offset, len, content: Content::Data(Box::pin(read(rt, layers, parts, len))) }))
    }
}

/// Reads the bytes of a piece.
async fn read(rt: Rt, layers: Arc<Vec<Layer>>, parts: Vec<Part>, len: u64) -> Result<Bytes> {
    let runs = runs(&parts, &layers);
    let reads = runs.iter().map(|run| {
        let layer = &layers[run.layer];
        async move {
            let read = read_padded(&**layer.file(), run.offset, run.len, layer.unit()).await;
            read.map_err(|e| e.context(layer.file().name()))
        }
    });
    let bytes = try_join_all(reads).await?;
    if let [part] = parts[..]
        && matches!(part.extent, Extent::Data { .. })
    {
        return Ok(bytes[0].clone());
    }
    rt.cpu(move || assemble(&parts, &layers, &runs, &bytes, len as usize)).await?
}

/// Plans the reads for the parts, in order: runs that lie near each other become one. The bytes read in vain
/// between them are bounded by those that are needed.
fn runs(parts: &[Part], layers: &[Layer]) -> Vec<Run> {
    let wants = parts.iter().filter_map(|part| {
        let (offset, len) = part.needs()?;
        let layer = &layers[part.layer];
        // A compressed cluster's last sector may be cut off by the end of the file.
        let end = layer.file().size().next_multiple_of(layer.unit()).max(offset);
        Some(Run { layer: part.layer, offset, len: len.min(end - offset) })
    });
    let mut wants: Vec<Run> = wants.collect();
    wants.sort_by_key(|run| (run.layer, run.offset));
    let mut runs: Vec<Run> = Vec::new();
    for want in wants {
        match runs.last_mut() {
            Some(run) if run.layer == want.layer && want.offset <= run.offset + run.len + want.len / 4 => {
                run.len = run.len.max(want.offset + want.len - run.offset);
            }
            _ => runs.push(want),
        }
    }
    runs
}

fn assemble(parts: &[Part], layers: &[Layer], runs: &[Run], bytes: &[Bytes], len: usize) -> Result<Bytes> {
    let missing = || Error::new(Kind::Internal, "a part of an image was not read");
    let mut out = vec![0; len];
    // Parts of one cluster lie side by side.
    let mut last: Option<(usize, u64, Vec<u8>)> = None;
    for part in parts {
        let Some((offset, _)) = part.needs() else { continue };
        let holds = |run: &&(&Run, &Bytes)| {
            run.0.layer == part.layer && run.0.offset <= offset && offset <= run.0.offset + run.0.len
        };
        let all: Vec<_> = runs.iter().zip(bytes).collect();
        let (run, bytes) = *all.iter().find(holds).ok_or_else(missing)?;
        let from = &bytes[(offset - run.offset) as usize..];
        let into = &mut out[part.at as usize..][..part.len as usize];
        let Extent::Compressed { bytes: packed, within, .. } = part.extent else {
            into.copy_from_slice(from.get(..into.len()).ok_or_else(missing)?);
            continue;
        };
        if last.as_ref().is_none_or(|(layer, at, _)| (*layer, *at) != (part.layer, offset)) {
            let packed = &from[..from.len().min(packed as usize)];
            last = Some((part.layer, offset, unpacked(&layers[part.layer], packed)?));
        }
        let cluster = last.as_ref().map(|(.., cluster)| &cluster[within as usize..]).ok_or_else(missing)?;
        into.copy_from_slice(cluster.get(..into.len()).ok_or_else(missing)?);
    }
    Ok(out.into())
}

fn unpacked(layer: &Layer, packed: &[u8]) -> Result<Vec<u8>> {
    let (by, cluster) = match layer {
        Layer::Qcow2(image) => (image.header.compression, image.header.cluster()),
        Layer::Raw(_) => (ClusterCompression::Zlib, 0),
    };
    unpack(by, packed, cluster as usize).map_err(|e| e.context(layer.file().name()))
}
