//! Images that are made here: what tests and fuzzing begin with.

pub const COPIED: u64 = 1 << 63;
pub const COMPRESSED: u64 = 1 << 62;

/// A recipe for an image: tables first, then clusters in order of the disk.
pub struct Maker {
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub extended: bool,
    pub zstd: bool,
    pub reference_order: u32,
}

impl Default for Maker {
    fn default() -> Maker {
        Maker {
            version: 3,
            cluster_bits: 9,
            size: 40 * 512,
            extended: false,
            zstd: false,
            reference_order: 4,
        }
    }
}

pub const L1_AT: u64 = 3;
pub const L2_AT: u64 = 4;

impl Maker {
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Makes an image whose L2 table has `entries` entries. For each, `entry` gets its index and the offset
    /// of a free cluster. It returns the entry's two words, and the bytes that fill the cluster.
    pub fn make(&self, entries: u64, entry: impl Fn(u64, u64) -> (u64, u64, Vec<u8>)) -> Vec<u8> {
        let cluster = self.cluster();
        let mut image = vec![0; (L2_AT + 1) as usize * cluster as usize];
        let mut next = L2_AT + 1;
        for index in 0..entries {
            let (low, high, data) = entry(index, next * cluster);
            let width = if self.extended { 16 } else { 8 };
            put(&mut image, L2_AT * cluster + index * width, &low.to_be_bytes());
            if self.extended {
                put(&mut image, L2_AT * cluster + index * width + 8, &high.to_be_bytes());
            }
            if !data.is_empty() {
                image.extend_from_slice(&data);
                image.resize(image.len().next_multiple_of(cluster as usize), 0);
                next = image.len() as u64 / cluster;
            }
        }
        self.put_header(&mut image);
        put(&mut image, L1_AT * cluster, &(COPIED | (L2_AT * cluster)).to_be_bytes());
        put(&mut image, cluster, &(2 * cluster).to_be_bytes());
        let bits = 1 << self.reference_order;
        for at in 0..next {
            match bits {
                1..8 => image[(2 * cluster + at * bits / 8) as usize] |= 1 << (at * bits % 8),
                _ => image[(2 * cluster + (at + 1) * bits / 8 - 1) as usize] = 1,
            }
        }
        image
    }

    pub fn put_header(&self, image: &mut [u8]) {
        let cluster = self.cluster();
        put(image, 0, b"QFI\xfb");
        put(image, 4, &self.version.to_be_bytes());
        put(image, 20, &self.cluster_bits.to_be_bytes());
        put(image, 24, &self.size.to_be_bytes());
        put(image, 36, &1u32.to_be_bytes());
        put(image, 40, &(L1_AT * cluster).to_be_bytes());
        put(image, 48, &cluster.to_be_bytes());
        put(image, 56, &1u32.to_be_bytes());
        if self.version == 3 {
            let features = u64::from(self.extended) << 4 | u64::from(self.zstd) << 3;
            put(image, 72, &features.to_be_bytes());
            put(image, 96, &self.reference_order.to_be_bytes());
            put(image, 100, &112u32.to_be_bytes());
            image[104] = u8::from(self.zstd);
        }
    }

    /// Makes an image in which every second cluster has data.
    pub fn plain(&self) -> Vec<u8> {
        let cluster = self.cluster();
        let data = |index: u64| vec![index as u8 + 1; cluster as usize];
        self.make(self.size / cluster, |index, at| match index % 4 {
            0 | 2 => (COPIED | at, u64::from(u32::MAX), data(index)),
            1 if self.version == 3 && !self.extended => (1, 0, vec![]),
            _ => (0, 0, vec![]),
        })
    }

    pub fn compressed(&self) -> Vec<u8> {
        let cluster = self.cluster() as usize;
        let shift = 62 - (self.cluster_bits - 8);
        self.make(self.size / self.cluster(), |index, at| {
            let packed = packed(self.zstd, &vec![index as u8 + 1; cluster]);
            let sectors = (packed.len() as u64).div_ceil(512) - 1;
            (COMPRESSED | sectors << shift | at, 0, packed)
        })
    }
}

pub fn packed(zstd: bool, data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    if zstd {
        return zstd::bulk::compress(data, 1).expect("into memory");
    }
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(data).expect("into memory");
    deflate.finish().expect("into memory")
}

pub fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
    image[at as usize..][..bytes.len()].copy_from_slice(bytes);
}

pub fn some_images() -> Vec<Vec<u8>> {
    let small = || Maker { size: 10 * 512, ..Maker::default() };
    vec![
        small().plain(),
        small().compressed(),
        Maker { version: 2, ..small() }.plain(),
        Maker { reference_order: 0, ..small() }.plain(),
        Maker { zstd: true, size: 4 * 512, ..small() }.compressed(),
    ]
}
