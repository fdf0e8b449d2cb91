//! Commands, one file a noun. A command builds a verb, sends it to the engine and prints what came back.

mod apply_diff;
mod attach_device;
mod attach_file;
mod attach_instructions;
mod attachments;
mod checksum;
mod clone;
mod completion;
mod config;
mod cost;
mod credentials;
mod daemon_user;
mod demo;
mod detach;
mod detach_process;
mod doctor;
mod drill;
mod export;
mod export_target;
mod graceful_restart;
mod help;
mod iam_policy;
mod import;
mod kernel_disk;
mod manual;
mod mount;
mod output;
mod pool;
mod reach_engine;
mod replicate;
mod sd_notify;
mod serve;
mod snapshot;
mod snapshot_hooks;
mod snapshot_or_time;
mod status;
mod stderr_log;
mod store;
mod take_over;
mod top;
mod transfer_bar;
mod volume;
mod volume_key;
mod volume_list_order;
mod wrong_words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::daemon::config::Level;
use windlass_base::{Error, Kind, Result, ResultExt};

/// Buckets as filesystems and as virtual disks.
#[derive(Parser, Debug)]
#[command(name = "windlass", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(clap::Args, Debug, Clone)]
struct Global {
    /// Print listings, reports and errors as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Configuration file (default: windlass.toml in the state folder)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Memory budget, for example 2G (default: WINDLASS_MEMORY, then `memory` in windlass.toml)
    #[arg(long, global = true, value_name = "SIZE", value_parser = windlass_base::units::parse_size)]
    memory: Option<u64>,
    /// Log more; twice: much more (RUST_LOG overrides)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// A tour on six local directories: pool, volume, snapshot, clone, lost stores, repair, mount
    Demo(demo::Demo),
    /// Run the daemon
    Serve(serve::Serve),
    /// Pools: sets of stores that keep data redundantly
    #[command(subcommand)]
    Pool(pool::Pool),
    /// Virtual disks
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Frozen states of volumes
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(snapshot::Snapshot),
    /// Make a volume from a snapshot, sharing its data
    Clone(clone::Clone),
    /// Make a volume of a disk image: raw, qcow2, compressed; a file, a URL, a pipe
    Import(import::Import),
    /// Make a volume a disk: a device or a file of this host, or what to type for QEMU, libvirt, systemd
    Attach(attach_instructions::Attach),
    /// Undo `attach --device` and `attach --file`
    Detach(detach::Detach),
    /// Bring a copy of a volume in another pool up to date (on a schedule: [replica] in windlass.toml)
    Replicate(replicate::Replicate),
    /// A volume or snapshot as an image, or what changed in it since a snapshot
    Export(export::Export),
    /// Mount a bucket as a folder
    Mount(mount::Mount),
    /// Unmount, after all files are uploaded
    #[command(visible_alias = "umount")]
    Unmount(mount::Unmount),
    /// Print the least IAM policy for stores or a mount
    Policy(iam_policy::Policy),
    /// Show what is in use, and what needs attention
    Status(status::Status),
    /// Watch what the daemon does: volumes by their I/O, stores, what needs attention
    Top(top::Top),
    /// Look at all that Windlass stands on; name each trouble, and what to do
    Doctor(doctor::Doctor),
    /// Rehearse a loss while clients go on
    #[command(subcommand)]
    Drill(drill::Drill),
    /// Try whether buckets and folders keep what pools and mounts stand on
    #[command(subcommand)]
    Store(store::Store),
    /// What pools cost a month, and what another layout or class would
    Cost(cost::Cost),
    /// Keys of stores: give them to the daemon while it runs, list them, take them back
    #[command(subcommand, visible_alias = "credential")]
    Credentials(credentials::Credentials),
    /// The configuration file: look at it, show what holds, print an example
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print what a shell reads to complete commands, and the names of pools, volumes and snapshots
    Completion(completion::Completion),
    /// Write the man pages and completions into a folder, as a package wants them
    Man(manual::Man),
    /// Show the help of a command, as `windlass COMMAND --help` does
    Help {
        /// For example `volume create`; nothing: all commands
        #[arg(value_name = "COMMAND")]
        words: Vec<OsString>,
    },
    /// Print the version
    Version,
}

/// Returns the whole command line, from which man pages and completions are made.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let template = help::template(&command, help::width());
    command.help_template(template)
}

