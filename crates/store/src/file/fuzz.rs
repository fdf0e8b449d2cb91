//! Names on disk, and the keys that they stand for.

use super::key::{DISPLACED, HIDDEN, KeyPath, Named, folder_of, is_canonical, read_name};
use windlass_fuzz::{text, texts};

pub fn some_names() -> Vec<Vec<u8>> {
    let long = format!("{}/é{}", "a".repeat(300), "%".repeat(200));
    texts(&["a//b/", "./..", ".%d/.%dd", ".%=%25x", ".%+%00", "a\0b", ".%", &long])
}

/// Checks that a key has a path below the root that no other key has, and that each of its names is read again.
pub fn names(data: &[u8]) {
    text(data, |text| {
        for name in text.split('/') {
            if let Some(Named::Component(component)) = read_name(name) {
                let _ = is_canonical(&component, &[name.to_owned()]);
            }
        }
        let _ = folder_of(text);
        let Ok(path) = KeyPath::of(text) else { return };
        assert_eq!(path.key(), text);
        let mut component = String::new();
        let mut components = Vec::new();
        for name in path.path().split('/') {
            assert!(
                !matches!(name, "" | "." | ".." | DISPLACED | HIDDEN),
                "{name:?} in the path of {text:?}"
            );
            assert!(name.len() <= 255 && !name.contains('\0'), "{name:?} in the path of {text:?}");
            match read_name(name) {
                Some(Named::Start(start)) => component.push_str(&start),
                Some(Named::Component(end)) => {
                    components.push(std::mem::take(&mut component) + &end);
                }
                None => panic!("{name:?} in the path of {text:?} stands for nothing"),
            }
        }
        assert_eq!(components.join("/"), text);
    });
}
