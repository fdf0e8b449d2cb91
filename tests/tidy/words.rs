//! Words that the tree had and that said nothing to a stranger: each has a better one, and none comes back.

use std::collections::{BTreeMap, BTreeSet};

use crate::code;
use crate::layers::{File, is_test};

/// Refused words below each folder: an identifier of the code, or a word of a comment, and its name now. A
/// folder whose words were changed is entered here.
pub const REFUSED: &[(&str, &[(&str, &str)])] = &[
    ("crates/volume/src/", VOLUME),
    ("crates/pool/src/", POOL),
    (
        "src/daemon/",
        &[("Desk", "EngineState"), ("desk", "state"), ("Home", "StateDir"), ("Seat", "HostContext")],
    ),
    (
        "crates/store/src/s3/",
        &[("Straight", "DirectClient"), ("Way", "Endpoint"), ("Overheard", "CapturingProvider")],
    ),
    ("crates/base/src/rt/", &[("Undone", "QueueGuard"), ("Patient", "InlineIoGuard"), ("Pace", "JobClass")]),
    ("crates/fs/src/", FS),
];

const VOLUME: &[(&str, &str)] = &[
    ("Ground", "VolumeContext"),
    ("Grounds", "ClaimRequest"),
    ("Deps", "EngineContext"),
    ("deps", "engine"),
    ("Birth", "NewChunk"),
    ("Births", "NewChunks"),
    ("Death", "DeadFrame"),
    ("Ledger", "ChunkTable"),
    ("ledger", "chunk table"),
    ("Logbook", "Liveness"),
    ("PlaceBook", "PackIndex"),
    ("HeadCell", "HeadRegister"),
    ("Rounds", "ConfirmRounds"),
    ("Pace", "WriteThrottle, DeathRates"),
];

const POOL: &[(&str, &str)] = &[
    ("Fleet", "PoolContext"),
    ("fleet", "context"),
    ("Hints", "MissingShards"),
    ("Mask", "ShardSet"),
    ("Bookmark", "ScrubCursor"),
    ("bookmark", "scrub cursor"),
    ("Wreck", "ForcedRecovery"),
    ("wreck", "recovery"),
    ("Swap", "StoreSwap"),
    ("Footers", "FooterCache"),
];

const FS: &[(&str, &str)] = &[
    ("shelf", "slab"),
    ("Shelf", "Slab"),
    ("berth", "slot"),
    ("Berth", "Slot"),
    ("Docked", "SlabStage"),
    ("Own", "FileStage"),
    ("Earlier", "ClosedVersion"),
    ("Early", "StreamingUpload"),
    ("Engine", "MountContext"),
    ("Facts", "Attributes"),
    ("Face", "FuseServer"),
    ("Behind", "Writeback"),
    ("Ticket", "ChangeSeq"),
    ("ticket", "seq"),
    ("Crowd", "BulkLookup"),
    ("Moving", "DirRename"),
    ("Ending", "UnfinishedRename"),
    ("spare", "exempt"),
    ("Feed", "ParallelListing"),
    ("Stretch", "KeyRange"),
    ("stretch", "key range"),
    ("Scale", "SplitPoints"),
    ("PastNode", "VersionNode"),
    ("PastPlace", "VersionPlace"),
    ("is_past", "is_version"),
    ("Signature", "UploadToken"),
    ("Silence", "CircuitBreaker"),
    ("speaks", "overrides_cache"),
    ("owes", "has_unsent_close"),
    ("is_ahead", "has_local_changes"),
    ("disown", "discard"),
    ("lends", "register_lender"),
    ("repay", "flush_borrowers"),
    ("harden", "sync_stage"),
    ("settle", "what is settled: sync_removals, resolve_put, refresh_note"),
    ("step_aside", "detach_version"),
    ("retire", "drop_version"),
    ("leave_off", "begin_shutdown"),
    ("take_up", "recover_staged"),
    ("soon_here", "run_inline_bounded"),
];

/// Type names that do not say whose the type is: nothing below these folders declares one.
pub const NAMELESS: &[(&str, &[&str])] =
    &[("crates/fs/src/", &["State", "Place", "Shared", "Found", "Known", "Seen", "Kept", "Pace"])];

