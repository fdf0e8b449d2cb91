//! `windlass mount` and `windlass unmount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::{Global, detach_process, done, exit_code, output, reach_engine};
use crate::daemon::answers::{MountInfo, MountList};
use crate::daemon::api::{Outcome, Verb};
use crate::daemon::progress::ProgressSink;
use crate::daemon::signals::{self, Hangups};
use crate::daemon::{Engine, Options, StateDir};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind, Result, ResultExt};
use windlass_fs::{Cache, KeptFile, MOUNT_OPTIONS, MountOptions};

/// Number of attempts to reach an engine while another one ends; `PAUSE` lies between them.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
#[command(after_help = MOUNT_OPTIONS, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Mount {
    #[command(subcommand)]
    of_kept: Option<OfKept>,
    /// s3://BUCKET/PREFIX?… or file:///DIR
    #[arg(required = true)]
    url: Option<String>,
    /// An existing folder
    #[arg(required = true)]
    dir: Option<PathBuf>,
    /// Options, separated by commas, for example ro,uid=1000,allow_other
    #[arg(short, value_name = "OPTIONS")]
    o: Vec<String>,
    /// Stay in the foreground until the mount ends
    #[arg(long)]
    foreground: bool,
    /// Set for the process that stays behind: speaks one word on stdout and lets go of the terminal.
    #[arg(long, hide = true)]
    detached: bool,
}

/// Mounts, and files that could not be stored before their mount ended.
#[derive(clap::Subcommand, Debug)]
enum OfKept {
    /// List mounts, and the files that ended mounts left unsent on this host
    #[command(visible_alias = "ls")]
    List,
    /// Copy the unsent files of a bucket into a folder
    Export {
        /// The bucket's URL, as `mount list` shows it
        url: String,
        to: PathBuf,
    },
    /// Delete the unsent files of a bucket: their contents are lost
    #[command(visible_alias = "rm")]
    Drop {
        /// The bucket's URL, as `mount list` shows it
        url: String,
        /// Only say what would be deleted
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        /// Confirm: nothing is deleted without it
        #[arg(long)]
        yes: bool,
    },
}

impl Mount {
    /// Tells whether the mount is served in the background.
    pub fn leaves(&self) -> bool {
        !self.foreground
    }
}

#[derive(clap::Args, Debug)]
pub struct Unmount {
    dir: PathBuf,
}

pub async fn run(global: &Global, args: Mount) -> Result<ExitCode> {
    if let Some(of_kept) = args.of_kept {
        return keep(global, of_kept).await;
    }
    let (Some(url), Some(dir)) = (&args.url, &args.dir) else {
        return Err(Error::new(Kind::Usage, "name what to mount, and where"));
    };
    if dir.to_str().is_some_and(|dir| dir.contains("://")) && !url.contains("://") {
        let why = format!("the bucket stands before the folder: `windlass mount {} {url}`", dir.display());
        return Err(Error::new(Kind::Usage, why));
    }
    let dir = absolute(dir)?;
    let options: Vec<String> =
        args.o.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()).map(str::to_owned).collect();
    let verb = Verb::Mount { url: url.clone(), dir: dir.clone(), options };
    let home = StateDir::locate()?;
    let rt = Rt::new(RealRuntime::current());
    let mut attempts = 0;
    loop {
        match once(global, &args, home.clone(), verb.clone(), &dir).await? {
            Ok(code) => return Ok(code),
            Err(why) if attempts == ATTEMPTS || reach_engine::was_interrupted() => return Err(why),
            Err(_) => attempts += 1,
        }
        rt.sleep(PAUSE).await;
    }
}

/// An error of an engine that is ending, as one does after its last unmount. Another attempt finds none, or
/// the next one.
type Ending = Error;

/// Mounts through the engine that runs, or by one that is started.
async fn once(
    global: &Global,
    args: &Mount,
    home: StateDir,
    verb: Verb,
    dir: &str,
) -> Result<std::result::Result<ExitCode, Ending>> {
    if let Some(mut client) = reach_engine::with_mounts(&home).await?.into_iter().next() {
        let outcome = match reach_engine::through(&mut client, verb).await {
            Err(why) if why.is(Kind::Closed) => return Ok(Err(why)),
            outcome => outcome?,
        };
        if args.foreground {
            reach_engine::through(&mut client, Verb::MountEnded { dir: dir.to_owned() }).await?;
        }
        output::notes(global, &outcome);
        if args.detached {
            detach_process::say("ready")?;
        }
        return Ok(Ok(done(&outcome)));
    }
    if !args.foreground && !args.detached {
        return detach_process::leave_behind("the mount").await.map(Ok);
    }
    let cache = match MountOptions::parse(&args.o.join(","))?.0.cache {
        Cache::Off => Some(0),
        Cache::On => None,
        Cache::Bytes(bytes) => Some(bytes),
    };
    let home = home.of_mounts();
    let log = home.mount_log();
    let mut hangups = Hangups::listen();
    match reach_engine::start(global, home, Options { control: true, ..Options::default() }, cache).await {
        Err(why) if why.is(Kind::Owned) => Ok(Err(why)),
        engine => stay(engine?, verb, dir, args.detached.then_some(&log), &mut hangups).await.map(Ok),
    }
}

