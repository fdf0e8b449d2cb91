//! A command whose work goes on when it has ended: it starts itself once more, and waits until that process is up.

use std::path::Path;
use std::process::{ExitCode, Stdio};

use tokio::io::AsyncReadExt as _;

use super::{output, stderr_log};
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Prints a word for the process that waits.
pub fn say(word: &str) -> Result<()> {
    use std::io::Write as _;
    println!("{word}");
    std::io::stdout().flush().context(|| "leaving the terminal".into())
}

/// Says `word` to the command that waits (`ready`, or its exit code), then leaves its terminal: later messages go to a
/// log file.
pub fn let_go(log: &Path, word: &str) -> Result<()> {
    say(word)?;
    stderr_log::at_terminal(false);
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
    // A session of its own: closing the terminal does not end this process.
    let _ = rustix::process::setsid();
    let null = open(Path::new("/dev/null"), false)?;
    let log = open(log, true)?;
    // The command that waits reads this process's stdout to its end, which comes when stdout leads elsewhere.
    let moved = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&log));
    moved.map_err(std::io::Error::from).context(|| "leaving the terminal".into())
}

/// Starts this same command as a process of its own session that serves `what`, and waits until that is up.
pub async fn leave_behind(what: &str) -> Result<ExitCode> {
    let waiting = || format!("waiting for {what}");
    let program = std::env::current_exe().context(|| "finding this program".into())?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // Behind `--` it would be no option.
    let at = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(at, "--detached".into());
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(|| format!("starting the process that serves {what}"))?;
    let mut out =
        child.stdout.take().ok_or_else(|| Error::new(Kind::Internal, "the started process has no stdout"))?;
    let mut said = Vec::new();
    out.read_to_end(&mut said).await.context(waiting)?;
    // What it told before is for the user.
    let said = String::from_utf8_lossy(&said);
    let (told, word) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    if !told.is_empty() {
        output::line(told);
    }
    if word == "ready" {
        return Ok(ExitCode::SUCCESS);
    }
    if let Ok(code) = word.parse::<u8>() {
        return Ok(ExitCode::from(code));
    }
    // It has said why on stderr, which is ours.
    let status = child.wait().await.context(waiting)?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).filter(|c| *c != 0).unwrap_or(1)))
}
