//! Where the keyring's contents outlive a process: a file of the state folder, for keys that a command asked to keep, and the
//! folder in which systemd gives a unit its credentials. Both are read when an engine starts and on each SIGHUP.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::state_dir::HostContext;
use windlass_base::rt::Disk;
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_store::{AccessKeys, KEYS_TEXT_MAX, KeySource, KeyTarget, keyring};

const FORMAT: u32 = 1;
/// Largest file of kept keys, in bytes.
const FILE_MAX: usize = 1 << 20;
/// Variable by which systemd tells a unit where its credentials are.
const SYSTEMD: &str = "CREDENTIALS_DIRECTORY";
/// Prefix of a credential's file of systemd, before the name of a store of windlass.toml or of a profile.
const OF_STORE: &str = "store.";
const OF_PROFILE: &str = "profile.";

type Given = BTreeMap<KeyTarget, AccessKeys>;

#[derive(Serialize, Deserialize)]
pub(super) struct KeptFile {
    format: u32,
    keys: BTreeMap<String, AccessKeys>,
}

/// Parses what a user calls the stores that keys are for: `profile:NAME`, a URL, or the name of a store of
/// windlass.toml.
pub fn target(config: &Config, text: &str) -> Result<KeyTarget> {
    if text.contains(':') {
        return text.parse();
    }
    let spec: windlass_store::StoreSpec = config.store_url(text)?.parse()?;
    spec.url.to_string().parse()
}

/// Puts into the keyring what the state folder and systemd have. What can't be read is told in the log, and leaves the keyring
/// as it was: an engine that starts without some keys still serves the stores that need none of them.
pub async fn load(host_context: &HostContext, config: &Config) {
    let HostContext { disk, home, .. } = host_context;
    match read_kept(&**disk, &home.credentials()).await {
        Ok(kept) => keyring().replace(KeySource::Kept, kept),
        Err(error) => tracing::error!("kept credentials are not used: {error}"),
    }
    if let Some(dir) = std::env::var_os(SYSTEMD).filter(|dir| !dir.is_empty()) {
        let given = read_systemd(&**disk, &PathBuf::from(dir), config).await;
        keyring().replace(KeySource::Systemd, given);
    }
    // Files of profiles and of s3fs may have changed too.
    keyring().renew();
}

/// Returns the keys that a command of this host asked to keep, for a process that has no engine.
pub async fn read_kept(disk: &dyn Disk, path: &Path) -> Result<Given> {
    let mode = match std::fs::metadata(path) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Given::new()),
        Err(e) => return Err(Error::from(e).context(format!("reading {}", path.display()))),
    };
    if mode & 0o077 != 0 {
        let shown = path.display();
        let why = format!("{shown} has mode {mode:03o}, so others may read or change it: chmod 600 {shown}");
        return Err(Error::new(Kind::Refused, why));
    }
    let bytes = disk.read(path, FILE_MAX).await.context(|| format!("reading {}", path.display()))?;
    // What the decoder says could repeat a secret.
    let damaged = || {
        let why = format!("{} is damaged: remove it, and set the credentials anew", path.display());
        Error::new(Kind::Invalid, why)
    };
    let file: KeptFile = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    if file.format != FORMAT {
        let why =
            format!("{} has format {}, not {FORMAT}: a newer windlass wrote it", path.display(), file.format);
        return Err(Error::new(Kind::Unsupported, why));
    }
    file.keys.into_iter().map(|(target, keys)| Ok((target.parse()?, keys))).collect()
}

/// Writes all kept keys; the file is its owner's alone.
pub async fn keep(host_context: &HostContext, keys: &Given) -> Result<()> {
    let path = host_context.home.credentials();
    let keys = keys.iter().map(|(target, keys)| (target.to_string(), keys.clone())).collect();
    let text = serde_json::to_vec_pretty(&KeptFile { format: FORMAT, keys });
    let text = text.map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let written = host_context.disk.write_atomic(&path, Bytes::from(text)).await;
    written.context(|| format!("writing {}", path.display()))
}

