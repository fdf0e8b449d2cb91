//! The order in which `volume list` shows volumes: a clone stands below the volume that it was made from.

use std::collections::{BTreeMap, BTreeSet};

use crate::daemon::answers::VolumeLine;
use windlass_base::VolumeId;

fn id_of(line: &VolumeLine) -> Option<VolumeId> {
    match line {
        VolumeLine::Known(volume) => Some(volume.info.id),
        VolumeLine::Unknown { .. } => None,
    }
}

fn parent_of(line: &VolumeLine) -> Option<VolumeId> {
    match line {
        VolumeLine::Known(volume) => volume.info.parent.as_ref().map(|parent| parent.volume),
        VolumeLine::Unknown { .. } => None,
    }
}

/// Returns each volume with its depth in the tree. Volumes with the same parent keep the order in which they
/// came; one whose parent is not among them stands at depth 0.
pub fn in_order(lines: Vec<VolumeLine>) -> Vec<(usize, VolumeLine)> {
    let listed: BTreeSet<VolumeId> = lines.iter().filter_map(id_of).collect();
    let mut children: BTreeMap<Option<VolumeId>, Vec<VolumeLine>> = BTreeMap::new();
    for line in lines {
        let parent = parent_of(&line).filter(|parent| listed.contains(parent));
        children.entry(parent).or_default().push(line);
    }
    let (mut ordered, mut to_show) = (Vec::new(), Vec::new());
    let mut take = |parent: Option<VolumeId>, depth: usize, to_show: &mut Vec<(usize, VolumeLine)>| {
        let below = children.remove(&parent).unwrap_or_default();
        to_show.extend(below.into_iter().rev().map(|line| (depth, line)));
    };
    take(None, 0, &mut to_show);
    while let Some((depth, line)) = to_show.pop() {
        if let Some(id) = id_of(&line) {
            take(Some(id), depth + 1, &mut to_show);
        }
        ordered.push((depth, line));
    }
    ordered
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::daemon::answers::VolumeAnswer;
    use windlass_base::{Error, Kind};

    /// A volume of pool p, and the id of its parent.
    pub fn line(name: &str, id: u128, parent: Option<u128>) -> VolumeLine {
        let hex = |id: u128| VolumeId(id).to_string();
        let parent = parent.map(
            |of| serde_json::json!({"volume": hex(of), "name": null, "snapshot": "s", "mapped_bytes": 0}),
        );
        let text = serde_json::json!({
            "path": format!("p/{name}"), "state": "released", "clients": 0, "writers": [], "origin": null,
            "name": name, "id": hex(id), "size": 512, "created_ms": 0, "flush": "local", "meaning": "",
            "compression": "lz4", "recompress_after_ms": null, "max_tail_ms": 0, "journal_size": 0,
            "owner": null, "owner_id": null,
            "owner_since_ms": 0, "released": true, "open_here": false, "degraded": false, "trouble": null,
            "trouble_ms": null, "mapped_bytes": 0, "stored_bytes": 0, "live_bytes": null, "logged_bytes": 0,
            "map_bytes": 0, "packed_bytes": 0, "retired_objects": 0, "unsent_bytes": 0, "unsent_age_ms": 0,
            "journal_bytes": 0, "room_bytes": null, "full_in_ms": null,
            "reads": {"memory": 0, "disk": 0, "stores": 0}, "kept_journals": [], "snapshots": 0,
            "clones": null, "parent": parent, "error_after_ms": null, "quota_bytes": null, "template": false,
            "boot_trace": {"state": "off"},
            "limits": {}, "stored_with_parity_bytes": 0, "shared_bytes": null, "exclusive_bytes": null,
            "history": "none", "history_marks": 0, "chain": [],
        });
        let answer: Result<VolumeAnswer, Error> =
            serde_json::from_value(text).map_err(|e| Error::new(Kind::Internal, e.to_string()));
        VolumeLine::Known(Box::new(answer.unwrap()))
    }

    fn shown(lines: Vec<VolumeLine>) -> Vec<(usize, String)> {
        let path = |line: &VolumeLine| match line {
            VolumeLine::Known(v) => v.path.to_string(),
            VolumeLine::Unknown { path, .. } => path.to_string(),
        };
        in_order(lines).iter().map(|(depth, line)| (*depth, path(line))).collect()
    }

    #[test]
    fn a_clone_stands_below_its_parent() {
        let unknown = VolumeLine::Unknown { path: "p/lost".parse().unwrap(), state: "unknown".into() };
        let lines = vec![
            line("a", 3, Some(2)),
            line("b", 4, Some(1)),
            unknown,
            line("m", 2, Some(1)),
            line("orphan", 9, Some(77)),
            line("z", 1, None),
        ];
        let expected = [(0, "p/lost"), (0, "p/orphan"), (0, "p/z"), (1, "p/b"), (1, "p/m"), (2, "p/a")];
        let expected: Vec<_> = expected.iter().map(|(depth, path)| (*depth, (*path).to_owned())).collect();
        assert_eq!(shown(lines), expected);
    }

    #[test]
    fn a_long_chain_of_clones_is_shown_whole() {
        let chain = (1..2000u128).map(|id| line(&format!("v{id}"), id, (id > 1).then(|| id - 1))).collect();
        assert_eq!(shown(chain).last(), Some(&(1998, "p/v1999".to_owned())));
    }
}
