//! What is said to a command that isn't there: those of ours that may have been meant.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use windlass_base::nearest::nearest_word;
use windlass_base::units::parse_size;
use windlass_base::{Error, Kind};

/// Most commands that are named.
const NAMED_MAX: usize = 4;

/// Words of other tools, and the commands that do it here.
const MEANT: &[(&[&str], &[&str])] = &[
    (
        &["delete", "destroy", "remove", "del", "rm", "erase", "purge"],
        &["volume remove", "snapshot remove", "pool destroy"],
    ),
    (&["pools"], &["pool list"]),
    (&["volumes", "disks", "images"], &["volume list"]),
    (&["snapshots", "snaps"], &["snapshot list"]),
    (&["mounts"], &["mount list"]),
    (&["show", "info", "get", "inspect", "describe", "stat"], &["volume info", "pool status", "status"]),
    (&["df", "du", "usage", "space"], &["pool status", "volume list", "status"]),
    (&["map", "connect", "attach-device", "device", "nbd"], &["attach"]),
    (&["unmap", "disconnect", "detach-device"], &["detach"]),
    (&["backup", "save", "download", "convert", "diff", "send"], &["export", "replicate", "snapshot create"]),
    (&["upload", "load", "receive"], &["import"]),
    (&["undelete", "trash"], &["volume restore", "snapshot restore"]),
    (&["revert"], &["volume rollback"]),
    (&["mv", "move"], &["volume rename", "volume move", "snapshot copy"]),
    (&["cp", "copy"], &["snapshot copy", "clone", "replicate"]),
    (&["fork"], &["clone"]),
    (&["snapshot", "snap"], &["snapshot create"]),
    (&["grow", "extend", "expand", "shrink"], &["volume resize"]),
    (&["init", "setup", "new", "format"], &["pool create", "demo"]),
    (&["connect", "join", "open", "import"], &["pool add"]),
    (&["disconnect", "close", "detach", "leave"], &["pool forget"]),
    (&["login", "auth", "keys"], &["credentials set"]),
    (&["fsck", "verify"], &["pool scrub", "volume check"]),
    (&["heal", "rebuild", "resilver"], &["pool repair"]),
    (&["steal", "failover", "unlock"], &["volume take-over"]),
    (&["gc", "compact"], &["volume collect"]),
    (&["sum", "md5sum", "sha256sum"], &["volume checksum"]),
    (
        &["daemon", "run", "up", "server", "start", "restart", "stop", "reload", "shutdown", "down"],
        &["serve"],
    ),
    (&["health", "check", "diagnose"], &["doctor", "status"]),
    (&["price", "costs"], &["cost"]),
    (&["options", "settings"], &["volume set", "pool set"]),
];

/// Words for what no command of ours does, and what to do instead.
const SAID: &[(&[&str], &str)] = &[
    (
        &["start", "restart", "stop", "reload", "shutdown", "down"],
        "systemctl starts and ends the package's daemon, as `systemctl restart windlass`; ctrl-C ends one at a terminal",
    ),
    (&["logs", "log", "journal"], "`journalctl -u windlass` shows the log of the package's daemon"),
];

/// Returns the message for a command that isn't there. `None`: something else is wrong with the command line.
pub fn no_such_command(root: &Command, words: &[String], error: &clap::Error) -> Option<Error> {
    let word = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => word.as_str(),
        _ => return None,
    };
    let before = words.iter().take_while(|given| *given != word);
    let noun = before.filter_map(|given| root.find_subcommand(given)).map(Command::get_name).last();
    let asked = noun.map_or(word.to_owned(), |noun| format!("{noun} {word}"));
    let mut cures = Vec::new();
    let meant = meant(root, noun, word);
    if !meant.is_empty() {
        let quoted: Vec<String> = meant.iter().map(|path| format!("`windlass {path}`")).collect();
        cures.push(match quoted.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("try {} or {last}", rest.join(", ")),
            _ => format!("try {}", quoted.concat()),
        });
    }
    let said = SAID.iter().filter(|(words, _)| words.contains(&word)).map(|(_, text)| (*text).to_owned());
    cures.extend(said);
    let lists = noun.filter(|noun| root.find_subcommand(noun).is_some_and(Command::has_subcommands));
    cures
        .push(format!("`windlass help{}` lists all", lists.map_or(String::new(), |noun| format!(" {noun}"))));
    Some(Error::new(Kind::Usage, format!("there is no command `windlass {asked}`: {}", cures.join("; "))))
}

