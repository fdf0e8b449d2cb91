//! Keys and file names: every key has a name, every name at most one key, and each is found from the other.
//!
//! A key's component (what lies between slashes) is its name, unless no file can be called so. Then the name is
//! `%~` and the component with `%` and zero bytes written as `%XX`:
//!
//! | component | name |
//! |---|---|
//! | empty (`a//b`) | `%~` |
//! | `.`, `..` | `%~%2E`, `%~%2E%2E` |
//! | one with a zero byte | `%~a%00b` |
//! | one that begins with `%~` | `%~%25~…` |
//! | object `a` beside objects `a/…` | `%~a%!` (the directory is called `a`) |
//! | longer than 255 bytes | a directory `%~FIRST-PIECE%+` holding the rest |
//! | `.versions`, on mounts that show earlier versions under that name | `%~%2Eversions` |
//!
//! The other way round, a file name that isn't UTF-8 becomes the component `%~` with each byte that isn't as `%XX`.

/// Length of the longest file name in bytes, as getdents(2) users expect it.
pub const NAME_MAX: usize = 255;
/// Length of S3's longest key, in bytes.
pub const KEY_MAX: usize = 1024;

/// Name of the directory of earlier versions, on mounts that show them.
pub const VERSIONS: &str = ".versions";
/// Name under which a key's component `.versions` is shown on such mounts.
const VERSIONS_KEY: &str = "%~%2Eversions";

pub const MARK: &str = "%~";
const FILE_END: &str = "%!";
const PIECE_END: &str = "%+";

/// Form in which a key's component is shown as a file name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shown {
    Name(Vec<u8>),
    /// The component is too long for a name. A directory of this name holds it, whose keys begin with the
    /// component's first `len` bytes.
    Piece {
        name: Vec<u8>,
        len: usize,
    },
}

/// Object or directory for which a file name stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The directory of this component, or else the object.
    Any(String),
    /// The object of this component, though a directory has the same component.
    Object(String),
    /// The directory of all components that begin with this piece.
    Piece(String),
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
}

/// Returns the word with every byte but letters and digits written as `%XX`.
pub fn spelled(word: &str) -> String {
    let mut out = Vec::new();
    for byte in word.bytes() {
        if byte.is_ascii_alphanumeric() { out.push(byte) } else { hex(&mut out, byte) }
    }
    String::from_utf8(out).expect("what isn't ASCII was escaped")
}

fn escaped(component: &str) -> Vec<u8> {
    let mut out = MARK.as_bytes().to_vec();
    let dots = component == "." || component == "..";
    for byte in component.bytes() {
        if byte == b'%' || byte == 0 || dots {
            hex(&mut out, byte);
        } else {
            out.push(byte);
        }
    }
    out
}

/// Undoes `%XX`; `None` when a `%` is followed by anything else than two uppercase digits.
pub fn unescaped(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let byte = digit(bytes.get(at + 1)?)? << 4 | digit(bytes.get(at + 2)?)?;
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    Some(out)
}

/// Returns the component for a name that isn't UTF-8.
fn component_of_bytes(name: &[u8]) -> String {
    let mut out = MARK.as_bytes().to_vec();
    for chunk in name.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            if byte == b'%' { hex(&mut out, byte) } else { out.push(byte) }
        }
        for byte in chunk.invalid() {
            hex(&mut out, *byte);
        }
    }
    String::from_utf8(out).expect("what isn't UTF-8 was escaped")
}

/// Returns the bytes of a name that isn't UTF-8, if this component stands for one.
fn bytes_of_component(component: &str) -> Option<Vec<u8>> {
    let bytes = unescaped(component.strip_prefix(MARK)?)?;
    let foreign = std::str::from_utf8(&bytes).is_err() && !bytes.contains(&b'/') && !bytes.contains(&0);
    (foreign && component_of_bytes(&bytes) == component).then_some(bytes)
}

