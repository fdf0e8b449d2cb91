//! An image's way out: the map is walked, what has data is read, several portions at a time, and a sink gets the parts in
//! order. Memory is bounded by `IN_FLIGHT` portions, whatever the image's size and the sink's speed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::portion_plan::{Class, Cutter, Grid, PORTION, Portion};
use super::qcow2_writer::{CLUSTER, Compression};
use super::sum::{self, Input, Node, Tree};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// Number of portions that are read, summed and compressed at a time: 64 MiB.
const IN_FLIGHT: usize = 32;
/// Most bytes whose map is asked for at once.
const MAP_MAX: u64 = 2 << 30;
/// Most pieces of data that are read apart. A portion with more of them is read as one.
const READS_MAX: usize = 16;
/// Bytes of a block of zeros that becomes a hole inside of data.
const BLOCK: u64 = 4096;

/// The state that is exported. Some of it may be unchanged since another state.
#[async_trait]
pub trait Origin: Send + Sync {
    fn size(&self) -> u64;

    /// Returns the runs from `offset` on, in order, without reading their bytes. There is at least one; they
    /// may end before the range does if there is too much to tell.
    async fn runs(&self, offset: u64, len: u64) -> Result<Vec<(u64, Class)>>;

    /// Reads exactly `len` bytes.
    async fn read(&self, offset: u64, len: u32) -> Result<Bytes>;
}

/// A piece of the image as a sink gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub offset: u64,
    pub len: u64,
    pub class: Class,
    /// The bytes; empty but for `Class::Data`.
    pub data: Bytes,
    /// The data are the compressed form of one cluster.
    pub packed: bool,
}

#[async_trait]
pub trait Sink: Send {
    /// Takes the image's next part.
    async fn take(&mut self, part: Part) -> Result<()>;
    /// Ends the image after all parts were given: on return what was written is whole, and durable where it can be.
    async fn finish(&mut self) -> Result<()>;
}

/// A sink that keeps nothing, for an export that only sums the bytes.
#[derive(Debug)]
pub struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn take(&mut self, _: Part) -> Result<()> {
        Ok(())
    }
    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Options for what is done to the parts on their way to the sink.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Bytes of a unit. Classes change only between units.
    pub unit: u64,
    /// Zeros among the data become `Class::Zero` if they fill a block of this size. `None`: they stay data.
    pub zero_block: Option<u64>,
    /// Method by which clusters are compressed, if they are.
    pub compression: Option<Compression>,
    /// The bytes are summed.
    pub sum: bool,
}

impl Recipe {
    pub fn raw(sum: bool) -> Recipe {
        Recipe { unit: 1, zero_block: Some(BLOCK), compression: None, sum }
    }

    /// Returns the recipe for a qcow2 image. `laid_out`: the map decides where each cluster lies before any
    /// is read.
    pub fn qcow2(compression: Option<Compression>, laid_out: bool, sum: bool) -> Recipe {
        let zero_block = Some(CLUSTER).filter(|_| !laid_out);
        Recipe { unit: CLUSTER, zero_block, compression, sum }
    }

    /// Returns the recipe for an export that only sums the bytes.
    pub fn sum() -> Recipe {
        Recipe { unit: 1, zero_block: None, compression: None, sum: true }
    }
}

/// Result of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Number of bytes that were neither holes, zeros nor unchanged.
    pub data_bytes: u64,
    /// The blake3 sum of the image, if it was asked for.
    pub sum: Option<String>,
}

/// Hands all parts to the sink, in order, and tells how far it has come.
pub async fn export(
    rt: &Rt,
    origin: Arc<dyn Origin>,
    recipe: Recipe,
    sink: &mut dyn Sink,
    mut told: impl FnMut(u64),
) -> Result<Exported> {
    let portions = portions(origin.clone(), recipe.unit);
    let prepared = portions.map_ok(|portion| {
        // A task of its own: it goes on while the sink is written to.
        let task = rt.spawn(prepare(rt.clone(), origin.clone(), recipe, portion));
        async move { task.await? }
    });
    let mut prepared = std::pin::pin!(prepared.try_buffered(IN_FLIGHT));
    let (mut tree, mut data_bytes) = (Tree::default(), 0);
    while let Some(ready) = prepared.next().await {
        let ready = ready?;
        let end = ready.parts.last().map(|part| part.offset + part.len);
        for part in ready.parts {
            data_bytes += if part.class == Class::Data { part.len } else { 0 };
            sink.take(part).await?;
        }
        ready.nodes.into_iter().for_each(|node| tree.push(node));
        end.into_iter().for_each(&mut told);
    }
    sink.finish().await?;
    Ok(Exported { data_bytes, sum: recipe.sum.then(|| tree.finish()) })
}

