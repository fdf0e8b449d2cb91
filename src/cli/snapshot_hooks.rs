//! Commands of the user's around a snapshot: what quiets a guest before, and lets it go on after.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use futures::future::{Either, select};

use crate::daemon::api::SnapshotPath;
use crate::daemon::signals;
use windlass_base::rt::Rt;
use windlass_base::units::{parse_duration, show_time};
use windlass_base::{Error, Kind, Result, ResultExt};

#[derive(clap::Args, Debug)]
pub struct Hooks {
    /// Run this by `sh -c` first, as a guest agent's freeze; when it fails no snapshot is taken
    #[arg(long, value_name = "COMMAND")]
    before: Option<String>,
    /// Run this by `sh -c` as soon as the snapshot stands, and also when there is none
    #[arg(long, value_name = "COMMAND")]
    after: Option<String>,
    /// How long each of the two may take, and the snapshot between them
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    hook_timeout: Duration,
}

impl Hooks {
    pub fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }

    /// Runs `work` between the two commands. Returns what came of the first command and of `work`, and what
    /// came of the second command. That one runs whatever came of the others, and after a signal too: what
    /// was quieted may still be quiet.
    pub async fn around<T>(
        &self,
        rt: &Rt,
        paths: &[SnapshotPath],
        work: impl Future<Output = Result<T>>,
    ) -> (Result<T>, Result<()>) {
        signals::outlive_hangup();
        let after = match self.after.as_deref().map(|command| After::wait(command, paths)).transpose() {
            Ok(after) => after,
            // What could not be let go on is not quieted.
            Err(error) => return (Err(error), Ok(())),
        };
        let work = async {
            self.run(rt, "--before", self.before.as_deref(), paths).await?;
            let late = || {
                let time = show_time(self.hook_timeout.as_millis() as u64);
                let why = format!(
                    "the snapshot did not stand within {time} (--hook-timeout): whether it comes is not known"
                );
                Err(Error::new(Kind::Timeout, why))
            };
            rt.timeout(self.hook_timeout, work).await.unwrap_or_else(late)
        };
        // Dropped, the first command is ended.
        let done = match select(pin!(work), pin!(signals::terminated())).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                Err(Error::new(Kind::Closed, "interrupted: whether the snapshot was taken is not known"))
            }
        };
        let let_go = match after {
            Some(after) => after.run(rt, self.hook_timeout).await,
            None => Ok(()),
        };
        (done, let_go)
    }

    /// Runs a command in a process group of its own, which is ended when the command takes too long.
    async fn run(&self, rt: &Rt, flag: &str, command: Option<&str>, paths: &[SnapshotPath]) -> Result<()> {
        let Some(command) = command else { return Ok(()) };
        let mut shell = shell(paths);
        shell.args(["-c", command]).stdin(Stdio::null()).kill_on_drop(true);
        let child = shell.spawn().context(|| format!("starting the command of {flag}"))?;
        ended(rt, child, self.hook_timeout, (flag, command)).await
    }
}

/// Prepares a shell that runs in a process group of its own.
fn shell(paths: &[SnapshotPath]) -> tokio::process::Command {
    let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let mut shell = tokio::process::Command::new("sh");
    shell.env("WINDLASS_SNAPSHOTS", names.join(" "));
    // Ours is for the answer, which programs read.
    shell.stdout(std::io::stderr()).process_group(0);
    shell
}

/// Waits for a command; one that takes too long is ended with its process group.
async fn ended(
    rt: &Rt,
    mut child: tokio::process::Child,
    time: Duration,
    (flag, command): (&str, &str),
) -> Result<()> {
    let mut group = Group(child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)));
    match rt.timeout(time, child.wait()).await {
        Some(ended) => {
            // What it left running goes on.
            group.0 = None;
            match ended.context(|| format!("waiting for the command of {flag}"))? {
                status if status.success() => Ok(()),
                status => {
                    let why = format!("the command of {flag} failed: {status}: {command}");
                    Err(Error::new(Kind::Io, why))
                }
            }
        }
        None => {
            drop(group);
            let time = show_time(time.as_millis() as u64);
            let why = format!("the command of {flag} took longer than {time} and was ended: {command}");
            Err(Error::new(Kind::Timeout, why))
        }
    }
}

