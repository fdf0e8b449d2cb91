//! Sections of windlass.toml as types. The macro `section!` makes of one declaration the type with its fields, the
//! table of its keys for the reference and for errors, and what reads it: none of them can differ from the others.

use toml::de::DeTable;

use super::value_types::{Fault, Raw};

/// Value that a key has when it is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// The preset is this value, as TOML.
    Is(&'static str),
    /// The preset depends on more than the file; this sentence tells it.
    Said(&'static str),
    /// The section is not complete without the key.
    Required,
    /// The key has no preset.
    None,
}

/// One key, as the reference, the example and errors tell it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: &'static str,
    pub preset: Preset,
    /// An example value, as TOML.
    pub example: &'static str,
    pub about: &'static str,
}

/// A section's title and keys.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// Title of the section, as `[store.NAME]`; empty for the top of the file.
    pub title: &'static str,
    /// The section's title as the example file has it.
    pub example: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
}

impl Outline {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A type that `section!` made.
pub trait Section: Default {
    const OUTLINE: Outline;
    /// Reads the value of one of the keys.
    fn set(&mut self, name: &str, raw: &Raw<'_>, line: usize) -> Result<(), Vec<Fault>>;
    /// Returns what was written: each key, its value as TOML, its line.
    fn written(&self) -> Vec<(&'static Key, String, usize)>;
}

macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $title:literal, $sample:literal, $name:ident {
            $($(#[doc = $doc:literal])* $key:ident: $kind:ty, $preset:expr, $example:literal;)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[doc = $doc])* pub $key: Option<Written<$kind>>,)*
        }

        impl Section for $name {
            const OUTLINE: Outline = Outline {
                title: $title,
                example: $sample,
                about: concat!($($about),*),
                keys: &[$(Key {
                    name: stringify!($key),
                    kind: <$kind as Setting>::KIND,
                    preset: $preset,
                    example: $example,
                    about: concat!($($doc),*),
                }),*],
            };

            fn set(&mut self, name: &str, raw: &Raw<'_>, line: usize) -> Result<(), Vec<Fault>> {
                match name {
                    $(stringify!($key) => {
                        self.$key = Some(Written { value: <$kind>::read(raw)?, line });
                    })*
                    _ => debug_assert!(false, "{name} is no key of {}", $title),
                }
                Ok(())
            }

            fn written(&self) -> Vec<(&'static Key, String, usize)> {
                let mut all = Vec::new();
                $(if let (Some(it), Some(key)) = (&self.$key, Self::OUTLINE.key(stringify!($key))) {
                    all.push((key, it.value.show(), it.line));
                })*
                all
            }
        }
    };
}
pub(super) use section;

/// Something wrong in the file: where, and what to do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Wrong {
    pub line: usize,
    /// The key with the names of its sections: `store.fast.region`.
    pub key: String,
    pub what: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.key, self.what)
    }
}

/// The file's text, and what was found wrong in it so far.
#[derive(Debug)]
pub struct Findings<'a> {
    text: &'a str,
    pub wrong: Vec<Wrong>,
}

impl<'a> Findings<'a> {
    pub fn new(text: &'a str) -> Findings<'a> {
        Findings { text, wrong: Vec::new() }
    }

    /// Returns the line of a byte of the file.
    pub fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    pub fn add(&mut self, line: usize, key: impl Into<String>, what: impl std::fmt::Display) {
        self.wrong.push(Wrong { line, key: key.into(), what: what.to_string() });
    }

    /// Reads a section. `prefix` names it: `store.fast.`. A key that the section does not have goes to `unknown`.
    pub fn section<S: Section>(
        &mut self,
        table: &DeTable<'_>,
        prefix: &str,
        mut unknown: impl FnMut(&mut Self, &str, usize, &Raw<'_>),
    ) -> S {
        let mut section = S::default();
        for (key, value) in table.iter() {
            let (name, line) = (key.get_ref().as_ref(), self.line(key.span().start));
            if S::OUTLINE.key(name).is_none() {
                unknown(self, name, line, value);
                continue;
            }
            let faults = section.set(name, value, line).err().unwrap_or_default();
            for Fault { at, what } in faults {
                let line = self.line(at.start);
                self.add(line, format!("{prefix}{name}"), what);
            }
        }
        section
    }
}
