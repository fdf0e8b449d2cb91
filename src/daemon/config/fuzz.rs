//! windlass.toml.

use super::Config;
use super::reference::example;
use windlass_fuzz::{text, texts};

pub fn some_files() -> Vec<Vec<u8>> {
    let all: String = example()
        .lines()
        .filter_map(|line| line.strip_prefix("# ").or(Some(line)))
        .collect::<Vec<_>>()
        .join("\n");
    texts(&[
        &all,
        "memory = '1G'\nnbd = ['127.0.0.1:1']\n[store.a]\nurl = 's3://b'\nzone = 'z'\n[pool.tank]\nstores = ['a']\n",
        "[[allow]]\nuser = 'u'\nexports = ['tank/*']\nwrite = true\n[tls]\ncertificate = '/c'\nkey = '/k'\n",
        "[mount.'/a']\nurl = 's3://b'\noptions = ['ro', 'uid=5']\n[volume.'tank/v']\nkey_file = '/k'\n",
        "[replica.'tank/v']\nto = 'other/v'\nevery = '1h'\n[log]\nlevel = 'info'\n",
    ])
}

/// Parses any bytes as a file, and asserts that each fault is told by a line that is there.
pub fn file(data: &[u8]) {
    text(data, |text| {
        if let Err(wrong) = Config::parse(text) {
            assert!(!wrong.is_empty());
            let lines = text.lines().count() + 1;
            assert!(wrong.iter().all(|wrong| wrong.line <= lines), "{wrong:?}");
        }
    });
}