/// The second command, in a shell that waits for the end of a pipe of ours. The pipe ends also when this
/// process is killed, so that what was quieted goes on.
struct After<'a> {
    command: &'a str,
    waiting: tokio::process::Child,
}

impl<'a> After<'a> {
    fn wait(command: &'a str, paths: &[SnapshotPath]) -> Result<After<'a>> {
        let mut shell = shell(paths);
        // Nothing is written to the pipe: `read` returns at its end.
        shell.args(["-c", "read -r nothing; exec sh -c \"$1\" </dev/null", "sh", command]);
        let waiting = shell.stdin(Stdio::piped()).spawn();
        Ok(After { command, waiting: waiting.context(|| "starting the command of --after".to_owned())? })
    }

    async fn run(mut self, rt: &Rt, time: Duration) -> Result<()> {
        drop(self.waiting.stdin.take());
        ended(rt, self.waiting, time, ("--after", self.command)).await
    }
}

/// A process group that is ended when nobody waits for it any more.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use windlass_base::rt::RealRuntime;

    fn hooks(before: &str, after: &str) -> Hooks {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Hooks { before: some(before), after: some(after), hook_timeout: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn what_was_quieted_goes_on_whatever_happens_between() {
        let rt = Rt::new(RealRuntime::current());
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let path = [" p/v@s".trim().parse().unwrap()];
        let say = |word: &str| format!("echo {word} $WINDLASS_SNAPSHOTS >> {}", log.display());
        let said = || std::fs::read_to_string(&log).unwrap_or_default().replace('\n', ",");
        let taken = Mutex::new(0);
        let take = async || {
            *taken.lock().unwrap() += 1;
            Ok(7)
        };
        let all = hooks(&say("before"), &say("after"));
        let (done, after) = all.around(&rt, &path, take()).await;
        assert_eq!((done.unwrap(), after.is_ok()), (7, true));
        assert_eq!(said(), "before p/v@s,after p/v@s,");
        // A freeze that fails or hangs: no snapshot, but the thaw.
        for (bad, kind) in [("exit 3", Kind::Io), ("sleep 60 & wait", Kind::Timeout)] {
            let error = hooks(bad, &say("thaw")).around(&rt, &path, take()).await.0.unwrap_err();
            assert!(error.is(kind) && error.to_string().contains("--before"), "{error}");
        }
        assert_eq!((*taken.lock().unwrap(), said().matches("thaw").count()), (1, 2));
        // No snapshot for another reason, and one that takes too long.
        let refused = async { Err::<i32, _>(Error::new(Kind::Exists, "it exists")) };
        assert!(hooks("", &say("thaw")).around(&rt, &path, refused).await.0.unwrap_err().is(Kind::Exists));
        let hangs = std::future::pending::<Result<i32>>();
        let late = hooks("true", &say("thaw")).around(&rt, &path, hangs).await.0.unwrap_err();
        assert!(late.is(Kind::Timeout) && said().matches("thaw").count() == 4, "{late}");
        let (done, after) = hooks("", "false").around(&rt, &path, take()).await;
        assert!(done.is_ok() && after.unwrap_err().to_string().starts_with("the command of --after"));
    }

    #[tokio::test]
    async fn what_was_quieted_goes_on_when_nobody_is_left_to_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let after = After::wait(&format!("echo thawed >> {}", log.display()), &[]).map(|after| after.waiting);
        let (rt, mut waiting) = (Rt::new(RealRuntime::current()), after.unwrap());
        // To wait for a child closes its pipe, where it has one.
        let pipe = waiting.stdin.take();
        assert!(rt.timeout(Duration::from_millis(300), waiting.wait()).await.is_none(), "it waits");
        assert!(!log.exists());
        // As the kernel closes it when a process is killed.
        drop(pipe);
        assert!(waiting.wait().await.unwrap().success());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "thawed\n");
    }
}