fn plain(component: &str) -> bool {
    !matches!(component, "" | "." | "..") && !component.contains('\0') && !component.starts_with(MARK)
}

fn full_name(component: &str) -> Vec<u8> {
    match bytes_of_component(component) {
        Some(bytes) => bytes,
        None if plain(component) => component.as_bytes().to_vec(),
        None => escaped(component),
    }
}

/// Returns the name under which a component is seen.
pub fn show(component: &str) -> Shown {
    let name = full_name(component);
    if name.len() <= NAME_MAX {
        return Shown::Name(name);
    }
    let room = NAME_MAX - PIECE_END.len();
    let mut len = component.len().min(room);
    while !component.is_char_boundary(len) || escaped(&component[..len]).len() > room {
        len -= 1;
    }
    let mut name = escaped(&component[..len]);
    name.extend_from_slice(PIECE_END.as_bytes());
    Shown::Piece { name, len }
}

/// Returns the name of an object whose component a directory has as well. `None` when the name would be too
/// long to show.
pub fn show_beside(component: &str) -> Option<Vec<u8>> {
    let mut name = escaped(component);
    name.extend_from_slice(FILE_END.as_bytes());
    (name.len() <= NAME_MAX).then_some(name)
}

/// Returns the object or directory for which a name stands; `None` when no key is ever shown under this name.
pub fn want(name: &[u8]) -> Option<Wanted> {
    if name.len() > NAME_MAX {
        return None;
    }
    let Ok(text) = std::str::from_utf8(name) else { return Some(Wanted::Any(component_of_bytes(name))) };
    let Some(body) = text.strip_prefix(MARK) else { return Some(Wanted::Any(text.to_owned())) };
    let (body, end) = match (body.strip_suffix(FILE_END), body.strip_suffix(PIECE_END)) {
        (Some(body), _) => (body, FILE_END),
        (_, Some(body)) => (body, PIECE_END),
        _ => (body, ""),
    };
    let component = String::from_utf8(unescaped(body)?).ok()?;
    let canonical = match end {
        "" => full_name(&component) == name,
        _ => escaped(&component)[MARK.len()..] == *body.as_bytes(),
    };
    if !canonical || component.contains('/') {
        return None;
    }
    match end {
        FILE_END => Some(Wanted::Object(component)),
        PIECE_END => (!component.is_empty()).then_some(Wanted::Piece(component)),
        _ => Some(Wanted::Any(component)),
    }
}

/// Names that a mount keeps for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming {
    /// The name `.versions` is the mount's: no key is shown under it.
    pub versions: bool,
}

impl Naming {
    /// Returns the name under which a component is seen on this mount.
    pub fn show(self, component: &str) -> Shown {
        match component {
            VERSIONS if self.versions => Shown::Name(VERSIONS_KEY.into()),
            _ => show(component),
        }
    }

    /// Returns what a name stands for among keys; `None` when no key is ever shown under this name on this
    /// mount.
    pub fn want(self, name: &[u8]) -> Option<Wanted> {
        match name {
            _ if !self.versions => want(name),
            _ if name == VERSIONS.as_bytes() => None,
            _ if name == VERSIONS_KEY.as_bytes() => Some(Wanted::Any(VERSIONS.to_owned())),
            _ => want(name),
        }
    }
}

/// Returns a key's last component, or a directory prefix's unfinished one (empty unless the directory is a
/// piece).
pub fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Tells whether a child's component below `prefix` belongs there: a piece holds only what is too long to be
/// shown outside.
pub fn belongs(prefix: &str, component: &str) -> bool {
    let begun = last(prefix);
    begun.is_empty()
        || matches!(show(&format!("{begun}{component}")), Shown::Piece { len, .. } if len == begun.len())
}

