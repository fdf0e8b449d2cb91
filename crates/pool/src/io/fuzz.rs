//! Nodes of catalogs, which are values of registers.

use bytes::Bytes;

use super::register_tree::{CatalogEntry, Entries, Form, decode, encode};

pub fn some_nodes() -> Vec<Vec<u8>> {
    let entry = |n: u8| (vec![n; 3], CatalogEntry { value: n.into(), serial: 1 });
    let entries: Entries = (1..4).map(entry).collect();
    let all =
        [Form::Leaf(entries.clone()), Form::Splitting(entries), Form::Split, Form::Leaf(Entries::new())];
    all.iter().map(|form| encode(form, 2).to_vec()).collect()
}

/// Checks that a value which is a node is written from that node just so.
pub fn node(data: &[u8]) {
    let value = Bytes::copy_from_slice(data);
    if let Ok(node) = decode(&value) {
        assert_eq!(encode(&node.form, node.stamp), value);
        let _ = node.hides_some(1);
    }
}
