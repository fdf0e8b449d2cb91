//! Commands of windlass.toml, run by `sh -c` as the daemon's user.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Longest time that a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a word for a shell, quoted where it needs to be.
pub fn shell_word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:@=,".contains(&b);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A command of windlass.toml.
#[derive(Clone, Copy, Debug)]
pub struct ShellCommand<'a> {
    /// Name of the command in errors: `the key command`.
    pub called: &'a str,
    pub line: &'a str,
    /// Bytes that the command reads from its stdin.
    pub input: &'a [u8],
    /// Most bytes that the command may print.
    pub output_max: usize,
}

impl ShellCommand<'_> {
    /// Runs the command, and returns what it prints. Its stderr is ours, where it says why it fails; nothing that it
    /// prints is told.
    ///
    /// # Errors
    /// `Timeout` after a minute, at which it is ended with what it has started; `Usage`: it prints more than it may;
    /// `Io`: it fails.
    pub async fn run(self, rt: &Rt) -> Result<Zeroizing<Vec<u8>>> {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", self.line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .context(|| format!("starting {}", self.called))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let ended = rt.timeout(PATIENCE, self.printed_by(&mut child)).await;
        if !matches!(ended, Some(Ok(_))) {
            // What it has started would outlive the shell.
            let _ = group.map(|group| rustix::process::kill_process_group(group, Signal::KILL));
        }
        ended.unwrap_or_else(|| {
            let why = format!("{} took longer than {PATIENCE:?} and was ended", self.called);
            Err(Error::new(Kind::Timeout, why))
        })
    }

    async fn printed_by(self, child: &mut tokio::process::Child) -> Result<Zeroizing<Vec<u8>>> {
        let doing = || format!("waiting for {}", self.called);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let told = async {
            if let Some(mut stdin) = stdin {
                // One that reads none of it may be well all the same.
                let _ = stdin.write_all(self.input).await;
            }
        };
        let mut printed = Zeroizing::new(Vec::with_capacity(self.output_max + 1));
        let read = async {
            match stdout {
                Some(out) => out.take(self.output_max as u64 + 1).read_to_end(&mut printed).await.map(drop),
                None => Ok(()),
            }
        };
        let ((), read) = futures::future::join(told, read).await;
        read.context(doing)?;
        if printed.len() > self.output_max {
            let why = format!("{} prints more than {} bytes", self.called, self.output_max);
            return Err(Error::new(Kind::Usage, why));
        }
        let status = child.wait().await.context(doing)?;
        match status.success() {
            true => Ok(printed),
            false => Err(Error::new(Kind::Io, format!("{} failed: {status}", self.called))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(shell_word("/run/w/nbd.sock"), "/run/w/nbd.sock");
        assert_eq!(shell_word("s3://b/p?region=x"), "'s3://b/p?region=x'");
        assert_eq!(shell_word("/a b/it's"), r"'/a b/it'\''s'");
    }
}
