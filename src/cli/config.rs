//! `windlass config`: looks at windlass.toml, shows what holds and where it comes from, prints an example.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::daemon_user::{DaemonUser, Holds};
use super::{Global, exit_code, output, reach_engine};
use crate::daemon::config::{Origin, Row, Store, Unusable, Written, Wrong, bare_or_quoted, example};
use crate::daemon::{Config, StateDir, check_private, check_private_to_group, unknown_accounts};
use windlass_base::rt::RealDisk;
use windlass_base::{Accounts, Kind, Result};
use windlass_fs::MountOptions;
use windlass_nbd::Address;
use windlass_store::{Sse, StoreSpec, StoreUrl, passwd_keys};

#[derive(clap::Subcommand, Debug)]
pub enum ConfigCommand {
    /// Say all that is wrong with the file, by line; exit code 2 when anything is
    Check {
        /// The file (default: that of --config, else windlass.toml in the state folder)
        file: Option<PathBuf>,
    },
    /// Show each value that holds, as TOML
    Show {
        /// And where it comes from: the file's line, the environment, a flag, or nobody
        #[arg(long)]
        origin: bool,
    },
    /// Print a file with every setting and what it means, none of them set
    Example,
}

pub async fn run(global: &Global, command: ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check { file } => {
            let global = Global { config: file.or(global.config.clone()), ..global.clone() };
            check(&global).await
        }
        ConfigCommand::Show { origin } => show(global, origin).await,
        ConfigCommand::Example => {
            output::line(example().trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Result of a look at the file and at this host.
pub struct Findings {
    pub file: PathBuf,
    pub wrong: Vec<Wrong>,
    /// Remarks on settings that need no mending and may still surprise.
    pub notes: Vec<String>,
}

/// Looks at windlass.toml and at this host.
///
/// # Errors
/// The file can't be read at all.
pub async fn findings(global: &Global) -> Result<Findings> {
    let (file, named) = reach_engine::config_file(global)?;
    let (wrong, notes) = match Config::read(&*RealDisk::start(), &file, named).await {
        Ok(config) => {
            let user = DaemonUser::of(&StateDir::locate()?);
            (on_this_host(&config, &user).await, notes(&config, &file))
        }
        Err(Unusable::Content(wrong)) => (wrong, Vec::new()),
        Err(Unusable::File(error)) => return Err(error),
    };
    Ok(Findings { file, wrong, notes })
}

async fn check(global: &Global) -> Result<ExitCode> {
    let Findings { file, wrong, notes } = findings(global).await?;
    let shown = file.display();
    if global.json {
        let one = |w: &Wrong| json!({"line": w.line, "key": w.key, "message": w.what});
        let wrong: Vec<_> = wrong.iter().map(one).collect();
        output::line(&json!({"file": shown.to_string(), "wrong": wrong, "notes": notes}).to_string());
    } else {
        wrong.iter().for_each(|wrong| eprintln!("windlass: {shown}, {wrong}"));
        notes.iter().for_each(|note| output::line(note));
    }
    if wrong.is_empty() {
        if !global.json {
            output::line(&format!("{shown}: nothing is wrong"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(exit_code(Kind::Usage)))
}

/// Collects remarks on settings that need no mending and may still surprise.
fn notes(config: &Config, file: &Path) -> Vec<String> {
    let shown = file.display();
    if config.path.is_none() {
        return vec![format!("{shown} is not there: all is as it is by default")];
    }
    let used = |name: &str| {
        let names = |given: &String| given.split(",zone=").next() == Some(name);
        let pools = config.pool.values().filter_map(|pool| pool.stores.as_ref());
        let mounts = config.mount.values().filter_map(|mount| mount.url.as_ref());
        pools.flat_map(|stores| stores.values()).any(names) || mounts.map(|url| &url.value).any(names)
    };
    let unused = config.store.iter().filter(|(name, _)| !used(name));
    let sentence = |(name, store): (&String, &Written<Store>)| {
        let name = bare_or_quoted(name);
        format!("{shown}, line {}: no pool and no mount of this file uses store.{name}", store.line)
    };
    unused.map(sentence).collect()
}

/// Finds what is wrong that only a look at this host can tell.
async fn on_this_host(config: &Config, user: &DaemonUser) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for (name, store) in &config.store {
        if let Ok(spec) = config.store_url(name).and_then(|url| url.parse::<StoreSpec>()) {
            let of = format!("store.{}", bare_or_quoted(name));
            look_at_store(&mut wrong, &of, store, (&spec.url, user)).await;
        }
    }
    wrong.extend(unusable_buckets(config));
    wrong.extend(mirror_without_key(config));
    let accounts = unknown_accounts(config, &Accounts::load()).into_iter();
    wrong.extend(accounts.map(|(key, line, what)| Wrong { line, key: key.to_owned(), what }));
    for (dir, mount) in config.mount.iter().filter(|(dir, _)| is_no_folder(dir)) {
        let what = format!("there is no folder {dir}: make it, for the bucket to be mounted there");
        wrong.push(Wrong { line: mount.line, key: format!("mount.{}", bare_or_quoted(dir)), what });
    }
    for (key, file, opens) in named_files(config) {
        let what = file_trouble(Path::new(file.as_str()), opens, user);
        wrong.extend(what.map(|what| Wrong { line: file.line, key, what }));
    }
    let nbd = config.top.nbd.iter().flat_map(|list| list.values().map(|at| ("nbd", list.line, &at.address)));
    let metrics =
        config.top.metrics.iter().flat_map(|list| list.values().map(|at| ("metrics", list.line, at)));
    for (key, line, address) in nbd.chain(metrics) {
        if let Address::Unix(path) = address
            && let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir())
        {
            let what = format!("there is no folder {} for the socket: make it", folder.display());
            wrong.push(Wrong { line, key: key.to_owned(), what });
        }
    }
    wrong.sort();
    wrong
}

/// Finds buckets whose names no server takes.
fn unusable_buckets(config: &Config) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let mut look = |line: usize, key: String, url: &str, options: &str| {
        let Ok(StoreSpec { url: StoreUrl::S3(mut place), .. }) = url.parse::<StoreSpec>() else { return };
        let of_store = MountOptions::parse(options).map(|(_, of_store)| of_store).unwrap_or_default();
        // An option that is wrong is told with the options.
        of_store.iter().for_each(|(name, value)| drop(place.set(name, value)));
        wrong.extend(place.bucket_trouble().map(|what| Wrong { line, key, what }));
    };
    for (name, store) in &config.store {
        if let (Some(url), Ok(whole)) = (&store.url, config.store_url(name)) {
            look(url.line, format!("store.{}.url", bare_or_quoted(name)), &whole, "");
        }
    }
    // A store that is given by name is told with its own section.
    for (name, pool) in &config.pool {
        if let Some(stores) = &pool.stores {
            let key = || format!("pool.{}.stores", bare_or_quoted(name));
            stores.values().for_each(|url| look(stores.line, key(), url, ""));
        }
    }
    for (dir, mount) in &config.mount {
        let options =
            mount.options.iter().flat_map(|list| list.values().cloned()).collect::<Vec<_>>().join(",");
        if let Some(url) = &mount.url {
            look(url.line, format!("mount.{}.url", bare_or_quoted(dir)), url, &options);
        }
    }
    wrong
}

/// Finds a mirror without the secret by which its hosts know each other. A flag may name the secret, so that
/// the file alone can't tell.
fn mirror_without_key(config: &Config) -> Option<Wrong> {
    let top = &config.top;
    let set = [("mirror", &top.mirror), ("mirror_listen", &top.mirror_listen)];
    let (key, at) = set.into_iter().find_map(|(key, at)| Some((key, at.as_ref()?)))?;
    top.mirror_key.is_none().then(|| Wrong {
        line: at.line,
        key: key.to_owned(),
        what: "needs a secret that both hosts have: add `mirror_key`, or give `serve --mirror-key`"
            .to_owned(),
    })
}

/// The users that a file's mode may let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opens {
    Owner,
    Group,
    All,
}

/// Returns files with keys, passphrases and certificates, beside those of stores.
fn named_files(config: &Config) -> Vec<(String, &Written<String>, Opens)> {
    let tls = &config.tls;
    let mut all = vec![
        ("mirror_key".to_owned(), &config.top.mirror_key, Opens::Group),
        ("metrics_users".to_owned(), &config.top.metrics_users, Opens::Group),
        ("tls.cert".to_owned(), &tls.cert, Opens::All),
        ("tls.key".to_owned(), &tls.key, Opens::Group),
        ("tls.client_ca".to_owned(), &tls.client_ca, Opens::All),
    ];
    for (name, pool) in &config.pool {
        all.push((format!("pool.{}.key_file", bare_or_quoted(name)), &pool.key_file, Opens::Group));
    }
    for (path, volume) in &config.volume {
        let of = format!("volume.{}", bare_or_quoted(path));
        all.push((format!("{of}.key_file"), &volume.key_file, Opens::Group));
        all.push((format!("{of}.passphrase_file"), &volume.passphrase_file, Opens::Owner));
    }
    all.into_iter().filter_map(|(key, file, opens)| Some((key, file.as_ref()?, opens))).collect()
}

/// Returns the reason why the daemon can't use a file, or should not.
fn file_trouble(file: &Path, opens: Opens, user: &DaemonUser) -> Option<String> {
    let none = match std::fs::metadata(file) {
        Ok(meta) => meta.is_dir(),
        // What this process may not look at tells nothing of what the daemon may.
        Err(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
    };
    if none {
        return Some(format!("{} is no file here: correct the path, or put it there", file.display()));
    }
    let open = match opens {
        Opens::Owner => check_private(file),
        Opens::Group => check_private_to_group(file),
        Opens::All => Ok(()),
    };
    let holds = if opens == Opens::All { Holds::Anything } else { Holds::Secret };
    user.unread(file, holds).or_else(|| open.err().map(|why| why.to_string()))
}

/// Checks the folders and files that a store names, and who may read its keys.
async fn look_at_store(
    wrong: &mut Vec<Wrong>,
    of: &str,
    store: &Written<Store>,
    (url, user): (&StoreUrl, &DaemonUser),
) {
    let line_of = |it: &Option<Written<String>>| it.as_ref().map_or(store.line, |it| it.line);
    let mut tell = |line, key: &str, what| wrong.push(Wrong { line, key: format!("{of}.{key}"), what });
    let place = match url {
        StoreUrl::S3(place) => place,
        StoreUrl::File { dir } if !dir.is_dir() => {
            let what = format!("{} is no folder here: make it, or mount what holds it", dir.display());
            return tell(line_of(&store.url), "url", what);
        }
        _ => return,
    };
    if let Some(file) = &place.passwd_file {
        let wrong = passwd_keys(file, &place.bucket).await.err().map(|why| why.to_string());
        if let Some(why) = wrong.or_else(|| user.unread(file, Holds::Secret)) {
            tell(line_of(&store.passwd_file), "passwd_file", why);
        }
    }
    let sealed = match &place.sse {
        Some(Sse::Customer(path)) => Some(path),
        _ => None,
    };
    let files = [("ca", place.ca.as_ref(), line_of(&store.ca)), ("sse", sealed, line_of(&store.sse))];
    for (key, path, line) in files {
        match path {
            Some(path) if !path.is_file() => {
                tell(line, key, format!("{} is no file here: give the path of one", path.display()));
            }
            Some(path) => {
                let holds = if key == "ca" { Holds::Anything } else { Holds::Secret };
                user.unread(path, holds).into_iter().for_each(|why| tell(line, key, why));
            }
            None => {}
        }
    }
}

/// Tells whether the path is known to be no folder. One that can't be looked at may be a mount that hangs:
/// that is no error of the file.
fn is_no_folder(dir: &str) -> bool {
    match std::fs::metadata(dir) {
        Ok(meta) => !meta.is_dir(),
        Err(error) => {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
    }
}

async fn show(global: &Global, origin: bool) -> Result<ExitCode> {
    let config = reach_engine::config(global).await?;
    let rows = config.effective(&StateDir::locate()?, global.memory)?;
    let path = config.path.as_ref().map(|path| path.display().to_string());
    if global.json {
        let all: Vec<_> = rows.iter().map(|row| as_json(row, path.as_deref())).collect();
        output::line(&serde_json::Value::Array(all).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let mut section = "";
    for row in &rows {
        if row.section != section {
            section = &row.section;
            output::line(&format!("\n[{section}]"));
        }
        let set = format!("{} = {}", row.name, row.value);
        match (origin, &row.origin, &path) {
            (false, ..) => output::line(&set),
            (true, Origin::File(line), Some(path)) => {
                output::line(&format!("{set:40} # {path}, line {line}"))
            }
            (true, origin, _) => output::line(&format!("{set:40} # {origin}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(row: &Row, path: Option<&str>) -> serde_json::Value {
    let value = format!("it = {}", row.value).parse::<toml::Table>().ok().and_then(|mut t| t.remove("it"));
    let (origin, name, line) = match row.origin {
        Origin::Default => ("default", None, None),
        Origin::File(line) => ("file", path, Some(line)),
        Origin::Environment(name) => ("environment", Some(name), None),
        Origin::Flag(name) => ("flag", Some(name), None),
    };
    json!({"key": row.key(), "value": value, "origin": origin, "name": name, "line": line})
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // files as a user makes them
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn what_could_never_work_on_this_host_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let toml = dir.path().join("windlass.toml");
        let text = "mirror = '10.0.0.2:10810'\n\
            nbd = ['unix:/n.sock,owner=no-such-user,group=no-such-group']\n\
            allow = [{ user = 'no-such-user', exports = ['*'] }]\n\
            [store.a]\nurl = 's3://ab/x'\n\
            [store.b]\nurl = 's3://My_Bucket'\n\
            [store.c]\nurl = 's3://My_Bucket'\nendpoint = 'http://h:1'\n\
            [store.d]\nurl = 's3://my-bucket.of.2026/x'\n\
            [mount.'/tmp']\nurl = 's3://10.0.0.2/x'\n\
            [mount.'/usr']\nurl = 's3://My_Bucket/x'\noptions = ['ro,endpoint=http://h:1']\n";
        std::fs::write(&toml, text).unwrap();
        let config = Config::read(&*RealDisk::start(), &toml, true).await.unwrap();
        let wrong = on_this_host(&config, &DaemonUser::of(&StateDir::at(dir.path()))).await;
        let told: Vec<_> = wrong.iter().map(|it| (it.line, it.key.as_str())).collect();
        let wanted = [
            (1, "mirror"),
            (2, "nbd"),
            (2, "nbd"),
            (3, "allow"),
            (5, "store.a.url"),
            (7, "store.b.url"),
            (14, "mount.\"/tmp\".url"),
        ];
        assert_eq!(told, wanted, "{wrong:#?}");
        for (at, cure) in
            [(0, "`mirror_key`"), (1, "correct the name"), (4, "fewer than 3"), (5, "us-east-1")]
        {
            assert!(wrong[at].what.contains(cure), "{}", wrong[at]);
        }
    }

    #[tokio::test]
    async fn a_key_that_others_read_and_one_that_is_missing_are_told_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let [key, toml] = ["vm1.key", "windlass.toml"].map(|name| dir.path().join(name));
        std::fs::write(&key, [7; 32]).unwrap();
        let key = key.display().to_string();
        let text = format!(
            "[tls]\ncert = '{key}'\nkey = '{key}'\n[pool.tank]\nkey_file = '{key}'\n[volume.'tank/a']\nkey_file = '{key}'\n\
             [volume.'tank/b']\npassphrase_file = '{key}.none'\n"
        );
        std::fs::write(&toml, text).unwrap();
        let config = Config::read(&*RealDisk::start(), &toml, true).await.unwrap();
        let user = DaemonUser::of(&StateDir::at(dir.path()));
        let told = |mode| {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let (config, user) = (&config, &user);
            async move {
                let wrong = on_this_host(config, user).await;
                wrong.into_iter().map(|it| (it.line, it.key, it.what)).collect::<Vec<_>>()
            }
        };
        let fine = told(0o600).await;
        assert_eq!(fine.len(), 1, "{fine:?}");
        assert_eq!((fine[0].0, fine[0].1.as_str()), (9, "volume.\"tank/b\".passphrase_file"));
        assert!(fine[0].2.contains("is no file here"), "{fine:?}");
        let lines = |told: &[(usize, String, String)]| told.iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(lines(&told(0o640).await), [9], "the group may have keys");
        let open = told(0o644).await;
        assert_eq!(lines(&open), [3, 5, 7, 9]);
        assert!(open[1].2.contains(&format!("mode 644, so others may read or change it: chmod 600 {key}")));
    }
}