pub fn judge(file: &File) -> Vec<String> {
    let split = code::split(&file.text);
    let tokens = code::tokens(&split.code);
    let below = |folder: &str| file.path.starts_with(folder);
    let mut bad = Vec::new();
    for (old, new) in REFUSED.iter().filter(|(f, _)| below(f)).flat_map(|(_, words)| *words) {
        let code = tokens.iter().filter(|t| t.text == *old).map(|t| t.line);
        let comments = lines_with(&split.comments, old);
        bad.extend(code.chain(comments).map(|line| format!("{line}: `{old}` is called {new}")));
    }
    for new in REFUSED.iter().flat_map(|(_, words)| *words).flat_map(|(_, new)| new.split(", ")) {
        let bare = bare_lines(&split.comments, new);
        bad.extend(bare.map(|line| format!("{line}: type `{new}` stands in a sentence without backticks")));
    }
    for name in NAMELESS.iter().filter(|(f, _)| below(f) && !is_test(&file.path)).flat_map(|(_, t)| *t) {
        let declares = |pair: &[code::Token<'_>]| {
            matches!(pair[0].text, "struct" | "enum" | "type" | "trait") && pair[1].text == *name
        };
        let at = tokens.windows(2).filter(|pair| declares(pair)).map(|pair| pair[1].line);
        bad.extend(at.map(|line| format!("{line}: type `{name}` says not whose it is")));
    }
    bad.into_iter().map(|b| format!("{}:{b}", file.path)).collect()
}

/// Lines of comments on which a type's name stands as a word of prose: a renaming ran through them.
fn bare_lines<'a>(comments: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let humps = name.chars().filter(char::is_ascii_uppercase).count();
    let is_word = move |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '`').any(|w| w == name)
    };
    let numbered = comments.lines().enumerate().filter(move |_| humps > 1 && !name.contains(' '));
    numbered.filter(move |(_, line)| is_word(line)).map(|(i, _)| i + 1)
}

/// Lists types of one name that two layers show to the others: the reader of a third must know which is
/// meant.
pub fn doubles(files: &[File]) -> Vec<String> {
    let mut shown: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        let path: Vec<&str> = file.path.split('/').collect();
        let (["src", layer, "mod.rs"] | ["crates", layer, "src", "lib.rs"]) = path[..] else { continue };
        let split = code::split(&file.text);
        let tokens = code::tokens(&split.code);
        for (i, _) in tokens.windows(2).enumerate().filter(|(_, w)| w[0].text == "pub" && w[1].text == "use")
        {
            let names =
                tokens[i..].iter().take_while(|t| t.text != ";").map(|t| t.text).filter(|t| is_type(t));
            for name in names {
                shown.entry(name.to_owned()).or_default().insert(layer);
            }
        }
    }
    let twice = shown.iter().filter(|(_, layers)| layers.len() > 1);
    twice
        .map(|(name, layers)| format!("type `{name}` is shown by {layers:?}: say in the name whose it is"))
        .collect()
}

fn is_type(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains(|c: char| c.is_ascii_lowercase())
}

/// Returns the lines on which a word of comments stands. A word with a capital is a type's name, which prose
/// may begin with: it counts between backticks only.
fn lines_with(comments: &str, word: &str) -> Vec<usize> {
    let typed = word.starts_with(|c: char| c.is_ascii_uppercase());
    let is_word = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '`')
            .any(|w| if typed { w == format!("`{word}`") } else { w.trim_matches('`') == word })
    };
    comments.lines().enumerate().filter(|(_, line)| is_word(line)).map(|(i, _)| i + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str, text: &str) -> Vec<String> {
        judge(&File { path: path.into(), text: text.into() })
    }

    #[test]
    fn old_words_are_refused_in_code_and_comments() {
        assert_eq!(
            judged("crates/fs/src/a.rs", "fn shelf() {}"),
            ["crates/fs/src/a.rs:1: `shelf` is called slab"]
        );
        assert_eq!(judged("crates/fs/src/a.rs", "\n// A berth of it.").len(), 1);
        assert_eq!(judged("crates/fs/src/a.rs", "// See `Own`.").len(), 1);
        assert_eq!(
            judged("crates/fs/src/a.rs", "// Own changes count; the text \"x\".\nfn bookshelf() {}"),
            [""; 0]
        );
        assert_eq!(judged("crates/nbd/src/a.rs", "fn shelf() {}"), [""; 0]);
    }

    #[test]
    fn renamed_types_are_no_words_of_prose() {
        assert_eq!(judged("crates/log/src/a.rs", "//! FooterCache read lately.").len(), 1);
        assert_eq!(judged("crates/log/src/a.rs", "//! The `FooterCache` has them. A Slab, too."), [""; 0]);
    }

    #[test]
    fn two_layers_show_no_type_of_one_name() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let pool = file("crates/pool/src/lib.rs", "pub use stores::{Settings, HEAD_MAX, place};");
        let volume = |text| file("crates/volume/src/lib.rs", text);
        assert_eq!(doubles(&[pool, volume("pub use head::Settings;\nuse crate::pool::Pool;")]).len(), 1);
        let pool = file("crates/pool/src/lib.rs", "pub use stores::{Settings, HEAD_MAX, place};");
        assert_eq!(doubles(&[pool, volume("pub use head::{VolumeSettings, HEAD_MAX};")]), [""; 0]);
    }

    #[test]
    fn types_say_whose_they_are() {
        assert_eq!(judged("crates/fs/src/a.rs", "enum State {}").len(), 1);
        assert_eq!(judged("crates/fs/src/a.rs", "use crate::store::Found; struct FileState;"), [""; 0]);
    }
}