/// Tells whether a key that begins with `prefix` lies in that directory. A piece holds none of the keys that
/// are shown outside.
pub fn lies_in(prefix: &str, key: &str) -> bool {
    let rest = key.strip_prefix(prefix).unwrap_or_default();
    belongs(prefix, rest.split('/').next().unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(component: &str) -> String {
        match show(component) {
            Shown::Name(n) => String::from_utf8(n).unwrap(),
            Shown::Piece { name, .. } => String::from_utf8(name).unwrap(),
        }
    }

    #[test]
    fn the_table_holds() {
        let table = [
            ("a", "a"),
            ("", "%~"),
            (".", "%~%2E"),
            ("..", "%~%2E%2E"),
            ("...", "..."),
            ("a\0b", "%~a%00b"),
            ("%~x", "%~%25~x"),
            ("100%", "100%"),
        ];
        for (component, shown) in table {
            assert_eq!(name(component), shown);
            assert_eq!(want(shown.as_bytes()), Some(Wanted::Any(component.to_owned())));
        }
        assert_eq!(show_beside("a").unwrap(), b"%~a%!");
        assert_eq!(want(b"%~a%!"), Some(Wanted::Object("a".into())));
        for bad in ["%~a", "%~%2e", "%~%41", "%~%", "%~a%2", "%~%+", "%~%2F%!"] {
            assert_eq!(want(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn long_components_are_split() {
        let long = "ä".repeat(200);
        let Shown::Piece { name, len } = show(&long) else { panic!("too short") };
        assert!(name.len() <= NAME_MAX && len < long.len());
        assert_eq!(want(&name), Some(Wanted::Piece(long[..len].to_owned())));
        let prefix = format!("dir/{}", &long[..len]);
        assert!(belongs(&prefix, &long[len..]));
        assert!(!belongs(&prefix, "x") && belongs("dir/", "x"));
        assert!(lies_in(&prefix, &format!("dir/{long}/x")) && !lies_in(&prefix, &prefix));
        assert!(!lies_in(&prefix, &format!("{prefix}x/{long}")) && lies_in("dir/", "dir/"));
        assert_eq!(want(&[b'a'; 256]), None);
    }

    #[test]
    fn a_name_that_is_taken_is_escaped() {
        let (taken, free) = (Naming { versions: true }, Naming { versions: false });
        assert_eq!(taken.show(VERSIONS), Shown::Name(VERSIONS_KEY.into()));
        assert_eq!(taken.want(VERSIONS_KEY.as_bytes()), Some(Wanted::Any(VERSIONS.into())));
        assert_eq!(taken.want(VERSIONS.as_bytes()), None);
        assert_eq!(free.show(VERSIONS), Shown::Name(VERSIONS.into()));
        assert_eq!(free.want(VERSIONS.as_bytes()), Some(Wanted::Any(VERSIONS.into())));
        assert_eq!(free.want(VERSIONS_KEY.as_bytes()), None);
        // A key that is named like the escape.
        assert_eq!(taken.show(VERSIONS_KEY), Shown::Name(b"%~%25~%252Eversions".to_vec()));
    }

    proptest! {
        #[test]
        fn every_component_comes_back(component in "[a%~.!+0-9A-F\u{0}é]{0,12}") {
            if let Shown::Name(n) = show(&component) {
                prop_assert!(!n.is_empty() && n != b"." && n != b".." && !n.contains(&0));
                prop_assert_eq!(want(&n), Some(Wanted::Any(component.clone())));
            }
            let beside = show_beside(&component).unwrap();
            prop_assert_eq!(want(&beside), Some(Wanted::Object(component)));
        }

        #[test]
        fn every_name_has_at_most_one_key(name in proptest::collection::vec(
            prop_oneof![Just(b'%'), Just(b'~'), Just(b'a'), Just(b'4'), Just(0xe9u8), Just(b'.')], 1..10)) {
            if name != b"." && name != b".." && let Some(Wanted::Any(component)) = want(&name) {
                prop_assert_eq!(show(&component), Shown::Name(name));
            }
        }
    }
}
