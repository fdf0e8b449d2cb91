//! The kinds of values that windlass.toml holds: each is read with its place in the file, and written as TOML.

use std::fmt;
use std::ops::{Deref, Range};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use windlass_base::nearest;
use windlass_base::units::{parse_duration, parse_size, show_duration, show_size};
use windlass_nbd::Address;

/// A value as the parser gives it, with the bytes of the file where it stands.
pub type Raw<'a> = Spanned<DeValue<'a>>;

/// Something wrong with a value, and how to mend it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub at: Range<usize>,
    pub what: String,
}

/// One kind of value.
pub trait Setting: Sized {
    /// Name of the kind in the reference and in errors.
    const KIND: &'static str;
    /// A value that an error shows as the cure, as TOML.
    const SAMPLE: &'static str;
    fn read(raw: &Raw<'_>) -> Result<Self, Vec<Fault>>;
    /// Returns the value as TOML.
    fn show(&self) -> String;
}

/// A value and the line on which it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written<T> {
    pub value: T,
    pub line: usize,
}

impl<T> Deref for Written<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Returns a text as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Returns a key as TOML writes it.
pub fn bare_or_quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { quoted(name) }
}

fn fault(raw: &Raw<'_>, what: impl fmt::Display) -> Vec<Fault> {
    vec![Fault { at: raw.span(), what: what.to_string() }]
}

/// Returns the fault of a value that has another type than the key takes.
fn wrong_type<T: Setting>(raw: &Raw<'_>) -> Vec<Fault> {
    let is = match raw.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    fault(raw, format_args!("wants {}, not {is}: write it as {}", T::KIND, T::SAMPLE))
}