/// Parses a command line. Where that fails, or help was asked for, it prints the message and returns the exit
/// code.
fn parse(args: Vec<OsString>) -> Result<Cli, ExitCode> {
    // Before anything else is read: what is wrong with the rest is told in the same form.
    let as_json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    output::errors_as_json(as_json);
    let words: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let matches = command().try_get_matches_from(args);
    let parsed = matches.and_then(|it| Cli::from_arg_matches(&it)).map_err(|mut error| {
        // That a word could be a value if it stood elsewhere helps nobody.
        if error.kind() == ErrorKind::UnknownArgument {
            error.remove(ContextKind::Suggested);
        }
        let told = wrong_words::no_such_command(&command(), &words, &error);
        let told = told.or_else(|| wrong_words::key_as_argument(&words, &error));
        match told.or_else(|| wrong_words::misplaced(&command(), &words, &error)) {
            Some(told) => output::failure(&told),
            None if as_json && error.use_stderr() => output::failure(&wrong_usage(&error)),
            // Nobody is there to be told that stderr can't be written.
            None => drop(error.print()),
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
    });
    match parsed? {
        Cli { command: Command::Help { words }, .. } => {
            let asked = ["windlass".into()].into_iter().chain(words).chain(["--help".into()]);
            parse(asked.collect())
        }
        cli => Ok(cli),
    }
}

/// Makes an error of what is wrong with a command line, without the hints behind it.
fn wrong_usage(error: &clap::Error) -> Error {
    let what = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "a command is missing: `windlass help` lists them".to_owned()
        }
        _ => {
            let text = error.render().to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            first.trim_start_matches("error: ").trim().to_owned()
        }
    };
    Error::new(Kind::Usage, what)
}

/// Runs the program.
pub fn main() -> ExitCode {
    if completion::answered() {
        return ExitCode::SUCCESS;
    }
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    start_log(&cli);
    match run(cli).and_then(|code| output::all_out().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            output::failure(&error);
            let code = if reach_engine::was_interrupted() { INTERRUPTED } else { exit_code(error.kind()) };
            ExitCode::from(code)
        }
    }
}

fn start_log(cli: &Cli) {
    // The tour takes stores away on purpose; fuser warns when the kernel was quicker than it to unmount.
    let default = match (cli.global.verbose, &cli.command) {
        (0, Command::Demo(_)) => "error",
        (0, Command::Serve(_) | Command::Mount(_)) => Level::Info.filter(),
        (0, _) => Level::Warn.filter(),
        (1, _) => Level::Debug.filter(),
        _ => Level::Trace.filter(),
    };
    stderr_log::at_terminal(
        cli.global.verbose == 0 && matches!(&cli.command, Command::Mount(mount) if mount.leaves()),
    );
    stderr_log::start(default);
}

fn run(cli: Cli) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(|| "starting the runtime".into())?;
    let code = runtime.block_on(Box::pin(dispatch(cli)));
    // Blocking jobs of dropped requests must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Demo(args) => Box::pin(demo::run(&global, args)).await,
        Command::Serve(args) => Box::pin(serve::run(&global, args)).await,
        Command::Pool(args) => Box::pin(pool::run(&global, args)).await,
        Command::Volume(args) => Box::pin(volume::run(&global, args)).await,
        Command::Snapshot(args) => Box::pin(snapshot::run(&global, args)).await,
        Command::Clone(args) => Box::pin(clone::run(&global, args)).await,
        Command::Import(args) => Box::pin(import::run(&global, args)).await,
        Command::Attach(args) => match (args.file.clone(), args.makes_device()?) {
            (Some(file), _) => Box::pin(attach_file::attach(&global, &args, &file)).await,
            (None, Some(number)) => Box::pin(attach_device::attach(&global, &args, number)).await,
            (None, None) => Box::pin(attach_instructions::run(&global, args)).await,
        },
        Command::Detach(args) => Box::pin(detach::detach(&global, args)).await,
        Command::Replicate(args) => Box::pin(replicate::run(&global, args)).await,
        Command::Export(args) => Box::pin(export::run(&global, args)).await,
        Command::Mount(args) => Box::pin(mount::run(&global, args)).await,
        Command::Unmount(args) => Box::pin(mount::unmount(&global, args)).await,
        Command::Policy(args) => Box::pin(iam_policy::run(&global, args)).await,
        Command::Status(args) => Box::pin(status::run(&global, args)).await,
        Command::Top(args) => Box::pin(top::run(&global, args)).await,
        Command::Doctor(args) => Box::pin(doctor::run(&global, args)).await,
        Command::Drill(args) => Box::pin(drill::run(&global, args)).await,
        Command::Store(args) => Box::pin(store::run(&global, args)).await,
        Command::Cost(args) => Box::pin(cost::run(&global, args)).await,
        Command::Credentials(args) => Box::pin(credentials::run(&global, args)).await,
        Command::Config(args) => Box::pin(config::run(&global, args)).await,
        Command::Completion(args) => completion::run(&global, &args),
        Command::Man(args) => manual::run(&args),
        Command::Version => Ok(help::version(&global)),
        Command::Help { .. } => {
            Err(Error::new(Kind::Internal, "help was given when the command line was read"))
        }
    }
}

