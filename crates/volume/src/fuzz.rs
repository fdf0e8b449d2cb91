//! What a volume is told by its register and by its tables, and what it is asked to become.

use super::head::{Head, Trace, VolumeSettings};
use super::mirror::fuzz as mirror;
use super::space::fuzz as space;
use windlass_base::{Epoch, Incarnation, Kind, Seq, VolumeId};
use windlass_fuzz::{Target, text, texts};

pub const TARGETS: &[Target] = &[
    Target { name: "head", run: head, seeds: some_heads, memory: 256 << 10 },
    Target { name: "boot_trace", run: boot_trace, seeds: some_traces, memory: 256 << 10 },
    Target { name: "volume_settings", run: settings, seeds: some_settings, memory: 64 << 10 },
    Target { name: "state_table", run: space::tables, seeds: space::some_tables, memory: 256 << 10 },
    Target { name: "chunk_table_page", run: space::slab, seeds: space::some_slabs, memory: 64 << 10 },
    Target { name: "mirror_message", run: mirror::message, seeds: mirror::some_messages, memory: 128 << 10 },
    Target { name: "dead_lists", run: space::dead, seeds: space::some_dead, memory: 64 << 10 },
];

fn some_heads() -> Vec<Vec<u8>> {
    let plain = Head::new(VolumeId(1), 5, 1 << 30, VolumeSettings::default(), 2, vec![Incarnation(3)]);
    let owned = r#"{"format":1,"volume":"00000000000000000000000000000001","created_ms":5,"size":1073741824,"settings":{},"active":{"epoch":2,"w":2,"since_ms":7,"released":false},"ends":[{"epoch":1,"last":4}],"checkpoint":{"position":3,"top":3,"last_lsn":9,"nonce":"00000000000000000000000000000005"},"claim":{"epoch":2,"nonce":"00000000000000000000000000000006","host":{"id":"00000000000000000000000000000002","name":"h"},"since_ms":7,"withdrawn":false},"witnesses":[]}"#;
    vec![plain.encode().expect("a small head").into(), owned.into()]
}

/// What a host works out of a head before it does anything.
fn head(data: &[u8]) {
    let head = match Head::decode(data) {
        Ok(head) => head,
        Err(e) => return assert!(e.is(Kind::Invalid) || e.is(Kind::Unsupported), "{e}"),
    };
    if let Ok(bytes) = head.encode() {
        assert_eq!(Head::decode(&bytes).ok().as_ref(), Some(&head));
    }
    assert_eq!(usize::from(head.own_index()) + 1, head.volumes().len());
    let _ = (head.standing(), head.epoch_of(Seq(3)), head.active_starts_after());
    // What a claim, a mark and a checkpoint count on from.
    let claimed = head.claim.as_ref().map_or(Epoch(0), |claim| claim.epoch);
    assert!(claimed.after(windlass_base::Nonce(0)) > head.active.epoch);
    assert!(head.active_starts_after().next() > head.checkpoint.position);
    assert!(head.checkpoint.last_lsn.next() > head.checkpoint.last_lsn);
    let _ = head.settings.assignments();
}

fn some_traces() -> Vec<Vec<u8>> {
    let trace = String::from(Trace::of(&[5..7, 0..1, 900..1900]));
    texts(&[&trace, ""])
}

/// In base64, as it stands in a head.
fn boot_trace(data: &[u8]) {
    text(data, |text| {
        let Ok(trace) = Trace::try_from(text.to_owned()) else { return };
        let ranges = trace.ranges();
        assert!(ranges.iter().all(|range| range.start < range.end));
        let _ = trace.is_empty();
        assert_eq!(Trace::try_from(String::from(trace.clone())).ok(), Some(trace));
    });
}

fn some_settings() -> Vec<Vec<u8>> {
    let all = VolumeSettings::default().assignments().join("\n");
    texts(&[
        &all,
        "read-iops=100:200\nwrite-bps=1M",
        "snapshots=hourly:24,daily:7",
        "on-outage=error:5s\nmax-tail=3s",
    ])
}

/// Assignments, a line each.
fn settings(data: &[u8]) {
    text(data, |text| {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let Ok(settings) = VolumeSettings::default().assigned(&lines) else { return };
        let again = VolumeSettings::default().assigned(&settings.assignments());
        assert_eq!(again.ok().as_ref(), Some(&settings));
        let _ = (settings.check(), settings.meaning(), settings.show_limits());
    });
}

#[test]
fn parsers_take_their_corpora_and_what_is_near_them() {
    windlass_fuzz::try_all(TARGETS);
}
