//! Commands of the user's around a snapshot: what quiets a guest before, and lets it go on after.

use std::process::Stdio;
use std::time::Duration;

use crate::base::rt::Rt;
use crate::base::size::{parse_duration, show_time};
use crate::base::{Error, Kind, Result, ResultExt};
use crate::daemon::api::SnapshotPath;

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

    /// `work` between the two commands. The second runs whatever came of the first and of `work`, and its failure is told even where
    /// `work` was done: what was quieted may still be.
    pub async fn around<T>(
        &self,
        rt: &Rt,
        paths: &[SnapshotPath],
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = async {
            self.run(rt, "--before", self.before.as_deref(), paths).await?;
            let late = || {
                let (time, what) =
                    (show_time(self.hook_timeout.as_millis() as u64), "the snapshot did not stand within");
                Err(Error::new(
                    Kind::Timeout,
                    format!("{what} {time} (--hook-timeout): whether it comes is not known"),
                ))
            };
            rt.timeout(self.hook_timeout, work).await.unwrap_or_else(late)
        };
        let done = done.await;
        match (self.run(rt, "--after", self.after.as_deref(), paths).await, done) {
            (Ok(()), done) => done,
            (Err(after), Ok(_)) => Err(after.context("the snapshot was taken, but")),
            (Err(after), Err(error)) => Err(Error::new(error.kind(), format!("{error}; then {after}"))),
        }
    }

    /// In a process group of its own, which is ended when it takes too long.
    async fn run(&self, rt: &Rt, flag: &str, command: Option<&str>, paths: &[SnapshotPath]) -> Result<()> {
        let Some(command) = command else { return Ok(()) };
        let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", command])
            .env("WINDLASS_SNAPSHOTS", names.join(" "))
            .stdin(Stdio::null())
            // Ours is for the answer, which programs read.
            .stdout(std::io::stderr())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context(|| format!("starting the command of {flag}"))?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
        match rt.timeout(self.hook_timeout, child.wait()).await {
            Some(ended) => match ended.context(|| format!("waiting for the command of {flag}"))? {
                status if status.success() => Ok(()),
                status => {
                    Err(Error::new(Kind::Io, format!("the command of {flag} failed: {status}: {command}")))
                }
            },
            None => {
                if let Some(group) = group {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let time = show_time(self.hook_timeout.as_millis() as u64);
                let why = format!("the command of {flag} took longer than {time} and was ended: {command}");
                Err(Error::new(Kind::Timeout, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::base::rt::RealRuntime;

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
        assert_eq!(all.around(&rt, &path, take()).await.unwrap(), 7);
        assert_eq!(said(), "before p/v@s,after p/v@s,");
        // A freeze that fails or hangs: no snapshot, but the thaw.
        for (bad, kind) in [("exit 3", Kind::Io), ("sleep 60 & wait", Kind::Timeout)] {
            let error = hooks(bad, &say("thaw")).around(&rt, &path, take()).await.unwrap_err();
            assert!(error.is(kind) && error.to_string().contains("--before"), "{error}");
        }
        assert_eq!((*taken.lock().unwrap(), said().matches("thaw").count()), (1, 2));
        // No snapshot for another reason, and one that takes too long.
        let refused = async { Err::<i32, _>(Error::new(Kind::Exists, "it exists")) };
        assert!(hooks("", &say("thaw")).around(&rt, &path, refused).await.unwrap_err().is(Kind::Exists));
        let hangs = std::future::pending::<Result<i32>>();
        let late = hooks("true", &say("thaw")).around(&rt, &path, hangs).await.unwrap_err();
        assert!(late.is(Kind::Timeout) && said().matches("thaw").count() == 4, "{late}");
        let after = hooks("", "false").around(&rt, &path, take()).await.unwrap_err();
        assert!(
            after.to_string().starts_with("the snapshot was taken, but: the command of --after"),
            "{after}"
        );
    }
}