/// Reads `store.NAME` and `profile.NAME`, each with keys in any form that a command takes. Other credentials are not
/// for us.
async fn read_systemd(disk: &dyn Disk, dir: &Path, config: &Config) -> Given {
    let names = disk.list(dir).await.unwrap_or_default();
    let mut given = Given::new();
    for name in names.iter().filter(|name| name.starts_with(OF_STORE) || name.starts_with(OF_PROFILE)) {
        let path = dir.join(name);
        let text = match name.strip_prefix(OF_PROFILE) {
            Some(profile) => format!("profile:{profile}"),
            None => name.trim_start_matches(OF_STORE).to_owned(),
        };
        let read = async {
            let target = target(config, &text)?;
            let bytes = disk.read(&path, KEYS_TEXT_MAX).await?;
            let keys =
                std::str::from_utf8(&bytes).map_err(|_| Error::new(Kind::Invalid, "it is not UTF-8"))?;
            Ok::<_, Error>((target, AccessKeys::parse(keys)?))
        };
        match read.await {
            Ok((target, keys)) => drop(given.insert(target, keys)),
            Err(error) => tracing::error!("systemd's credential {name} is not used: {error}"),
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::state_dir::StateDir;
    use windlass_base::rt::{RealDisk, RealRuntime, Rt};

    async fn host(dir: &Path) -> HostContext {
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let home = StateDir::at(dir);
        let host = home.host(&rt, &*disk).await.unwrap();
        HostContext { rt, disk, home, host }
    }

    fn keys(id: &str) -> AccessKeys {
        AccessKeys { id: id.into(), secret: "HUSH".into(), token: Some("HUSH".into()), expires_ms: Some(5) }
    }

    #[tokio::test]
    async fn what_is_kept_is_the_owners_alone_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path()).await;
        let path = host.home.credentials();
        assert!(read_kept(&*host.disk, &path).await.unwrap().is_empty());
        let all = Given::from(
            [("profile:p", "A"), ("s3://b/x?endpoint=http://h", "B")]
                .map(|(target, id)| (target.parse().unwrap(), keys(id))),
        );
        keep(&host, &all).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_kept(&*host.disk, &path).await.unwrap(), all);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let why = read_kept(&*host.disk, &path).await.unwrap_err().to_string();
        assert!(why.contains("mode 640") && why.contains("chmod 600"), "{why}");
        for text in
            [r#"{"format": 1, "keys": {"profile:p": "HUSH"}}"#, r#"{"format": 9, "keys": {}}"#, "HUSH"]
        {
            host.disk.write_atomic(&path, Bytes::from_static(text.as_bytes())).await.unwrap();
            let why = read_kept(&*host.disk, &path).await.unwrap_err().to_string();
            assert!(!why.contains("HUSH") && why.contains("credentials.json"), "{why}");
        }
    }

    #[tokio::test]
    async fn systemd_gives_keys_by_the_names_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::start();
        for (name, text) in [
            ("store.fast", "A:HUSH"),
            ("profile.east", "[east]\naws_access_key_id = B\naws_secret_access_key = HUSH\n"),
            ("store.none", "C:HUSH"),
            ("profile.bad", "HUSH"),
            ("tls-key", "HUSH"),
        ] {
            disk.write_atomic(&dir.path().join(name), Bytes::from_static(text.as_bytes())).await.unwrap();
        }
        let config =
            Config::parse("[store.fast]\nurl = \"s3://b/x\"\nendpoint = \"http://h\"\nregion = \"r\"\n")
                .unwrap();
        let given = read_systemd(&*disk, dir.path(), &config).await;
        let shown: Vec<String> = given.iter().map(|(target, keys)| format!("{target} {}", keys.id)).collect();
        assert_eq!(shown, ["profile:east B", "s3://b/x?endpoint=http://h A"]);
    }
}
