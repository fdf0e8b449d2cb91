//! A report for somebody who helps: what doctor, status and the pools say, configuration, metrics, log and limits, in one tar
//! file, without secrets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::redact::{Secrets, is_secret};
use crate::daemon::StateDir;
use crate::daemon::answers::{EngineStatus, PoolAnswer};
use windlass_base::rt::{Disk as _, RealDisk, RealRuntime, Rt};
use windlass_base::{Error, Kind, Name, Result, ResultExt as _};
use windlass_nbd::Address;

/// Most bytes of the log that are told, the newest ones.
const LOG_MAX: usize = 256 << 10;
const LOG_READ_MAX: usize = 64 << 20;
const CONFIG_MAX: usize = 1 << 20;
const METRICS_MAX: u64 = 4 << 20;
const METRICS_WAIT: Duration = Duration::from_secs(5);
/// Beginnings and ends of the names of variables that change what Windlass does.
const TELLING: &[&str] =
    &["WINDLASS_", "AWS_", "RUST_LOG", "NO_PROXY", "HTTP", "http", "ALL_PROXY", "no_proxy", "all_proxy"];

/// The parts of a report, beside those that lie in files.
#[derive(Debug)]
pub struct Bundle {
    pub home: StateDir,
    /// Path of windlass.toml.
    pub config: PathBuf,
    pub status: Option<EngineStatus>,
    pub pools: Vec<(Name, PoolAnswer)>,
}

impl Bundle {
    pub async fn write(&self, file: &Path, report: &impl Serialize) -> Result<()> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let secrets = Secrets::among(variables.iter().cloned());
        let disk = RealDisk::start();
        let parts = self.parts(report, &variables).await?;
        let hidden = parts.into_iter().map(|(name, text)| (name, secrets.hide(&text)));
        let path = std::path::absolute(file).context(|| format!("the report {}", file.display()))?;
        let bytes = tarred(hidden.collect(), Rt::new(RealRuntime::current()).wall_ms() / 1000)?;
        disk.write_atomic(&path, Bytes::from(bytes)).await.context(|| format!("writing {}", path.display()))
    }

    /// Returns name and text of each file.
    async fn parts(
        &self,
        report: &impl Serialize,
        variables: &[(String, String)],
    ) -> Result<Vec<(String, String)>> {
        let disk = RealDisk::start();
        let mut parts = vec![("doctor.json".to_owned(), as_json(report)?)];
        if let Some(status) = &self.status {
            parts.push(("status.json".to_owned(), as_json(status)?));
        }
        for (name, answer) in &self.pools {
            parts.push((format!("pools/{name}.json"), as_json(answer)?));
        }
        if let Ok(config) = disk.read(&self.config, CONFIG_MAX).await {
            parts.push(("windlass.toml".to_owned(), String::from_utf8_lossy(&config).into_owned()));
        }
        if let Ok(log) = disk.read(&self.home.of_mounts().mount_log(), LOG_READ_MAX).await {
            let newest = &log[log.len().saturating_sub(LOG_MAX)..];
            parts.push(("mount.log".to_owned(), String::from_utf8_lossy(newest).into_owned()));
        }
        for address in self.status.iter().flat_map(|status| &status.metrics) {
            if let Some(text) = metrics(address).await {
                parts.push(("metrics.txt".to_owned(), text));
            }
        }
        parts.push(("environment.txt".to_owned(), environment(variables)));
        parts.push(("system.txt".to_owned(), system()));
        Ok(parts)
    }
}

fn as_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Kind::Internal, "a report cannot be written as JSON").because(e))
}

fn environment(variables: &[(String, String)]) -> String {
    let telling = variables.iter().filter(|(name, _)| TELLING.iter().any(|begin| name.starts_with(begin)));
    let line = |(name, value): &(String, String)| match is_secret(name) {
        true => format!("{name} is set\n"),
        false => format!("{name}={value}\n"),
    };
    let mut lines: Vec<String> = telling.map(line).collect();
    lines.sort();
    lines.concat()
}

/// Returns the kernel's version, limits of this process, and the mounts of Windlass.
fn system() -> String {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let kernel = [uname.sysname(), uname.release(), uname.version(), uname.machine()].map(text).join(" ");
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let mounts = read("/proc/self/mounts");
    let ours: Vec<&str> = mounts.lines().filter(|line| line.contains("windlass")).collect();
    format!("{kernel}\n\n{}\n{}\n", read("/proc/self/limits"), ours.join("\n"))
}

/// Reads the metrics that are served at an address. `None`: nobody answers.
async fn metrics(address: &str) -> Option<String> {
    let look = async {
        match address.parse().ok()? {
            Address::Tcp(place) => got(tokio::net::TcpStream::connect(place).await.ok()?).await,
            Address::Tls(_) => None,
            Address::Unix(path) => got(tokio::net::UnixStream::connect(path).await.ok()?).await,
        }
    };
    Rt::new(RealRuntime::current()).timeout(METRICS_WAIT, look).await.flatten()
}

async fn got(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<String> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    stream.take(METRICS_MAX).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn tarred(parts: Vec<(String, String)>, now: u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        let path = format!("windlass-report/{name}");
        tar.append_data(&mut header, path, text.as_bytes()).context(|| "making the report".to_owned())?;
    }
    tar.into_inner().context(|| "making the report".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[tokio::test]
    async fn nothing_secret_is_in_the_report() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        let home = StateDir::at(dir.path());
        let config =
            "[store.a]\nurl = \"s3://b\"\nsecret_key = \"hush-config\"\n# http://me:hush-url@proxy/\n";
        disk.write_atomic(&home.config(), Bytes::from(config)).await.unwrap();
        let log = home.of_mounts().mount_log();
        disk.create_dir(log.parent().unwrap()).await.unwrap();
        disk.write_atomic(&log, Bytes::from_static(b"asked with hush-env and AKIAIOSFODNN7EXAMPLE\n"))
            .await
            .unwrap();
        let bundle = Bundle { config: home.config(), home, status: None, pools: Vec::new() };
        let variables = [
            ("AWS_SECRET_ACCESS_KEY", "hush-env"),
            ("AWS_REGION", "eu-1"),
            ("https_proxy", "http://me:hush-proxy@h"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let report = serde_json::json!({"found": "http://me:hush-report@h said no"});
        let parts = bundle.parts(&report, &variables).await.unwrap();
        let secrets = Secrets::among(variables.iter().cloned());
        let parts = parts.into_iter().map(|(name, text)| (name, secrets.hide(&text))).collect();
        let bytes = tarred(parts, 1).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            seen += &entry.path().unwrap().display().to_string();
            entry.read_to_string(&mut seen).unwrap();
        }
        for there in [
            "doctor.json",
            "windlass.toml",
            "mount.log",
            "system.txt",
            "eu-1",
            "AWS_SECRET_ACCESS_KEY is set",
        ] {
            assert!(seen.contains(there), "{there} in {seen}");
        }
        assert!(!seen.contains("hush") && !seen.contains("AKIA"), "{seen}");
    }
}
