//! The Windlass daemon, asked by its HTTP API (docs/how-to/use-the-api.md), here or on the host that owns a volume.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::host;
use crate::names::Id;
use crate::status::{Code, Status};

/// Time for a verb that only looks, which the daemon answers within 20 s. `CHANGE` is for verbs that change
/// something and wait for stores.
const LOOK: Duration = Duration::from_secs(30);
const CHANGE: Duration = Duration::from_secs(120);
/// Time for verbs that no store has to answer.
const QUICK: Duration = Duration::from_secs(15);
/// Time for which a verb that needs an unused volume is tried again. The daemon may hear that a client is
/// gone a moment later than whoever took its device away.
const UNUSED_WITHIN: Duration = Duration::from_secs(10);

/// The daemon's reason for not carrying out a verb.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Refusal {
    pub kind: String,
    pub message: String,
}

pub type Asked<T> = std::result::Result<T, Refusal>;

impl Refusal {
    fn new(kind: &str, message: impl Into<String>) -> Refusal {
        Refusal { kind: kind.to_owned(), message: message.into() }
    }

    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let code = match refusal.kind.as_str() {
            "usage" | "invalid" => Code::InvalidArgument,
            "not_found" | "removed" => Code::NotFound,
            "exists" => Code::AlreadyExists,
            "owned" | "fenced" | "refused" | "read_only" | "unsupported" => Code::FailedPrecondition,
            "denied" => Code::PermissionDenied,
            "no_space" => Code::ResourceExhausted,
            "unavailable" | "timeout" | "throttled" | "archived" | "closed" => Code::Unavailable,
            "corrupt" => Code::DataLoss,
            _ => Code::Internal,
        };
        Status::new(code, refusal.message)
    }
}

/// The fields of `volume-info` that the driver needs.
#[derive(Clone, Debug, Deserialize)]
pub struct VolumeInfo {
    pub path: String,
    /// The volume's id: another volume that gets this name has another id.
    #[serde(default)]
    pub id: String,
    /// Size in bytes. A volume in a list whose head can't be read has 0 here, and lacks the fields below as
    /// well.
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub owner_id: Option<String>,
    #[serde(default)]
    pub open_here: bool,
    #[serde(default)]
    pub clients: u64,
    #[serde(default)]
    pub template: bool,
    #[serde(default)]
    pub mapped_bytes: u64,
    #[serde(default)]
    pub snapshots: u64,
    #[serde(default)]
    pub origin: Option<String>,
    #[serde(default)]
    pub parent: Option<Parent>,
    #[serde(default)]
    pub trouble: Option<String>,
    /// Number of the snapshot in the volume, where a snapshot is used as a volume.
    #[serde(skip)]
    pub snapshot_id: Option<u64>,
}

/// The volume and snapshot that a clone is made of, by ids that are never used again.
#[derive(Clone, Debug, Deserialize)]
pub struct Parent {
    /// Id of the volume.
    pub volume: String,
    pub snapshot_id: u64,
}

/// A line of `snapshot-list`.
#[derive(Clone, Debug, Deserialize)]
pub struct SnapshotInfo {
    pub name: String,
    pub id: u64,
    /// Clones that need the snapshot, those in the trash too.
    pub clones: Vec<String>,
    pub size: u64,
    pub created_ms: u64,
    pub ready: bool,
}

/// A line of `pool-list`.
#[derive(Clone, Debug, Deserialize)]
pub struct PoolInfo {
    pub name: String,
    /// Layout as `k+m`; none while the pool can't be opened.
    pub layout: Option<String>,
    pub free_bytes: Option<u64>,
    pub trouble: Option<String>,
}

/// The fields of `watch` that the driver needs: the daemon knows them without asking stores.
#[derive(Clone, Debug, Deserialize)]
pub struct Known {
    pub host_id: String,
    pub pools: Vec<PoolInfo>,
}

/// The daemon of this host.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// State folder of the daemon.
    pub home: PathBuf,
    /// Shell command that connects its standard input and output with the control socket of the daemon on the
    /// host `$WINDLASS_OWNER`.
    pub reach: Option<String>,
}