/// Flags of other tools, by the command of ours that is given them, and what to type.
const MEANT_FLAGS: &[(&str, &[&str], &str)] = &[
    ("mount", &["--read-only", "--readonly", "--ro"], "-o ro"),
    ("mount", &["--allow-other"], "-o allow_other"),
    ("mount", &["--endpoint", "--endpoint-url", "--url"], "-o endpoint=URL"),
    ("mount", &["--region"], "-o region=NAME"),
    ("mount", &["--profile"], "-o profile=NAME"),
    ("mount", &["--uid"], "-o uid=NAME"),
    ("mount", &["--gid"], "-o gid=NAME"),
    ("mount", &["--cache"], "-o cache=SIZE"),
    (
        "mount",
        &["--daemon", "--background"],
        "nothing: a mount stays in the background unless `--foreground`",
    ),
    ("attach", &["--qemu", "--libvirt", "--systemd", "--uri", "--nbd"], "--as qemu|libvirt|nbd|systemd|uri"),
    ("volume create", &["--thin", "--sparse"], "nothing: every volume takes room as it is written"),
    ("volume create", &["--encrypted", "--luks"], "--encrypt"),
    (
        "volume remove",
        &["--force", "-f", "--yes", "-y"],
        "`windlass help volume remove` tells what can be removed",
    ),
];

/// Returns the message for a word or a flag that the command does not take, if it is known what may have been
/// meant.
pub fn misplaced(root: &Command, words: &[String], error: &clap::Error) -> Option<Error> {
    let word = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.as_str(),
        _ => return None,
    };
    let (mut command, mut path) = (root, Vec::new());
    for given in words.iter().skip(1) {
        if let Some(found) = command.find_subcommand(given) {
            command = found;
            path.push(found.get_name());
        }
    }
    let path = path.join(" ");
    let said = |cure: &str| {
        Some(Error::new(
            Kind::Usage,
            format!("`windlass {path}` does not take {word}: {cure} (`windlass help {path}`)"),
        ))
    };
    let mut flags = MEANT_FLAGS.iter();
    if let Some((.., cure)) = flags.find(|(of, flags, _)| *of == path && flags.contains(&word)) {
        return match cure.starts_with('-') {
            true => said(&format!("type {cure}")),
            false => said(cure),
        };
    }
    let takes = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
    if let Some((key, value)) = word.split_once('=').filter(|(key, _)| takes(key)) {
        return said(&format!("type --{key} {value}"));
    }
    let flag = flags_of(word).iter().find(|flag| takes(flag))?;
    said(&format!("type --{flag} {word}"))
}

/// Returns the flags that may have such a value, likely ones first.
fn flags_of(word: &str) -> &'static [&'static str] {
    let is_layout =
        || word.split_once('+').is_some_and(|(k, m)| k.parse::<u8>().is_ok() && m.parse::<u8>().is_ok());
    match word {
        _ if word.starts_with('-') => &[],
        _ if word.starts_with("/dev/") => &["device"],
        _ if is_layout() => &["layout"],
        _ if parse_size(word).is_ok() => &["size"],
        _ if word.contains("://") => &["store"],
        _ if word.starts_with(['/', '.', '~']) => &["file", "store"],
        _ => &[],
    }
}

/// Returns the message for keys on a command line. It must not repeat them.
pub fn key_as_argument(words: &[String], error: &clap::Error) -> Option<Error> {
    let is_value = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => !word.starts_with('-'),
        _ => false,
    };
    let of_keys = words.iter().skip_while(|word| !matches!(word.as_str(), "credentials" | "credential"));
    let is_of_keys = of_keys.skip(1).any(|word| word == "set");
    (is_value && is_of_keys).then(|| {
        let why = "keys are no arguments, which other users of this host see: `windlass credentials set TARGET` reads them from \
                   stdin, or from a file by --from; what was typed here should be exchanged";
        Error::new(Kind::Usage, why)
    })
}

/// Returns the commands that the word may mean: those of the noun before it first, and alone where there are
/// any.
fn meant(root: &Command, noun: Option<&str>, word: &str) -> Vec<String> {
    let all = paths(root);
    let of = |path: &str| MEANT.iter().any(|(words, paths)| words.contains(&word) && paths.contains(&path));
    let mut found: Vec<&Path> = all.iter().filter(|it| it.called.contains(&word) || of(&it.path)).collect();
    if found.is_empty() {
        let names: Vec<&str> = all.iter().flat_map(|it| it.called.iter().copied()).collect();
        let near = nearest_word(word, &names);
        found = all.iter().filter(|it| near.is_some_and(|near| it.called.contains(&near))).collect();
    }
    if let Some(noun) = noun
        && found.iter().any(|it| it.noun == noun)
    {
        found.retain(|it| it.noun == noun);
    }
    found.iter().take(NAMED_MAX).map(|it| it.path.clone()).collect()
}