pub fn text<T: Setting>(raw: &Raw<'_>) -> Result<String, Vec<Fault>> {
    match raw.get_ref() {
        DeValue::String(text) if text.is_empty() => {
            Err(fault(raw, format_args!("is empty: write it as {}, or leave the key out", T::SAMPLE)))
        }
        DeValue::String(text) => Ok(text.clone().into_owned()),
        _ => Err(wrong_type::<T>(raw)),
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl Setting for Size {
    const KIND: &'static str = "a size";
    const SAMPLE: &'static str = "\"2G\"";

    fn read(raw: &Raw<'_>) -> Result<Size, Vec<Fault>> {
        let written = match raw.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            _ => text::<Size>(raw)?,
        };
        parse_size(&written).map(Size).map_err(|e| fault(raw, e))
    }

    fn show(&self) -> String {
        quoted(&show_size(self.0))
    }
}

/// A length of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time(pub Duration);

impl Setting for Time {
    const KIND: &'static str = "a time";
    const SAMPLE: &'static str = "\"30s\"";

    fn read(raw: &Raw<'_>) -> Result<Time, Vec<Fault>> {
        let written = text::<Time>(raw)?;
        parse_duration(&written).map(Time).map_err(|e| fault(raw, e))
    }

    fn show(&self) -> String {
        quoted(&show_duration(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Time until something is done again; none if it never is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Often(pub Option<Duration>);

impl Setting for Often {
    const KIND: &'static str = "a time, or `never`";
    const SAMPLE: &'static str = "\"7d\"";

    fn read(raw: &Raw<'_>) -> Result<Often, Vec<Fault>> {
        match text::<Often>(raw)?.as_str() {
            "never" => Ok(Often(None)),
            written => parse_duration(written).map(|time| Often(Some(time))).map_err(|e| fault(raw, e)),
        }
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| quoted("never"), |time| Time(time).show())
    }
}

/// A part of the whole: more than 0, 1 at most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(pub f64);

impl Eq for Share {}

impl Setting for Share {
    const KIND: &'static str = "a share";
    const SAMPLE: &'static str = "\"1%\"";

    fn read(raw: &Raw<'_>) -> Result<Share, Vec<Fault>> {
        let written = text::<Share>(raw)?;
        let percent = written.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent.filter(|percent| *percent > 0.0 && *percent <= 100.0) {
            Some(percent) => Ok(Share(percent / 100.0)),
            None => Err(fault(
                raw,
                format_args!("{written:?} is no share: write it as \"1%\", above 0 and up to 100%"),
            )),
        }
    }

    fn show(&self) -> String {
        quoted(&format!("{}%", self.0 * 100.0))
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
    const SAMPLE: &'static str = "true (without quotes)";

    fn read(raw: &Raw<'_>) -> Result<bool, Vec<Fault>> {
        raw.get_ref().as_bool().ok_or_else(|| wrong_type::<bool>(raw))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const KIND: &'static str = "a text";
    const SAMPLE: &'static str = "\"TEXT\"";

    fn read(raw: &Raw<'_>) -> Result<String, Vec<Fault>> {
        text::<String>(raw)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for Address {
    const KIND: &'static str = "an address";
    const SAMPLE: &'static str = "\"127.0.0.1:10809\" or \"unix:/run/windlass/nbd.sock\"";

    fn read(raw: &Raw<'_>) -> Result<Address, Vec<Fault>> {
        text::<Address>(raw)?.parse().map_err(|e| fault(raw, e))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A list of values of one kind, each with its place in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T>(pub Vec<Spanned<T>>);

impl<T> List<T> {
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Spanned::get_ref)
    }
}

/// A kind of value that a `List` can hold, with the list's name and sample for errors.
pub trait Element: Setting {
    const LIST: &'static str;
    const LIST_SAMPLE: &'static str;
}

impl Element for Address {
    const LIST: &'static str = "a list of addresses";
    const LIST_SAMPLE: &'static str = "[\"127.0.0.1:10809\"]";
}

impl Element for String {
    const LIST: &'static str = "a list of texts";
    const LIST_SAMPLE: &'static str = "[\"TEXT\", \"TEXT\"]";
}

impl<T: Element> Setting for List<T> {
    const KIND: &'static str = T::LIST;
    const SAMPLE: &'static str = T::LIST_SAMPLE;

    fn read(raw: &Raw<'_>) -> Result<List<T>, Vec<Fault>> {
        let all = raw.get_ref().as_array().ok_or_else(|| wrong_type::<List<T>>(raw))?;
        let (mut read, mut faults) = (Vec::new(), Vec::new());
        for one in all.iter() {
            match T::read(one) {
                Ok(value) => read.push(Spanned::new(one.span(), value)),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(List(read)) } else { Err(faults) }
    }

    fn show(&self) -> String {
        format!("[{}]", self.values().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

/// Makes an enum of a setting that is one of a few words.
macro_rules! words {
    ($(#[doc = $about:literal])* $name:ident: $kind:literal, $sample:literal { $($(#[doc = $doc:literal])* $word:literal => $variant:ident,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }

        impl Setting for $name {
            const KIND: &'static str = $kind;
            const SAMPLE: &'static str = $sample;

            fn read(raw: &Raw<'_>) -> Result<$name, Vec<Fault>> {
                let written = text::<$name>(raw)?;
                let words = [$($word),*];
                match written.as_str() {
                    $($word => Ok($name::$variant),)*
                    _ => Err(fault(raw, format_args!("{written:?} is none of the words known here{}", nearest(&written, &words)))),
                }
            }

            fn show(&self) -> String {
                quoted(match self { $($name::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// Amount of what is logged: each level has all that the levels before it have.
    Level: "`error`, `warn`, `info`, `debug` or `trace`", "\"info\"" {
        /// Failures only.
        "error" => Error,
        /// Failures, and what needs attention.
        "warn" => Warn,
        /// Also what goes on: starts and ends, clients, commands.
        "info" => Info,
        /// Also how windlass does its work.
        "debug" => Debug,
        /// Everything, also of the libraries.
        "trace" => Trace,
    }
}

words! {
    /// Form of the lines of the log.
    LogFormat: "`text` or `json`", "\"text\"" {
        /// Text for people.
        "text" => Text,
        /// A JSON object a line.
        "json" => Json,
    }
}

words! {
    /// Rule that says whether clients by TLS must show a certificate.
    ClientCertificates: "`required` or `optional`", "\"required\"" {
        /// Each client must show one.
        "required" => Required,
        /// Clients that show no certificate are let in too.
        "optional" => Optional,
    }
}

impl Level {
    /// Returns the level as a filter in the syntax of RUST_LOG. Messages of `fuser` are left out up to `info`: it
    /// warns when the kernel was quicker than it.
    pub fn filter(self) -> &'static str {
        match self {
            Level::Error => "error,fuser::reply=off",
            // What the SDK says of keys and regions that it did not find is said in one line by whoever asked.
            Level::Warn => "warn,aws_config=error,fuser=error,fuser::reply=off",
            Level::Info => "warn,windlass=info,aws_config=error,fuser=error,fuser::reply=off",
            Level::Debug => "info,windlass=debug",
            Level::Trace => "debug,windlass=trace",
        }
    }
}
