//! Keys as paths, and back: every key has a path of its own, and plain keys are plain paths.
//!
//! A key is cut at its slashes into components, and a component is a file or folder name as it stands, unless it
//! can't be one. Names of ours begin with `.%`:
//!
//! | on disk | stands for |
//! |---|---|
//! | `.%` | the empty component (`a//b`, and the object behind `a/`) |
//! | `.%d`, `.%dd` | `.` and `..` |
//! | `.%=TEXT` | a component that itself begins with `.%`, or holds a zero byte; in TEXT `%` is `%25`, zero is `%00` |
//! | `.%+TEXT` | a folder: the first bytes of a component that is longer than 255 bytes; what follows goes on inside |
//! | `.%f/NAME` | the object NAME of this folder while a folder has its name (`a` beside `a/b`) |
//! | `.%windlass` | in the root only: locks, temporary files, parts of uploads |
//!
//! Every other name beginning with `.%` stands for nothing and is not shown.

use windlass_base::{Error, Kind, Result};

/// Longest file name that filesystems take, in bytes.
const NAME_MAX: usize = 255;
/// Longest key that S3 takes; so no path of ours comes near the system's 4096.
const KEY_MAX: usize = 1024;
const MARK: &str = ".%";
/// The folder for objects whose name a folder has.
pub(super) const DISPLACED: &str = ".%f";
/// The folder for what is not an object.
pub(super) const HIDDEN: &str = ".%windlass";

/// One name on disk of a key's path.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Element {
    disk: String,
    /// Length of the part of the key that this and the names before it stand for; `None` inside a long component.
    key_end: Option<usize>,
}

/// The place below the root where a key's object lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyPath {
    key: String,
    folders: Vec<Element>,
    name: String,
}

fn coded(text: &str) -> String {
    text.replace('%', "%25").replace('\0', "%00")
}

fn uncoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (c, rest) = match part.get(..2)? {
            "25" => ('%', &part[2..]),
            "00" => ('\0', &part[2..]),
            _ => return None,
        };
        out.push(c);
        out.push_str(rest);
    }
    Some(out)
}

fn escaped(component: &str) -> String {
    match component {
        "" => MARK.into(),
        "." => ".%d".into(),
        ".." => ".%dd".into(),
        c if c.starts_with(MARK) || c.contains('\0') => format!(".%={}", coded(c)),
        c => c.into(),
    }
}

/// Returns the names of one component: several when it is long.
fn names_of(component: &str) -> Vec<String> {
    let mut names = Vec::with_capacity(1);
    let mut rest = component;
    loop {
        let name = escaped(rest);
        if name.len() <= NAME_MAX {
            names.push(name);
            return names;
        }
        let (mut piece, mut end) = (String::from(".%+"), 0);
        for (at, c) in rest.char_indices() {
            let mut buf = [0; 4];
            let code = coded(c.encode_utf8(&mut buf));
            if piece.len() + code.len() > NAME_MAX {
                break;
            }
            piece.push_str(&code);
            end = at + c.len_utf8();
        }
        names.push(piece);
        rest = &rest[end..];
    }
}

/// The meaning of a name on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Component(String),
    /// The component goes on inside this folder.
    Start(String),
}

/// Reads a name on disk. `None` for names that no key has.
pub(super) fn read_name(disk: &str) -> Option<Named> {
    let Some(tail) = disk.strip_prefix(MARK) else { return Some(Named::Component(disk.to_owned())) };
    if let Some(text) = tail.strip_prefix('+') {
        return uncoded(text).map(Named::Start);
    }
    let text = match tail {
        "" => String::new(),
        "d" => ".".into(),
        "dd" => "..".into(),
        _ => uncoded(tail.strip_prefix('=')?)?,
    };
    Some(Named::Component(text))
}

/// Tells whether a component that was put together from these names is really kept under them.
pub(super) fn is_canonical(component: &str, names: &[String]) -> bool {
    names_of(component) == names
}

fn elements(key: &str) -> Vec<Element> {
    let mut out = Vec::new();
    let mut end = 0;
    for component in key.split('/') {
        end += component.len();
        let names = names_of(component);
        let last = names.len() - 1;
        out.extend(
            names
                .into_iter()
                .enumerate()
                .map(|(at, disk)| Element { disk, key_end: (at == last).then_some(end) }),
        );
        end += 1;
    }
    out
}

fn joined<'a>(names: impl Iterator<Item = &'a Element>) -> String {
    let mut path = String::new();
    for name in names {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name.disk);
    }
    if path.is_empty() { ".".into() } else { path }
}

