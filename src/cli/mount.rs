//! `windlass mount` and `windlass unmount`.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use tokio::io::AsyncReadExt as _;

use super::{Global, done, output, reach};
use crate::base::{Error, Kind, Result, ResultExt};
use crate::daemon::api::{Outcome, Verb};
use crate::daemon::control::{Client, ProgressSink};
use crate::daemon::{Home, Options, signals};
use crate::fs::{Cache, MOUNT_OPTIONS, MountOptions};

#[derive(clap::Args, Debug)]
#[command(after_help = MOUNT_OPTIONS)]
pub struct Mount {
    /// s3://BUCKET/PREFIX?… or file:///DIR
    url: String,
    /// An existing folder
    dir: PathBuf,
    /// Options, comma-separated, as ro,uid=1000,allow_other
    #[arg(short, value_name = "OPTIONS")]
    o: Vec<String>,
    /// Stay until the mount ends
    #[arg(long)]
    foreground: bool,
    /// Set for the process that stays behind: speaks one word on stdout and lets go of the terminal.
    #[arg(long, hide = true)]
    detached: bool,
}

#[derive(clap::Args, Debug)]
pub struct Unmount {
    dir: PathBuf,
}

pub async fn run(global: &Global, args: Mount) -> Result<ExitCode> {
    let dir = absolute(&args.dir)?;
    let options: Vec<String> =
        args.o.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()).map(str::to_owned).collect();
    let verb = Verb::Mount { url: args.url.clone(), dir: dir.clone(), options };
    let home = Home::locate()?;
    if let Some(mut client) = Client::connect(&home.control()?).await? {
        let outcome = reach::through(&mut client, verb).await?;
        if args.foreground {
            reach::through(&mut client, Verb::MountEnded { dir }).await?;
        }
        output::report(global, &outcome, |_| {});
        return Ok(done(&outcome));
    }
    if args.foreground || args.detached {
        let cache = match MountOptions::parse(&args.o.join(","))?.0.cache {
            Cache::Off => Some(0),
            Cache::On => None,
            Cache::Bytes(bytes) => Some(bytes),
        };
        stay(global, home, verb, dir, cache, args.detached).await
    } else {
        leave_behind().await
    }
}

/// Runs the engine here until the mount ends or a signal comes; `cache`: bytes for what is read, if said.
async fn stay(
    global: &Global,
    home: Home,
    verb: Verb,
    dir: String,
    cache: Option<u64>,
    detached: bool,
) -> Result<ExitCode> {
    signals::outlive_hangup();
    let log = home.root().join("mount.log");
    let engine = reach::start(global, home, Options { control: true, ..Options::default() }, cache).await?;
    let mounted = engine.run(verb, ProgressSink::none()).await;
    if mounted.is_ok() && detached {
        let_go(&log)?;
    }
    let result: Result<Outcome> = match mounted {
        Ok(_) => {
            let ended = engine.idle();
            futures::pin_mut!(ended);
            let signal = signals::terminated();
            futures::pin_mut!(signal);
            futures::future::select(ended, signal).await;
            Ok(Outcome::default())
        }
        Err(e) => Err(e),
    };
    tracing::debug!(dir, "the mount's process ends");
    engine.shutdown().await?;
    result.map(|_| ExitCode::SUCCESS)
}

/// Says `ready` to the command that waits, then leaves its terminal: later messages go to a log file.
fn let_go(log: &Path) -> Result<()> {
    use std::io::Write as _;
    println!("ready");
    std::io::stdout().flush().context(|| "leaving the terminal".into())?;
    let open = |path: &Path, write: bool| {
        let flags = if write {
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::APPEND
        } else {
            rustix::fs::OFlags::RDWR
        };
        rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(std::io::Error::from)
            .context(|| format!("opening {}", path.display()))
    };
    // A session of its own: closing the terminal does not end the mount.
    let _ = rustix::process::setsid();
    let null = open(Path::new("/dev/null"), false)?;
    let log = open(log, true)?;
    let moved = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&log));
    moved.map_err(std::io::Error::from).context(|| "leaving the terminal".into())
}

/// Starts this same command as a process of its own session, and waits until its mount is up.
async fn leave_behind() -> Result<ExitCode> {
    let program = std::env::current_exe().context(|| "finding this program".into())?;
    let mut child = tokio::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| "starting the process that serves the mount".into())?;
    let mut out =
        child.stdout.take().ok_or_else(|| Error::new(Kind::Internal, "the started process has no stdout"))?;
    let mut said = Vec::new();
    out.read_to_end(&mut said).await.context(|| "waiting for the mount".into())?;
    if said == b"ready\n" {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on stderr, which is ours.
    let status = child.wait().await.context(|| "waiting for the mount".into())?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).filter(|c| *c != 0).unwrap_or(1)))
}

pub async fn unmount(global: &Global, args: Unmount) -> Result<ExitCode> {
    let dir = absolute(&args.dir)?;
    let home = Home::locate()?;
    let Some(mut client) = Client::connect(&home.control()?).await? else {
        if crate::fs::clear_dead(Path::new(&dir))? {
            return Ok(ExitCode::SUCCESS);
        }
        return Err(Error::new(
            Kind::NotFound,
            format!("{dir} is not a mount of ours: nothing runs on {}", home.root().display()),
        ));
    };
    let outcome = reach::through(&mut client, Verb::Unmount { dir }).await?;
    output::report(global, &outcome, |_| {});
    Ok(done(&outcome))
}

/// Absolute without touching the folder itself, which may be a mount that hangs.
pub(super) fn absolute(dir: &Path) -> Result<String> {
    let path = std::path::absolute(dir).context(|| format!("folder {}", dir.display()))?;
    let text =
        path.to_str().ok_or_else(|| Error::new(Kind::Usage, format!("{} is not UTF-8", path.display())))?;
    Ok(text.trim_end_matches('/').to_owned())
}
