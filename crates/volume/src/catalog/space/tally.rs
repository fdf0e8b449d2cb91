//! What all volumes of a pool take, as this host counted it last, and what it has done since then.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::head::VolumeInfo;
use windlass_base::{Name, VolumeId};

/// Space that one volume takes, without parity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    pub size: u64,
    pub mapped_bytes: u64,
    pub stored_bytes: u64,
    pub in_trash: bool,
}

/// Space that all volumes take together, without parity. Those in the trash count in `stored_bytes` too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumesUsage {
    /// Time when the volumes were walked, in milliseconds since 1970.
    pub counted_ms: u64,
    pub volumes: u64,
    pub provisioned_bytes: u64,
    pub mapped_bytes: u64,
    pub stored_bytes: u64,
    pub trash_volumes: u64,
    pub trash_stored_bytes: u64,
}

#[derive(Debug)]
struct Counted {
    at_ms: u64,
    parts: BTreeMap<VolumeId, Part>,
}

/// Counters of what each volume takes, empty before the first walk.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Option<Counted>>);

impl Tally {
    /// Notes that the volumes were walked at that time, and what each of them took.
    pub fn counted(&self, at_ms: u64, parts: BTreeMap<VolumeId, Part>) {
        *self.0.lock() = Some(Counted { at_ms, parts });
    }

    /// Returns the sum; `None` before the first walk. `here`: what a volume takes now, where that is known.
    pub fn sum(&self, here: impl Fn(VolumeId) -> Option<Part>) -> Option<VolumesUsage> {
        let counted = self.0.lock();
        let counted = counted.as_ref()?;
        let mut usage = VolumesUsage { counted_ms: counted.at_ms, ..VolumesUsage::default() };
        for (id, part) in &counted.parts {
            let part = here(*id).map_or(*part, |here| Part { in_trash: part.in_trash, ..here });
            usage.stored_bytes += part.stored_bytes;
            match part.in_trash {
                true => {
                    usage.trash_volumes += 1;
                    usage.trash_stored_bytes += part.stored_bytes;
                }
                false => {
                    usage.volumes += 1;
                    usage.provisioned_bytes += part.size;
                    usage.mapped_bytes += part.mapped_bytes;
                }
            }
        }
        Some(usage)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<VolumeId, Part>)) {
        if let Some(counted) = &mut *self.0.lock() {
            change(&mut counted.parts);
        }
    }

    /// Notes that a volume was made here.
    pub fn made(&self, info: &VolumeInfo) {
        let VolumeInfo { id, size, mapped_bytes, stored_bytes, .. } = *info;
        let part = Part { size, mapped_bytes, stored_bytes, in_trash: false };
        self.change(|parts| {
            parts.insert(id, part);
        });
    }

    /// Notes that a volume was removed here for good.
    pub fn gone(&self, id: VolumeId) {
        self.change(|parts| {
            parts.remove(&id);
        });
    }

    /// Notes that a volume was given this name here, which may be one in the trash.
    pub fn named(&self, id: VolumeId, name: &Name) {
        self.change(|parts| {
            parts.entry(id).and_modify(|part| part.in_trash = name.trashed().is_some());
        });
    }
}