impl KeyPath {
    pub fn of(key: &str) -> Result<KeyPath> {
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("an object's key must have 1 to {KEY_MAX} bytes; this one has {}", key.len()),
            ));
        }
        let mut folders = elements(key);
        let name = folders.pop().expect("split gives at least one component").disk;
        Ok(KeyPath { key: key.to_owned(), folders, name })
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the folder that holds the object, relative to the root.
    pub fn folder(&self) -> String {
        joined(self.folders.iter())
    }

    /// Returns the object's name in that folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the object's path relative to the root.
    pub fn path(&self) -> String {
        self.below_folder(&self.name)
    }

    /// Returns the object's path while a folder has its name.
    pub fn displaced(&self) -> String {
        self.below_folder(&format!("{DISPLACED}/{}", self.name))
    }

    fn below_folder(&self, name: &str) -> String {
        if self.folders.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder()) }
    }

    /// Returns each folder on the way, outermost first: its path, and the key of an object that would have that path.
    pub fn folders(&self) -> impl Iterator<Item = (String, Option<&str>)> {
        let key_at = |at: usize| self.folders[at].key_end.map(|end| &self.key[..end]);
        (0..self.folders.len()).map(move |at| (joined(self.folders[..=at].iter()), key_at(at)))
    }
}

/// Returns the folder whose keys begin with `prefix`, a text that is empty or ends in a slash.
pub(super) fn folder_of(prefix: &str) -> String {
    match prefix.strip_suffix('/') {
        Some(inner) => joined(elements(inner).iter()),
        None => ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a whole path back into a key.
    fn key_of(path: &str) -> Option<String> {
        let (mut key, mut component, mut names) = (String::new(), String::new(), Vec::new());
        for disk in path.split('/') {
            names.push(disk.to_owned());
            match read_name(disk)? {
                Named::Start(text) => component.push_str(&text),
                Named::Component(text) => {
                    component.push_str(&text);
                    assert!(is_canonical(&component, &names));
                    key.push_str(&component);
                    key.push('/');
                    component.clear();
                    names.clear();
                }
            }
        }
        key.pop().map(|_| key)
    }

    #[test]
    fn plain_keys_are_plain_paths() {
        for key in ["a", "a/b.txt", "ü/%41/ x", ".hidden/~", &"n".repeat(255), "..a/.../-"] {
            assert_eq!(KeyPath::of(key).unwrap().path(), key);
        }
    }

    #[test]
    fn reserved_parts_have_fixed_forms() {
        for (key, path) in [
            ("/", ".%/.%"),
            ("a//b", "a/.%/b"),
            ("a/", "a/.%"),
            ("./../x", ".%d/.%dd/x"),
            (".%f", ".%=.%25f"),
            (".%windlass/x", ".%=.%25windlass/x"),
            ("a\0b", ".%=a%00b"),
        ] {
            assert_eq!(KeyPath::of(key).unwrap().path(), path);
        }
        let long = KeyPath::of(&format!("{}/x", "é".repeat(300))).unwrap();
        let want = format!(".%+{}/.%+{}/{}/x", "é".repeat(126), "é".repeat(126), "é".repeat(48));
        assert_eq!(long.path(), want);
        let keys: Vec<_> = long.folders().map(|(_, key)| key.map(str::len)).collect();
        assert_eq!(keys, [None, None, Some(600)]);
    }

    #[test]
    fn names_of_nobody_are_told() {
        for bad in [DISPLACED, HIDDEN, ".%x", ".%=a%41", ".%=%2", ".%+%zz"] {
            assert_eq!(read_name(bad), None, "{bad}");
        }
        assert!(!is_canonical("abc", &[".%+a".into(), "bc".into()]));
        assert!(!is_canonical("abc", &[".%=abc".into()]));
        assert!(KeyPath::of("").is_err() && KeyPath::of(&"x".repeat(1025)).is_err());
    }

    fn keys() -> impl Strategy<Value = String> {
        let odd = prop_oneof!["[./%+=df\0é]{1,40}", "[a%.]{250,262}(/[a%.]{0,3})?", "\0{80,100}", ".{1,30}"];
        prop_oneof![odd, Just("/".repeat(1024)), Just("./".repeat(512)), Just(".%".repeat(512))]
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in keys(), other in keys()) {
            let path = KeyPath::of(&key).unwrap();
            prop_assert_eq!(key_of(&path.path()), Some(key.clone()));
            prop_assert!(path.path().len() < 4000);
            for name in path.path().split('/') {
                prop_assert!(!name.is_empty() && name.len() <= NAME_MAX && name != "." && name != "..");
                prop_assert!(!name.contains('\0') && name != HIDDEN && name != DISPLACED);
            }
            if other != key {
                prop_assert_ne!(KeyPath::of(&other).unwrap().path(), path.path());
            }
        }

        #[test]
        fn no_name_breaks_the_reader(name in "(\\.%)?[=+]?.{0,20}") {
            if let Some(Named::Component(text)) = read_name(&name) {
                prop_assert!(text.len() <= name.len());
            }
        }
    }
}