/// A command that can be typed.
struct Path<'a> {
    /// The words of the command, without the program's name.
    path: String,
    /// The first word of the path.
    noun: &'a str,
    /// All names of the path's last word.
    called: Vec<&'a str>,
}

fn paths(root: &Command) -> Vec<Path<'_>> {
    let mut all = Vec::new();
    for noun in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let below: Vec<&Command> = noun.get_subcommands().filter(|command| !command.is_hide_set()).collect();
        if below.is_empty() || !noun.is_subcommand_required_set() {
            let path = noun.get_name().to_owned();
            all.push(Path { path, noun: noun.get_name(), called: names(noun) });
        }
        for command in below {
            let path = format!("{} {}", noun.get_name(), command.get_name());
            all.push(Path { path, noun: noun.get_name(), called: names(command) });
        }
    }
    all
}

fn names(command: &Command) -> Vec<&str> {
    std::iter::once(command.get_name()).chain(command.get_all_aliases()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_is_named_is_there() {
        let root = super::super::command();
        let all: Vec<String> = paths(&root).into_iter().map(|it| it.path).collect();
        for named in MEANT.iter().flat_map(|(_, paths)| *paths) {
            assert!(all.iter().any(|path| path == named), "{named}: {all:?}");
        }
    }

    #[test]
    fn a_key_on_the_command_line_is_not_repeated() {
        let root = super::super::command();
        let told = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let error = root.clone().try_get_matches_from(&words).unwrap_err();
            key_as_argument(&words, &error).map(|error| error.to_string())
        };
        let said = told("windlass credentials set AKIA hush").unwrap();
        assert!(said.contains("stdin") && !said.contains("hush"), "{said}");
        assert_eq!(told("windlass credentials set AKIA --hush"), None);
        assert_eq!(told("windlass credentials list tank"), None);
        assert_eq!(told("windlass volume info p/v x"), None);
    }

    #[test]
    fn a_word_that_stands_elsewhere_leads_to_its_flag() {
        let root = super::super::command();
        let told = |line: &str| {
            let words: Vec<String> =
                std::iter::once("windlass").chain(line.split(' ')).map(str::to_owned).collect();
            let error = root.clone().try_get_matches_from(&words).unwrap_err();
            misplaced(&root, &words, &error).map(|error| error.to_string())
        };
        for (line, cure) in [
            ("volume create tank/v 20G", "`windlass volume create` does not take 20G: type --size 20G ("),
            ("--json volume create tank/v --size 1G --thin", "every volume takes room as it is written"),
            ("attach tank/v /dev/nbd3", "type --device /dev/nbd3"),
            ("attach tank/v ./v.img", "type --file ./v.img"),
            ("pool create tank file:///a", "type --store file:///a"),
            ("volume create tank/v --size 1G flush=pool", "type --flush pool"),
            ("attach tank/v --qemu", "type --as qemu|"),
            ("mount --read-only s3://b /m", "type -o ro ("),
        ] {
            let said = told(line).unwrap_or_else(|| panic!("{line}: nothing is said"));
            assert!(said.contains(cure), "{line}: {said}");
        }
        assert_eq!(told("volume info tank/v x"), None);
        for (path, ..) in MEANT_FLAGS {
            assert!(paths(&root).iter().any(|it| it.path == *path), "{path}");
        }
    }

    #[test]
    fn words_of_other_tools_lead_to_ours() {
        let root = super::super::command();
        for (line, cure) in [
            (
                "delete tank/v",
                "try `windlass pool destroy`, `windlass volume remove` or `windlass snapshot remove`",
            ),
            (
                "volume delete tank/v",
                "`windlass volume delete`: try `windlass volume remove`; `windlass help volume`",
            ),
            ("--json snapshot delete tank/v@s", "try `windlass snapshot remove`;"),
            ("pool remove tank", "try `windlass pool destroy`;"),
            ("resize tank/v 1G", "try `windlass volume resize`;"),
            ("map tank/v", "try `windlass attach`;"),
            ("stop", "try `windlass serve`; systemctl starts and ends"),
            ("logs", "`windlass logs`: `journalctl -u windlass`"),
            ("stauts", "try `windlass pool status` or `windlass status`;"),
            ("volume creat p/v", "try `windlass volume create`"),
            ("frobnicate", "`windlass frobnicate`: `windlass help` lists all"),
        ] {
            let words: Vec<String> =
                std::iter::once("windlass").chain(line.split(' ')).map(str::to_owned).collect();
            let error = root.clone().try_get_matches_from(&words).unwrap_err();
            let told = no_such_command(&root, &words, &error).unwrap().to_string();
            assert!(told.contains(cure), "{line}: {told}");
        }
    }
}