/// Runs the engine here until the mount ends or a signal comes; with `log`, away from the terminal. A SIGHUP has it read
/// the keys of stores anew.
async fn stay(
    engine: Arc<Engine>,
    verb: Verb,
    dir: &str,
    log: Option<&PathBuf>,
    hangups: &mut Hangups,
) -> Result<ExitCode> {
    let mounted = engine.run(verb, ProgressSink::none()).await;
    let mut told = false;
    match (&mounted, log) {
        (Ok(_), Some(log)) => detach_process::let_go(log, "ready")?,
        (Err(why), Some(log)) => {
            told = true;
            output::failure(why);
            detach_process::let_go(log, &exit_code(why.kind()).to_string())?;
        }
        (_, None) => {}
    }
    // Also after a failure: others may have mounted through this engine meanwhile, and have no other.
    {
        let (ended, signal) = (engine.idle(), signals::terminated());
        futures::pin_mut!(ended, signal);
        let mut over = select(ended, signal);
        while let Either::Right(_) = select(&mut over, std::pin::pin!(hangups.next())).await {
            engine.reload_credentials().await;
            tracing::info!("SIGHUP: the keys of stores were read anew");
        }
    }
    let result = match mounted {
        Err(why) if told => Ok(ExitCode::from(exit_code(why.kind()))),
        mounted => mounted.map(|_| ExitCode::SUCCESS),
    };
    tracing::debug!(dir, "the mount's process ends");
    engine.shutdown().await?;
    result
}

async fn keep(global: &Global, of_kept: OfKept) -> Result<ExitCode> {
    let is_list = matches!(of_kept, OfKept::List);
    let verb = match of_kept {
        OfKept::List => Verb::MountList,
        OfKept::Export { url, to } => Verb::MountExport { url, to: absolute(&to)? },
        OfKept::Drop { url, dry_run, yes } if dry_run || yes => Verb::MountDrop { url, dry_run },
        OfKept::Drop { url, .. } => {
            let why = format!(
                "what is kept of {url} is nowhere else: `windlass mount export` copies it out, `--dry-run` says what it is, \
                 `--yes` drops it"
            );
            return Err(Error::new(Kind::Refused, why));
        }
    };
    let mut outcome = reach_engine::ask(global, verb).await?;
    if is_list {
        add_others(&mut outcome).await?;
    }
    match is_list {
        true => output::report(global, &outcome, lists)?,
        false => output::notes(global, &outcome),
    }
    Ok(done(&outcome))
}

/// Adds the mounts of other engines than the one that answered, to what it listed under `mounts`.
pub(super) async fn add_others(outcome: &mut Outcome) -> Result<()> {
    let mut known = std::collections::BTreeMap::new();
    let mut list = |value: &serde_json::Value| {
        for mount in value["mounts"].as_array().into_iter().flatten() {
            known.entry(mount["dir"].to_string()).or_insert_with(|| mount.clone());
        }
    };
    list(&outcome.value);
    for mut client in reach_engine::with_mounts(&StateDir::locate()?).await? {
        list(&reach_engine::through(&mut client, Verb::MountList).await?.value);
    }
    outcome.value["mounts"] = known.into_values().collect();
    Ok(())
}

/// Prints the mounts that are up, for `status` too.
pub(super) fn mounts(mounts: Vec<MountInfo>) {
    let row = |m: MountInfo| vec![m.dir, m.url, m.unsent_files.to_string(), show_bytes(m.unsent_bytes)];
    output::table_if_any(&["MOUNT", "OF", "UNSENT FILES", "UNSENT"], mounts.into_iter().map(row).collect());
}

fn lists(list: MountList) {
    mounts(list.mounts);
    let row = |file: KeptFile| {
        let state = match (file.partly, file.unfinished) {
            (true, _) => "changes only",
            (_, true) => "not closed",
            _ => "closed",
        };
        vec![file.url, file.key, show_bytes(file.bytes), state.to_owned()]
    };
    output::table_if_any(
        &["KEPT OF", "FILE", "SIZE", "STATE"],
        list.kept_files.into_iter().map(row).collect(),
    );
}

pub async fn unmount(global: &Global, args: Unmount) -> Result<ExitCode> {
    let dir = absolute(&args.dir)?;
    let home = StateDir::locate()?;
    let mut result = None;
    for mut client in reach_engine::with_mounts(&home).await? {
        result = Some(reach_engine::through(&mut client, Verb::Unmount { dir: dir.clone() }).await);
        if !matches!(&result, Some(Err(why)) if why.is(Kind::NotFound)) {
            break;
        }
    }
    let Some(result) = result else {
        if windlass_fs::clear_dead(Path::new(&dir))? {
            return Ok(ExitCode::SUCCESS);
        }
        return Err(Error::new(
            Kind::NotFound,
            format!("{dir} is not a mount of ours: nothing that mounts runs on {}", home.root().display()),
        ));
    };
    let outcome = result?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

/// Makes a path absolute without touching the folder itself, which may be a mount that hangs.
pub(super) fn absolute(dir: &Path) -> Result<String> {
    let path = std::path::absolute(dir).context(|| format!("folder {}", dir.display()))?;
    let text =
        path.to_str().ok_or_else(|| Error::new(Kind::Usage, format!("{} is not UTF-8", path.display())))?;
    Ok(text.trim_end_matches('/').to_owned())
}