/// A daemon's answer: `{"value": …}`.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    value: Value,
}

impl Daemon {
    async fn call<T: DeserializeOwned>(&self, verb: &str, args: Value, time: Duration) -> Asked<T> {
        let socket = self.home.join("control.sock");
        let stream = UnixStream::connect(&socket).await.map_err(|e| {
            let why = format!("the Windlass daemon does not answer at {}: {e}", socket.display());
            Refusal::new("closed", why)
        })?;
        ask(stream, verb, args, time).await
    }

    /// Asks the daemon of the host that owns the volume, where that is another host and can be reached.
    /// Otherwise it asks this host's daemon, which refuses then.
    async fn call_owner<T: DeserializeOwned>(
        &self,
        info: &VolumeInfo,
        verb: &str,
        args: Value,
        time: Duration,
    ) -> Asked<T> {
        let (Some(reach), true) = (&self.reach, self.owned_elsewhere(info).await?) else {
            return self.call(verb, args, time).await;
        };
        let owner = info.owner.as_deref().filter(|owner| is_host(owner)).ok_or_else(|| {
            Refusal::new("owned", format!("{} is owned by a host whose name can't be used", info.path))
        })?;
        let mut child = Command::new("sh")
            .args(["-c", reach])
            .env("WINDLASS_OWNER", owner)
            .env("WINDLASS_OWNER_ID", info.owner_id.as_deref().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Refusal::new("internal", format!("sh: {e}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Refusal::new("internal", "a program without standard input and output"));
        };
        let asked = ask(tokio::io::join(output, input), verb, args, time).await;
        asked.map_err(|e| match e.is("closed") {
            true => Refusal::new("closed", format!("the daemon on {owner}, by `{reach}`: {}", e.message)),
            false => e,
        })
    }

    // ---- looking ----

    pub async fn ping(&self) -> Asked<()> {
        self.call::<Value>("ping", Value::Null, QUICK).await.map(drop)
    }

    pub async fn known(&self) -> Asked<Known> {
        self.call("watch", Value::Null, QUICK).await
    }

    pub async fn pools(&self) -> Asked<Vec<PoolInfo>> {
        self.call("pool-list", Value::Null, LOOK).await
    }

    pub async fn volumes(&self) -> Asked<Vec<VolumeInfo>> {
        self.call("volume-list", json!({ "pool": null }), LOOK).await
    }

    pub async fn volumes_of(&self, pool: &str) -> Asked<Vec<VolumeInfo>> {
        self.call("volume-list", json!({ "pool": pool }), LOOK).await
    }

    pub async fn info(&self, volume: &Id) -> Asked<VolumeInfo> {
        self.call("volume-info", json!({ "path": volume.parent().to_string() }), LOOK).await
    }

    /// Returns what is known of a volume; `None` when there is no such volume. A pool that this host does not
    /// know is an error.
    pub async fn find(&self, volume: &Id) -> Asked<Option<VolumeInfo>> {
        match self.info(volume).await {
            Ok(info) => Ok(Some(info)),
            Err(e) if !e.is("not_found") && !e.is("removed") => Err(e),
            Err(e) => match self.known().await?.pools.iter().any(|pool| pool.name == volume.pool) {
                true => Ok(None),
                false => Err(Refusal::new("refused", e.message)),
            },
        }
    }

    /// Lists a volume's snapshots, oldest first, those for clones too. A snapshot that an owner has just
    /// taken is known to that host alone.
    pub async fn snapshots(&self, of: &VolumeInfo) -> Asked<Vec<SnapshotInfo>> {
        self.call_owner(of, "snapshot-list", json!({ "path": of.path }), LOOK).await
    }

    /// Lists the snapshots that an owner has recorded in the pool, which any host reads.
    pub async fn recorded_snapshots(&self, of: &VolumeInfo) -> Asked<Vec<SnapshotInfo>> {
        self.call("snapshot-list", json!({ "path": of.path }), LOOK).await
    }

    /// Returns a snapshot; `None` also where the volume is gone.
    pub async fn snapshot(&self, of: &VolumeInfo, snapshot: &Id) -> Asked<Option<SnapshotInfo>> {
        match self.snapshots(of).await {
            Ok(all) => Ok(all.into_iter().find(|one| Some(&one.name) == snapshot.snapshot.as_ref())),
            Err(e) if e.is("not_found") || e.is("removed") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Tells whether another host owns the volume. It can be opened here when that host has let go.
    pub async fn owned_elsewhere(&self, info: &VolumeInfo) -> Asked<bool> {
        match (&info.owner_id, info.state.as_str()) {
            (Some(owner), "owned") => Ok(*owner != self.known().await?.host_id),
            _ => Ok(false),
        }
    }

    // ---- changing ----

    pub async fn create(&self, volume: &Id, size: u64, settings: &[String]) -> Asked<VolumeInfo> {
        let args =
            json!({ "path": volume.to_string(), "size": size, "settings": settings, "if_absent": true });
        self.call("volume-create", args, CHANGE).await
    }

    /// Makes a clone; `of` is the volume whose snapshot `from` is. A volume that exists must be a clone of
    /// this very snapshot, with this size and these settings.
    pub async fn clone(
        &self,
        of: &VolumeInfo,
        from: &Id,
        to: &Id,
        size: u64,
        settings: &[String],
    ) -> Asked<VolumeInfo> {
        let (from, to) = (from.to_string(), to.to_string());
        let args = json!({ "from": from, "to": to, "size": size, "settings": settings, "if_absent": true });
        self.call_owner(of, "clone", args, CHANGE).await
    }

    pub async fn set(&self, info: &VolumeInfo, assignments: &[String]) -> Asked<()> {
        let args = json!({ "path": info.path, "assignments": assignments });
        self.call_owner::<Value>(info, "volume-set", args, CHANGE).await.map(drop)
    }

    /// Changes a volume's size. `disconnect`: clients are hung up on, and connect again.
    pub async fn resize(&self, info: &VolumeInfo, size: u64, disconnect: bool) -> Asked<()> {
        let args = json!({ "path": info.path, "size": size, "disconnect": disconnect });
        self.call::<Value>("volume-resize", args, CHANGE).await.map(drop)
    }

    pub async fn rename(&self, info: &VolumeInfo, to: &Id) -> Asked<()> {
        let args = json!({ "path": info.path, "to": to.volume });
        self.call_owner::<Value>(info, "volume-rename", args, CHANGE).await.map(drop)
    }

    /// Moves a volume into the trash, where the pool has one and the call does not say `now`; else removes
    /// it. Its snapshots go with it.
    pub async fn remove(&self, info: &VolumeInfo, now: bool) -> Asked<()> {
        let mode = if now { "now" } else { "trash" };
        let args = json!({ "path": info.path, "if_exists": true, "mode": mode, "with_snapshots": true });
        self.call_owner::<Value>(info, "volume-remove", args, CHANGE).await.map(drop)
    }

    /// Takes a snapshot. Returns when it stands, which does not mean that it is in the pool.
    pub async fn take_snapshot(&self, info: &VolumeInfo, snapshot: &Id) -> Asked<()> {
        let args = json!({ "paths": [snapshot.to_string()], "no_wait": true, "if_absent": true });
        self.call_owner::<Value>(info, "snapshot-create", args, CHANGE).await.map(drop)
    }

    /// Waits until a snapshot is in the pool.
    pub async fn promise_snapshot(&self, info: &VolumeInfo, snapshot: &Id) -> Asked<()> {
        let args = json!({ "paths": [snapshot.to_string()] });
        self.call_owner::<Value>(info, "snapshot-promise", args, CHANGE).await.map(drop)
    }

    pub async fn remove_snapshot(&self, info: &VolumeInfo, snapshot: &Id, now: bool) -> Asked<()> {
        let mode = if now { "now" } else { "trash" };
        let args = json!({ "path": snapshot.to_string(), "if_exists": true, "mode": mode });
        self.call_owner::<Value>(info, "snapshot-remove", args, CHANGE).await.map(drop)
    }

    /// Releases a volume, so that any host may open it.
    pub async fn release(&self, volume: &Id) -> Asked<()> {
        let until = host::now() + UNUSED_WITHIN;
        loop {
            let args = json!({ "path": volume.parent().to_string() });
            match self.call::<Value>("volume-release", args, CHANGE).await {
                Err(e) if e.is("owned") && host::now() < until => {
                    host::sleep(Duration::from_millis(200)).await
                }
                done => return done.map(drop),
            }
        }
    }

    /// Releases a volume that was open for a call alone, so that any host may have it at once and not in a
    /// minute.
    pub async fn let_go(&self, before: &VolumeInfo) {
        if before.open_here {
            return;
        }
        let args = json!({ "path": before.path });
        if let Err(e) = self.call::<Value>("volume-release", args, CHANGE).await {
            tracing::debug!(volume = before.path, error = e.message, "not released yet");
        }
    }
}

/// Asks one request over one connection.
async fn ask<T: DeserializeOwned>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    verb: &str,
    args: Value,
    time: Duration,
) -> Asked<T> {
    let asked = host::within(time, exchange(stream, verb, args)).await;
    let (status, body) = asked.unwrap_or_else(|| {
        Err(Refusal::new("timeout", format!("{verb}: no answer within {} s", time.as_secs())))
    })?;
    if !status.is_success() {
        let odd = || Refusal::new("internal", format!("{verb}: status {status}"));
        return Err(serde_json::from_slice(&body).unwrap_or_else(|_| odd()));
    }
    let value =
        serde_json::from_slice::<Answer>(&body).and_then(|answer| serde_json::from_value(answer.value));
    value.map_err(|e| Refusal::new("internal", format!("{verb}: the daemon's answer is not understood: {e}")))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    verb: &str,
    args: Value,
) -> Asked<(http::StatusCode, Bytes)> {
    let broken = |e: &dyn std::fmt::Display| Refusal::new("closed", format!("{verb}: {e}"));
    let body = if args.is_null() { Bytes::new() } else { Bytes::from(args.to_string()) };
    let request = Request::post(format!("/v1/{verb}"))
        .header(http::header::HOST, "windlass")
        .body(Full::new(body))
        .map_err(|e| broken(&e))?;
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let asking = async {
        let response = requests.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| broken(&e))?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven here, so that a caller who gives up hangs up.
    match futures::future::select(std::pin::pin!(asking), std::pin::pin!(connection)).await {
        futures::future::Either::Left((answer, _)) => answer,
        futures::future::Either::Right((_, asking)) => asking.await,
    }
}

/// Tells whether a name is fit to be used as a host's. Names come from the pool, and one that a program would
/// take for an option is none.
fn is_host(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(letter) && name.chars().all(|c| letter(c) || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_codes_of_csi() {
        let code = |kind: &str| Status::from(Refusal::new(kind, "why")).code;
        assert_eq!(code("not_found"), Code::NotFound);
        assert_eq!(code("owned"), Code::FailedPrecondition);
        assert_eq!(code("no_space"), Code::ResourceExhausted);
        assert_eq!(code("closed"), Code::Unavailable);
        assert_eq!(code("of another version"), Code::Internal);
    }

    #[test]
    fn lists_have_volumes_of_which_little_is_known() {
        let list = r#"[{"path":"p/a","state":"unknown"},{"path":"p/b","state":"released","size":4096,"owner":null,
            "owner_id":"1f","open_here":false,"clients":0,"template":true,"mapped_bytes":0,"snapshots":2,"origin":"p/a@s",
            "trouble":null,"flush":"local"}]"#;
        let list: Vec<VolumeInfo> = serde_json::from_str(list).unwrap();
        assert_eq!((list[0].size, list[0].state.as_str()), (0, "unknown"));
        assert!(list[1].template && list[1].origin.as_deref() == Some("p/a@s"));
    }

    #[test]
    fn odd_host_names_are_none() {
        assert!(is_host("node-1.example.org"));
        for odd in ["", "-oProxyCommand=x", "a b", "a;b", "$(x)"] {
            assert!(!is_host(odd), "{odd}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon { home: dir.path().to_owned(), reach: None };
        let refused = daemon.ping().await.unwrap_err();
        assert!(refused.is("closed") && refused.message.contains("does not answer at"), "{refused:?}");
    }
}
