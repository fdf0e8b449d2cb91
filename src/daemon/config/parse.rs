//! The text of windlass.toml, read whole: all that is wrong with it is told at once, each with its line, key and cure. Where
//! it is no TOML, only that is told.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::section_macro::{Findings, Section, Wrong};
use super::sections::{Config, OUTLINES, Top};
use super::value_types::{Raw, Written, bare_or_quoted};
use super::{limits_and_references, toml_errors};
use windlass_base::nearest;

/// Sections at the top of the file.
const SECTIONS: [&str; 10] =
    ["tls", "log", "traces", "alert", "limits", "store", "pool", "replica", "volume", "mount"];

impl Config {
    /// Parses `text`, or returns all that is wrong with it, by line.
    pub fn parse(text: &str) -> Result<Config, Vec<Wrong>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut findings = Findings::new(text);
        let broken = toml_errors::tell(&mut findings, text, &errors);
        let told = findings.wrong.len();
        let config = read(&mut findings, table.get_ref());
        limits_and_references::check(&mut findings, &config);
        match broken {
            // Lines below a heading that can't be read belong to no section.
            true => findings.wrong.truncate(told),
            false => {
                let lines: Vec<usize> = findings.wrong[..told].iter().map(|w| w.line).collect();
                let mut at = 0;
                findings.wrong.retain(|wrong| {
                    at += 1;
                    at <= told || !lines.contains(&wrong.line)
                });
            }
        }
        findings.wrong.sort();
        findings.wrong.dedup();
        if findings.wrong.is_empty() { Ok(config) } else { Err(findings.wrong) }
    }
}

fn read(findings: &mut Findings<'_>, table: &DeTable<'_>) -> Config {
    let mut config = Config::default();
    config.top = findings.section(table, "", |findings, name, line, raw| match name {
        "tls" => config.tls = fixed(findings, name, line, raw),
        "log" => config.log = fixed(findings, name, line, raw),
        "traces" => config.traces = fixed(findings, name, line, raw),
        "alert" => config.alert = fixed(findings, name, line, raw),
        "limits" => config.limits = fixed(findings, name, line, raw),
        "store" => config.store = named(findings, name, line, raw),
        "pool" => config.pool = named(findings, name, line, raw),
        "replica" => config.replica = named(findings, name, line, raw),
        "volume" => config.volume = named(findings, name, line, raw),
        "mount" => config.mount = named(findings, name, line, raw),
        _ => {
            let keys = Top::OUTLINE.keys.iter().map(|key| key.name).chain(SECTIONS);
            unknown(findings, name, line, (name, &keys.collect::<Vec<_>>()));
        }
    });
    config
}

/// Reads a section whose name is fixed, as `[log]`.
fn fixed<S: Section>(findings: &mut Findings<'_>, name: &str, line: usize, raw: &Raw<'_>) -> S {
    match raw.get_ref() {
        DeValue::Table(table) => keys(findings, table, name),
        _ => {
            findings.add(line, name, format_args!("is a section: write [{name}], and its keys below"));
            S::default()
        }
    }
}

/// Reads all sections of a kind that have names of their own, as `[store.NAME]`.
fn named<S: Section>(
    findings: &mut Findings<'_>,
    name: &str,
    line: usize,
    raw: &Raw<'_>,
) -> BTreeMap<String, Written<S>> {
    let title = S::OUTLINE.title;
    let DeValue::Table(table) = raw.get_ref() else {
        findings.add(line, name, format_args!("is no key: write {title} for each, and its keys below"));
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for (key, value) in table.iter() {
        let (of, line) = (key.get_ref().as_ref(), findings.line(key.span().start));
        let full = format!("{name}.{}", bare_or_quoted(of));
        match value.get_ref() {
            DeValue::Table(table) => {
                let value = keys(findings, table, &full);
                all.insert(of.to_owned(), Written { value, line });
            }
            _ if S::OUTLINE.key(of).is_some() => {
                findings.add(line, full, format_args!("belongs below a section with a name: write {title}"));
            }
            _ => findings.add(line, full, format_args!("is a section: write {title}, and its keys below")),
        }
    }
    all
}

fn keys<S: Section>(findings: &mut Findings<'_>, table: &DeTable<'_>, of: &str) -> S {
    findings.section(table, &format!("{of}."), |findings, name, line, _| {
        let keys: Vec<&str> = S::OUTLINE.keys.iter().map(|key| key.name).collect();
        unknown(findings, &format!("{of}.{}", bare_or_quoted(name)), line, (name, &keys));
    })
}

/// Tells of a key that is not known here, and where it belongs or what it may mean.
fn unknown(findings: &mut Findings<'_>, full: &str, line: usize, (name, known): (&str, &[&str])) {
    let cure = nearest(name, known);
    let elsewhere = OUTLINES.iter().find(|outline| outline.key(name).is_some());
    let cure = match elsewhere {
        Some(outline) if !cure.contains("did you mean") => match outline.title {
            "" => "; it stands above all sections".to_owned(),
            title => format!("; it belongs below {title}"),
        },
        _ => cure,
    };
    findings.add(line, if full.is_empty() { "\"\"" } else { full }, format_args!("is unknown{cure}"));
}