/// Returns the portions of an image in order; its map is read a stretch at a time.
pub fn portions(origin: Arc<dyn Origin>, unit: u64) -> impl stream::Stream<Item = Result<Portion>> {
    let size = origin.size();
    let walk = Walk { origin, grid: Grid::new(unit), cutter: Cutter::new(size), size, at: 0 };
    stream::try_unfold(walk, async |mut walk: Walk| {
        let next = walk.next().await?;
        Ok(next.map(|portion| (portion, walk)))
    })
}

struct Walk {
    origin: Arc<dyn Origin>,
    grid: Grid,
    cutter: Cutter,
    size: u64,
    at: u64,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Portion>> {
        loop {
            if let Some(portion) = self.cutter.ready.pop_front() {
                return Ok(Some(portion));
            }
            if self.at == self.size {
                return Ok(None);
            }
            self.read_on().await?;
        }
    }

    async fn read_on(&mut self) -> Result<()> {
        let wanted = (self.size - self.at).min(MAP_MAX);
        let before = self.at;
        for (len, class) in self.origin.runs(self.at, wanted).await? {
            // The last one may reach further than what was asked for.
            let len = len.min(before + wanted - self.at);
            self.grid.push(len, class, |run| self.cutter.push(run));
            self.at += len;
        }
        if self.at == before {
            return Err(Error::new(
                Kind::Invalid,
                format!("the map ends at {before}, before the image does"),
            ));
        }
        if self.at == self.size {
            self.grid.finish().into_iter().for_each(|run| self.cutter.push(run));
        }
        Ok(())
    }
}

struct Prepared {
    parts: Vec<Part>,
    nodes: Vec<Node>,
}

async fn prepare(rt: Rt, origin: Arc<dyn Origin>, recipe: Recipe, portion: Portion) -> Result<Prepared> {
    let size = origin.size();
    let (offset, parts) = (portion.offset, load(&*origin, portion).await?);
    rt.cpu(move || {
        let nodes = if recipe.sum { sum_of(size, offset, &parts) } else { Vec::new() };
        let parts = parts.into_iter().flat_map(|part| recipe.refine(part)).collect();
        Ok(Prepared { parts, nodes })
    })
    .await?
}

async fn load(origin: &dyn Origin, portion: Portion) -> Result<Vec<Part>> {
    let data = || portion.runs.iter().filter(|run| run.class == Class::Data);
    let span = match (data().next(), data().next_back()) {
        (Some(first), Some(last)) if data().count() > READS_MAX => {
            let len = last.offset + last.len - first.offset;
            Some((first.offset, read(origin, first.offset, len).await?))
        }
        _ => None,
    };
    let mut parts = Vec::with_capacity(portion.runs.len());
    for run in portion.runs {
        let data = match (run.class, &span) {
            (Class::Data, Some((start, bytes))) => {
                let at = (run.offset - start) as usize;
                bytes.slice(at..at + run.len as usize)
            }
            (Class::Data, None) => read(origin, run.offset, run.len).await?,
            _ => Bytes::new(),
        };
        parts.push(Part { offset: run.offset, len: run.len, class: run.class, data, packed: false });
    }
    Ok(parts)
}

async fn read(origin: &dyn Origin, offset: u64, len: u64) -> Result<Bytes> {
    debug_assert!(len <= PORTION);
    let bytes = origin.read(offset, len as u32).await?;
    if bytes.len() as u64 != len {
        return Err(Error::new(
            Kind::Invalid,
            format!("a read at {offset} gave {} bytes of {len}", bytes.len()),
        ));
    }
    Ok(bytes)
}

