//! The commands as `windlass --help` shows them: in groups, by what they are for.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::json;

use super::{Global, output};

/// Groups of commands with their titles. Each command stands in one of them.
const GROUPS: [(&str, &[&str]); 6] = [
    ("First steps", &["demo", "help", "completion", "man", "version"]),
    ("Pools and volumes", &["pool", "volume", "snapshot", "clone", "replicate"]),
    ("Volumes as disks and images", &["attach", "detach", "import", "export"]),
    ("Buckets as folders", &["mount", "unmount"]),
    ("What goes on", &["status", "top", "doctor", "store", "cost", "drill"]),
    ("The daemon and what it may do", &["serve", "config", "credentials", "policy"]),
];
/// Column at which the sentences on commands begin.
const ABOUT: usize = 15;
/// Longest line on any screen, in columns.
const WIDTH_MAX: usize = 100;
/// Shortest length at which lines are broken, in columns, also on a screen that is narrower.
const WIDTH_MIN: usize = 40;

/// Returns the columns that printed lines may take.
pub fn width() -> usize {
    let screen = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
    let columns = screen.and_then(|size| size.ok()).map_or(WIDTH_MAX, |(columns, _)| usize::from(columns));
    columns.clamp(WIDTH_MIN, WIDTH_MAX)
}

/// Returns the text of `--help`, as clap wants it: with marks for the parts that clap fills in.
pub fn template(command: &clap::Command, width: usize) -> String {
    let styles = clap::builder::Styles::styled();
    let (head, name) = (styles.get_header(), styles.get_literal());
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, commands) in GROUPS {
        let _ = write!(text, "\n{head}{title}:{head:#}\n");
        for command in commands.iter().filter_map(|name| command.find_subcommand(name)) {
            let lines = output::wrapped(&about(command), width.saturating_sub(ABOUT), 0);
            let (called, inset) = (command.get_name(), format!("\n{:ABOUT$}", ""));
            let gap = " ".repeat(ABOUT.saturating_sub(2 + called.len()));
            let _ = writeln!(text, "  {name}{called}{name:#}{gap}{}", lines.join(&inset));
        }
    }
    let _ = write!(text, "\n{head}Options:{head:#}\n");
    text.push_str("{options}");
    text
}

/// Returns the sentence on a command, and the command's other names.
fn about(command: &clap::Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let names: Vec<_> = command.get_visible_aliases().collect();
    if names.is_empty() { about } else { format!("{about} [alias: {}]", names.join(", ")) }
}

/// Runs `windlass version`.
pub fn version(global: &Global) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    output::line(&match global.json {
        true => json!({"version": version}).to_string(),
        false => format!("windlass {version}"),
    });
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_stands_in_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, commands)| commands.iter().copied()).collect();
        let command = super::super::command();
        for name in command.get_subcommands().map(clap::Command::get_name) {
            assert_eq!(grouped.iter().filter(|known| **known == name).count(), 1, "{name}");
        }
        assert_eq!(grouped.len(), command.get_subcommands().count());
    }

    #[test]
    fn help_shows_groups_within_the_width() {
        let command = super::super::command();
        for width in [WIDTH_MIN, 60, WIDTH_MAX] {
            let text = command.clone().help_template(template(&command, width)).render_help().to_string();
            for part in ["Usage: windlass", "Pools and volumes:\n  pool ", "Options:\n", "--json", "umount]"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
            let groups =
                text.split("Options:").next().and_then(|text| text.split_once("First steps:")).unwrap().1;
            assert!(groups.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        }
    }
}