/// Returns the exit code of an error: 1 failed, 2 usage, 3 not found, 4 exists, 5 owned elsewhere or busy, 6
/// refused. `DEGRADED` is 7.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::NotFound | Kind::Removed => 3,
        Kind::Exists => 4,
        Kind::Owned | Kind::Fenced => 5,
        Kind::Refused => 6,
        _ => 1,
    }
}

/// Exit code of a command that a signal ended, as shells say it.
const INTERRUPTED: u8 = 130;

/// Exit code of a command that was done, where something needs attention.
const DEGRADED: u8 = 7;

/// Returns the exit code of a command that was done.
fn done(outcome: &crate::daemon::api::Outcome) -> ExitCode {
    if outcome.degraded { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS }
}

/// Turns one kind of error into success, for `--if-absent` and `--if-exists`.
fn forgive(result: Result<ExitCode>, forgiven: Option<Kind>) -> Result<ExitCode> {
    match result {
        Err(e) if forgiven == Some(e.kind()) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_version_are_commands_too() {
        let code = |line: &str| {
            let args = std::iter::once("windlass").chain(line.split(' ')).map(OsString::from).collect();
            parse(args).map(|cli| matches!(cli.command, Command::Version))
        };
        assert_eq!(code("version"), Ok(true));
        assert_eq!(code("help"), Err(ExitCode::SUCCESS));
        assert_eq!(code("help volume create"), Err(ExitCode::SUCCESS));
        assert_eq!(code("help volume crate"), Err(ExitCode::from(2)));
    }

    #[test]
    fn the_reference_says_which_kind_has_which_exit_code() {
        let page = include_str!("../../docs/reference.md");
        let table = page.split("| kind | exit code |").nth(1).unwrap().split("\n\n").next().unwrap();
        let mut seen = 0;
        for row in table.lines().filter(|row| row.starts_with("| `")) {
            let (kinds, code) = row.trim_matches('|').split_once('|').unwrap();
            for kind in kinds.split(',') {
                let kind: Kind = serde_json::from_value(kind.trim().trim_matches('`').into()).unwrap();
                assert_eq!(exit_code(kind).to_string(), code.trim(), "{kind:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 20, "each kind stands there");
    }

    #[test]
    fn what_is_wrong_with_a_command_line_is_one_sentence_for_programs() {
        let told = |line: &str| {
            let args = std::iter::once("windlass").chain(line.split(' ').filter(|word| !word.is_empty()));
            let error = wrong_usage(&command().try_get_matches_from(args).unwrap_err());
            (error.kind(), error.to_string())
        };
        assert!(told("volume info tank/X!").1.starts_with("invalid value 'tank/X!' for '<POOL/VOLUME>'"));
        assert!(told("pool").1.starts_with("a command is missing"));
        assert!(told("volume create p/v").1.contains("--size"));
    }

    #[test]
    fn the_short_names_of_other_tools_are_understood() {
        let lines = [
            "pool ls",
            "pool rm p --dry-run",
            "volume ls p",
            "volume rm p/v",
            "volume gc p/v",
            "volume mv p/v w",
            "volume rename p/v p/w",
            "volume clone p/v@s p/w",
            "snap create p/v@s",
            "snap ls p/v",
            "snap rm p/v@s",
            "snapshot ls p/v",
            "snapshot rm p/v@s",
            "mount ls",
            "mount rm s3://bucket --yes",
            "umount /mnt",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(std::iter::once("windlass").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }
}
