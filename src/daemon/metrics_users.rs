//! Who may read the metrics and the page, where a password is asked for: a file of lines `USER:HASH`, as `htpasswd -B` makes
//! it, and HTTP's basic authentication (RFC 7617). The file is read at each request, so that who is taken out of it is out.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use parking_lot::Mutex;

use super::config::Config;
use super::key_places::check_private_to_group;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Budget, Error, Kind, Result, ResultExt as _};

/// Largest file that is read, in bytes.
const FILE_MAX: usize = 64 << 10;
/// Highest cost of a hash. A higher one would keep a processor busy for seconds, for whoever asks.
const COST_MAX: u32 = 14;
/// Number of right passwords that are kept, the newest: they are not tried again.
const KNOWN_MAX: usize = 16;

/// Users who may read metrics and the page.
#[derive(Debug)]
pub struct MetricsUsers {
    rt: Rt,
    disk: Arc<dyn Disk>,
    file: PathBuf,
    /// Budget of one: only one password is tried at a time, so that who guesses keeps one processor busy, not all.
    tried: Budget,
    known: Mutex<VecDeque<blake3::Hash>>,
}

/// A line of the file.
struct User {
    name: String,
    hash: String,
}

impl MetricsUsers {
    /// Reads the file that the configuration names. `None`: no password is asked for.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `Refused`: the file is not as it should be.
    pub async fn of(rt: &Rt, disk: &Arc<dyn Disk>, config: &Config) -> Result<Option<Arc<MetricsUsers>>> {
        let Some(file) = &config.top.metrics_users else { return Ok(None) };
        let file = PathBuf::from(&file.value);
        let read = async {
            check_private_to_group(&file)?;
            users(&**disk, &file).await
        };
        read.await.map_err(|e| e.context("metrics_users"))?;
        let (rt, disk) = (rt.clone(), disk.clone());
        Ok(Some(Arc::new(MetricsUsers { rt, disk, file, tried: Budget::new(1), known: Mutex::default() })))
    }

    /// Tells whether the value of a request's `Authorization` is that of somebody in the file. Fails if the file
    /// can't be read.
    pub async fn admits(&self, authorization: Option<&str>) -> Result<bool> {
        let Some((name, password)) = authorization.and_then(credentials) else { return Ok(false) };
        let all = users(&*self.disk, &self.file).await?;
        // For a name that is not there as much is done as for one that is, so that time doesn't tell which are.
        let Some(user) = all.iter().find(|user| user.name == name).or(all.first()) else { return Ok(false) };
        let is_there = user.name == name;
        let mark = blake3::hash(format!("{}\0{password}", user.hash).as_bytes());
        if is_there && self.known.lock().contains(&mark) {
            return Ok(true);
        }
        let _turn = self.tried.take(1).await;
        let hash = user.hash.clone();
        let right = self.rt.cpu(move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        if right && is_there {
            let mut known = self.known.lock();
            known.truncate(KNOWN_MAX - 1);
            known.push_front(mark);
        }
        Ok(right && is_there)
    }
}

/// Returns name and password of `Basic …`.
fn credentials(authorization: &str) -> Option<(String, String)> {
    let (scheme, coded) = authorization.trim().split_once(' ')?;
    let text = BASE64_STANDARD.decode(coded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(text).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

async fn users(disk: &dyn Disk, file: &Path) -> Result<Vec<User>> {
    let text = disk.read(file, FILE_MAX).await.context(|| format!("reading {}", file.display()))?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let users = lines.map(|(at, line)| user(line).map_err(|e| e.context(format!("line {}", at + 1))));
    let users = users.collect::<Result<Vec<_>>>().map_err(|e| e.context(file.display()))?;
    match users.is_empty() {
        true => Err(Error::new(Kind::Invalid, format!("{} names nobody: {MAKES_ONE}", file.display()))),
        false => Ok(users),
    }
}

/// Sentence that tells how such a file is made.
const MAKES_ONE: &str = "make it by `htpasswd -cB FILE USER`";

fn user(line: &str) -> Result<User> {
    let invalid = |why: &str| Error::new(Kind::Invalid, format!("{why}: {MAKES_ONE}"));
    let (name, hash) = line.split_once(':').ok_or_else(|| invalid("it is not USER:HASH"))?;
    let parts = HashParts::from_str(hash).map_err(|_| invalid("its hash is not one of bcrypt"))?;
    match parts.get_cost() > COST_MAX {
        true => Err(invalid(&format!("its hash has a cost of more than {COST_MAX}"))),
        false => Ok(User { name: name.to_owned(), hash: hash.to_owned() }),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a user's file
mod tests {
    use super::super::config::Written;
    use super::*;
    use windlass_base::rt::{RealDisk, RealRuntime};

    /// Returns the users of a file with these lines.
    async fn of(lines: &str) -> (tempfile::TempDir, Result<Option<Arc<MetricsUsers>>>) {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        std::fs::write(&file, lines).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = Config::default();
        config.top.metrics_users = Some(Written { value: file.display().to_string(), line: 1 });
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start() as Arc<dyn Disk>);
        let users = MetricsUsers::of(&rt, &disk, &config).await;
        (dir, users)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[tokio::test]
    async fn who_stands_in_the_file_is_let_in_by_the_password_as_long_as_it_does() {
        let hash = bcrypt::hash("s3:cret", 4).unwrap();
        let (dir, users) = of(&format!("# people\nann:{hash}\n")).await;
        let users = users.unwrap().unwrap();
        for (said, admitted) in [
            (Some(basic("ann:s3:cret")), true),
            (Some(basic("ann:s3:cret").replace("Basic", "basic")), true),
            (Some(basic("ann:S3:cret")), false),
            (Some(basic("bob:s3:cret")), false),
            (Some(basic("ann")), false),
            (Some("Bearer x".into()), false),
            (Some("Basic !".into()), false),
            (None, false),
        ] {
            assert_eq!(users.admits(said.as_deref()).await.unwrap(), admitted, "{said:?}");
        }
        let other = bcrypt::hash("other", 4).unwrap();
        std::fs::write(dir.path().join("users"), format!("ann:{other}\n")).unwrap();
        assert!(!users.admits(Some(&basic("ann:s3:cret"))).await.unwrap(), "the password was changed");
        assert!(users.admits(Some(&basic("ann:other"))).await.unwrap());
        std::fs::remove_file(dir.path().join("users")).unwrap();
        assert!(users.admits(Some(&basic("ann:other"))).await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_lets_nobody_in_is_refused_at_the_start() {
        let dear = bcrypt::hash("x", 4).unwrap().replace("$04$", "$31$");
        for lines in ["", "# nobody\n", "ann\n", "ann:plain\n", "ann:$apr1$x$y\n", &format!("ann:{dear}\n")] {
            let why = of(lines).await.1.unwrap_err();
            assert!(why.is(Kind::Invalid) && why.to_string().contains("htpasswd -cB"), "{lines:?}: {why}");
        }
    }
}