fn sum_of(size: u64, offset: u64, parts: &[Part]) -> Vec<Node> {
    let inputs: Vec<Input<'_>> = parts
        .iter()
        .map(|part| match part.class {
            Class::Data => Input::Data(&part.data),
            Class::Zero | Class::Unchanged => Input::Zeros(part.len),
        })
        .collect();
    sum::nodes(size, offset, &inputs)
}

impl Recipe {
    /// Takes zeros out of the data, and compresses what is left.
    fn refine(self, part: Part) -> Vec<Part> {
        if part.class != Class::Data {
            return vec![part];
        }
        let split = match self.zero_block {
            Some(block) => without_zeros(part, block),
            None => vec![part],
        };
        let Some(compression) = self.compression else { return split };
        split.into_iter().flat_map(|part| packed(part, compression)).collect()
    }
}

fn without_zeros(part: Part, block: u64) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    let mut at = 0;
    while at < part.len {
        let n = (part.len - at).min(block - (part.offset + at) % block);
        let here = part.data.slice(at as usize..(at + n) as usize);
        let class = if is_zero(&here) { Class::Zero } else { Class::Data };
        match out.last_mut() {
            Some(last) if last.class == class => last.len += n,
            _ => out.push(Part { offset: part.offset + at, len: n, class, ..part.clone() }),
        }
        at += n;
    }
    for one in &mut out {
        let start = (one.offset - part.offset) as usize;
        one.data = match one.class {
            Class::Data => part.data.slice(start..start + one.len as usize),
            _ => Bytes::new(),
        };
    }
    out
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(512).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Compresses each cluster, or leaves it as it is where compression saves nothing.
fn packed(part: Part, compression: Compression) -> Vec<Part> {
    if part.class != Class::Data {
        return vec![part];
    }
    let mut out: Vec<Part> = Vec::new();
    for (at, cluster) in (0..part.len).step_by(CLUSTER as usize).zip(part.data.chunks(CLUSTER as usize)) {
        let len = cluster.len() as u64;
        // A reader unpacks whole clusters.
        let mut whole = BytesMut::from(cluster);
        whole.resize(CLUSTER as usize, 0);
        let one = match compression.pack(&whole) {
            Some(data) => Part { offset: part.offset + at, len, class: Class::Data, data, packed: true },
            None => {
                let data = part.data.slice(at as usize..(at + len) as usize);
                Part { offset: part.offset + at, len, data, ..part.clone() }
            }
        };
        out.push(one);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::portion_plan::Class::{Data, Unchanged, Zero};
    use super::*;
    use windlass_base::rt::RealRuntime;

    /// An image in memory with the map that was told of it.
    pub struct Memory {
        pub bytes: Bytes,
        pub runs: Vec<(u64, Class)>,
    }

    #[async_trait]
    impl Origin for Memory {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }
        async fn runs(&self, offset: u64, len: u64) -> Result<Vec<(u64, Class)>> {
            let (mut out, mut at) = (Vec::new(), 0);
            for (run, class) in &self.runs {
                let (from, to) = (at.max(offset), (at + run).min(offset + len));
                if from < to {
                    out.push((to - from, *class));
                }
                at += run;
            }
            // Never all that was asked for, and sometimes more.
            out.truncate(2);
            if let Some(last) = out.last_mut() {
                last.0 += 512;
            }
            let told: u64 = out.iter().map(|(len, _)| len).sum();
            assert!(told <= len + 512 && !out.is_empty());
            if told - 512 < len {
                out.last_mut().unwrap().0 -= 512;
            }
            Ok(out)
        }
        async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
            Ok(self.bytes.slice(offset as usize..offset as usize + len as usize))
        }
    }

    #[derive(Default)]
    struct Kept(Vec<Part>);

    #[async_trait]
    impl Sink for Kept {
        async fn take(&mut self, part: Part) -> Result<()> {
            self.0.push(part);
            Ok(())
        }
        async fn finish(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// Returns the bytes of `image` as the parts tell them; what is unchanged is `before`.
    fn rebuilt(parts: &[Part], before: u8) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            assert_eq!(part.offset, out.len() as u64);
            assert_eq!(part.data.len() as u64, if part.class == Data { part.len } else { 0 });
            match part.class {
                Data => out.extend_from_slice(&part.data),
                Zero => out.resize(out.len() + part.len as usize, 0),
                Unchanged => out.resize(out.len() + part.len as usize, before),
            }
        }
        out
    }

    fn image(runs: &[(u64, Class)]) -> Memory {
        let mut bytes = Vec::new();
        for (n, (len, class)) in runs.iter().enumerate() {
            let byte = match class {
                Data => n as u8 + 1,
                Zero => 0,
                Unchanged => 255,
            };
            bytes.resize(bytes.len() + *len as usize, byte);
        }
        Memory { bytes: bytes.into(), runs: runs.to_vec() }
    }

    #[tokio::test]
    async fn parts_come_in_order_with_all_bytes_and_their_sum() {
        let rt = Rt::new(RealRuntime::current());
        let mut runs =
            vec![(3 * PORTION + 512, Zero), (PORTION + 4096, Data), (1024, Zero), (7 * PORTION, Data)];
        runs.extend((0..40).flat_map(|_| [(8192, Data), (4096, Zero)]));
        runs.extend([(9 * PORTION, Zero), (512, Data)]);
        let memory = Arc::new(image(&runs));
        let wanted = memory.bytes.clone();
        for recipe in [Recipe::raw(true), Recipe::qcow2(None, false, true), Recipe::sum()] {
            let (mut kept, mut far) = (Kept::default(), 0);
            let done = export(&rt, memory.clone(), recipe, &mut kept, |at| far = at).await.unwrap();
            assert_eq!(far, wanted.len() as u64);
            assert!(rebuilt(&kept.0, 0) == wanted, "{recipe:?}");
            assert_eq!(done.sum.unwrap(), blake3::hash(&wanted).to_hex().as_str());
        }
    }

    #[tokio::test]
    async fn zeros_inside_data_become_holes() {
        let rt = Rt::new(RealRuntime::current());
        let mut memory = image(&[(4 * PORTION, Data)]);
        let mut bytes = memory.bytes.to_vec();
        bytes[5000..5000 + 3 * 4096].fill(0);
        bytes[PORTION as usize..2 * PORTION as usize].fill(0);
        memory.bytes = bytes.clone().into();
        let mut kept = Kept::default();
        let memory = Arc::new(memory);
        let done = export(&rt, memory, Recipe::raw(false), &mut kept, |_| {}).await.unwrap();
        assert!(done.sum.is_none() && rebuilt(&kept.0, 0) == bytes);
        assert_eq!(done.data_bytes, 3 * PORTION - 2 * 4096);
        let holes: Vec<_> = kept.0.iter().filter(|p| p.class == Zero).map(|p| (p.offset, p.len)).collect();
        assert_eq!(holes, [(8192, 2 * 4096), (PORTION, PORTION)]);
    }

    #[tokio::test]
    async fn an_increment_is_filled_up_to_clusters_and_leaves_out_what_is_unchanged() {
        let rt = Rt::new(RealRuntime::current());
        let cluster = CLUSTER;
        let runs =
            [(cluster, Unchanged), (512, Data), (5 * cluster, Unchanged), (3 * cluster, Zero), (512, Zero)];
        let memory = Arc::new(image(&runs));
        let wanted = memory.bytes.clone();
        let mut kept = Kept::default();
        export(&rt, memory, Recipe::qcow2(None, false, false), &mut kept, |_| {}).await.unwrap();
        assert!(rebuilt(&kept.0, 255) == wanted);
        let seen: Vec<_> = kept.0.iter().map(|p| (p.offset / cluster, p.class)).collect();
        assert_eq!(seen, [(0, Unchanged), (1, Data), (2, Unchanged), (6, Data), (7, Zero)]);
    }

    #[tokio::test]
    async fn a_map_that_ends_early_is_an_error() {
        struct Silent;
        #[async_trait]
        impl Origin for Silent {
            fn size(&self) -> u64 {
                4096
            }
            async fn runs(&self, _: u64, _: u64) -> Result<Vec<(u64, Class)>> {
                Ok(Vec::new())
            }
            async fn read(&self, _: u64, _: u32) -> Result<Bytes> {
                Ok(Bytes::new())
            }
        }
        let rt = Rt::new(RealRuntime::current());
        let error = export(&rt, Arc::new(Silent), Recipe::sum(), &mut Nowhere, |_| {}).await.unwrap_err();
        assert!(error.is(Kind::Invalid), "{error}");
    }
}
