//! What a shell asks at a tab: commands and flags, and the names of pools, volumes and snapshots that a daemon knows.

use std::any::TypeId;
use std::ffi::OsStr;
use std::io::Write as _;
use std::time::Duration;

use clap::Command;
use clap_complete::env::{EnvCompleter as _, Fish, Zsh};
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate};
use serde::de::DeserializeOwned;

use super::export::State;
use super::snapshot_or_time::Moment;
use super::{Global, output};
use crate::daemon::StateDir;
use crate::daemon::api::{SnapshotPath, Verb, VolumePath};
use crate::daemon::control_client::Client;
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, Kind, Result};

/// Longest wait for names, since a person waits at the tab. Names that take longer are left out.
const PATIENCE: Duration = Duration::from_secs(1);
/// The variable by which a shell's script asks, with the shell's name. Only such scripts may set it: a
/// process that has it does nothing else.
const ASKS: &str = "WINDLASS_COMPLETE";
/// The value's name in help texts by which an argument that takes a volume or a snapshot is known, whatever
/// its type.
const VOLUME: &str = "POOL/VOL";
const POOL: &str = "POOL";

#[derive(clap::Args, Debug)]
pub struct Completion {
    shell: Shell,
}

/// The shells that have a script.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Runs `windlass completion SHELL`.
pub fn run(_: &Global, args: &Completion) -> Result<std::process::ExitCode> {
    output::line(script(args.shell)?.trim_end());
    Ok(std::process::ExitCode::SUCCESS)
}

/// Returns the script that a shell reads to ask at each tab.
pub fn script(shell: Shell) -> Result<String> {
    let mut text = Vec::new();
    match shell {
        // The script that comes with clap takes what bash parts at an @ for several words.
        Shell::Bash => text.write_all(include_bytes!("completion.bash")),
        Shell::Zsh => Zsh.write_registration(ASKS, "windlass", "windlass", "windlass", &mut text),
        Shell::Fish => Fish.write_registration(ASKS, "windlass", "windlass", "windlass", &mut text),
    }?;
    String::from_utf8(text).map_err(|e| Error::new(Kind::Internal, e.to_string()))
}

/// Answers a shell's question, if this process was started for one.
pub fn answered() -> bool {
    let here = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(|| with_names(super::command())).var(ASKS);
    // Who presses a key has no use for an error.
    asked.try_complete(std::env::args_os(), here.as_deref()).unwrap_or(true)
}

/// Returns the command line, with what completes each argument that names a pool, a volume or a snapshot.
fn with_names(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let takes = |kind: TypeId| arg.get_value_parser().type_id() == kind;
        let named = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
        let paths = [
            TypeId::of::<VolumePath>(),
            TypeId::of::<SnapshotPath>(),
            TypeId::of::<Moment>(),
            TypeId::of::<State>(),
        ];
        match named.as_str() {
            POOL => arg.add(ArgValueCompleter::new(pools)),
            name if name.starts_with(VOLUME) || paths.into_iter().any(takes) => {
                arg.add(ArgValueCompleter::new(volumes_or_snapshots))
            }
            _ => arg,
        }
    });
    command.mut_subcommands(with_names)
}

fn pools(begun: &OsStr) -> Vec<CompletionCandidate> {
    let names = asked::<Vec<Named>>(Verb::PoolList).unwrap_or_default().into_iter().map(|pool| pool.name);
    that_begin(names, begun)
}

/// Completes names of volumes, and behind an `@` the snapshots of the volume before it.
fn volumes_or_snapshots(begun: &OsStr) -> Vec<CompletionCandidate> {
    let text = begun.to_string_lossy();
    let verb = match text.split_once('@').map(|(volume, _)| volume.parse::<VolumePath>()) {
        Some(Ok(path)) => Verb::SnapshotList { path, from: None },
        Some(Err(_)) => return Vec::new(),
        None => {
            // The other pools' stores need not be asked.
            let pool = text.split_once('/').and_then(|(pool, _)| pool.parse().ok());
            Verb::VolumeList { pool, importing: false }
        }
    };
    that_begin(asked::<Vec<Pathed>>(verb).unwrap_or_default().into_iter().map(|line| line.path), begun)
}

fn that_begin(names: impl Iterator<Item = String>, begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    names.filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

/// A line of `pool list`.
#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

/// A line of `volume list` or `snapshot list`.
#[derive(serde::Deserialize)]
struct Pathed {
    path: String,
}

/// Asks the daemon. `None`: it does not answer in time, or none runs; no engine is started for this.
fn asked<T: DeserializeOwned>(verb: Verb) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = async {
        let rt = Rt::new(RealRuntime::current());
        let call = async {
            let mut client = Client::connect(&StateDir::locate()?.control()?).await?;
            match &mut client {
                Some(client) => client.call(&rt, verb, |_| (), std::future::pending()).await,
                None => Err(Error::new(Kind::Unavailable, "there is no daemon")),
            }
        };
        rt.timeout(PATIENCE, Box::pin(call)).await
    };
    runtime.block_on(answer)?.ok()?.answer().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments that something completes, each behind its command.
    fn completed(command: &Command, called: &str, into: &mut Vec<String>) {
        for arg in command.get_arguments().filter(|arg| arg.get::<ArgValueCompleter>().is_some()) {
            into.push(format!("{called}: {}", arg.get_id()));
        }
        for below in command.get_subcommands() {
            let called = format!("{called} {}", below.get_name());
            completed(below, called.trim_start(), into);
        }
    }

    #[test]
    fn pools_volumes_and_snapshots_are_completed_where_they_are_there_already() {
        let mut found = Vec::new();
        completed(&with_names(super::super::command()), "", &mut found);
        for arg in [
            "pool status: name",
            "volume info: path",
            "snapshot remove: path",
            "clone: from",
            "export: from",
            "attach: path",
        ] {
            assert!(found.iter().any(|it| it == arg), "{arg}: {found:?}");
        }
    }

    #[test]
    fn each_shell_has_a_script_that_asks_the_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell).unwrap();
            assert!(text.contains(&format!("{ASKS}=")) && !text.contains(" COMPLETE="), "{shell:?}: {text}");
        }
    }
}
