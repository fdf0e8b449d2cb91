//! The house kept tidy: layer arrows, rooms, rings, sizes, old words, unfinished work. Every rule has tests of its own beside it.

mod code;
mod knots;
mod layers;
mod rooms;
mod sizes;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use layers::File;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads every `.rs` file below a folder of the repository.
fn sources(folder: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path: PathBuf = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8 source");
                let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no sources below {folder}");
    files
}

fn nothing_wrong(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Reads the files of the program and of its layers.
fn product() -> Vec<File> {
    let mut files = sources("crates");
    files.retain(|file| {
        !["crates/galois/", "crates/fuzz/"].iter().any(|helper| file.path.starts_with(helper))
    });
    files.extend(sources("src"));
    files
}

#[test]
fn layers_use_only_layers_below() {
    nothing_wrong(&layers::arrows(&product(), layers::HOUSE));
}

#[test]
fn rooms_use_only_rooms_below() {
    nothing_wrong(&rooms::judge(&product(), rooms::ROOMS));
}

#[test]
fn hidden_arrows_only_get_fewer() {
    nothing_wrong(&knots::judge(&product()));
}

#[test]
fn no_files_of_a_layer_form_a_ring() {
    nothing_wrong(&layers::rings(&product()));
}

#[test]
fn files_and_functions_are_small_documented_and_finished() {
    let found: Vec<_> = ["src", "crates", "mount-helper", "tests", "benches", "integrations/csi/src"]
        .iter()
        .flat_map(|f| sources(f))
        .flat_map(|f| sizes::judge(&f))
        .collect();
    nothing_wrong(&found);
}

#[test]
fn layers_show_no_two_types_of_one_name() {
    nothing_wrong(&words::doubles(&product()));
}

#[test]
fn old_words_do_not_come_back() {
    let found: Vec<_> = product().iter().flat_map(words::judge).collect();
    nothing_wrong(&found);
}
