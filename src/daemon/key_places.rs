//! Where users keep the keys of encrypted volumes: a file, a file with a passphrase, a command that prints one. What is read
//! is a secret, and goes nowhere but into the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use zeroize::{Zeroize as _, Zeroizing};

use super::config::Config;
use super::shell_command::ShellCommand;
use windlass_base::rt::{Disk, Rt};
use windlass_base::{Error, Kind, Name, Result};
use windlass_keys::{KeyFinder, Offered, Passphrase, PoolKey, Secret};

/// Most bytes that are read of a key's file or command.
const KEY_MAX: usize = 8192;

/// Place of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPlace {
    KeyFile(PathBuf),
    PassphraseFile(PathBuf),
    /// The key is what this command prints, run by `sh -c`.
    Command(String),
}

impl KeyPlace {
    /// Returns the one place that is given, or `None` if no key is given. Fails with `Usage` if more than one is.
    pub fn of(
        key_file: Option<&Path>,
        passphrase_file: Option<&Path>,
        command: Option<&str>,
    ) -> Result<Option<KeyPlace>> {
        match (key_file, passphrase_file, command) {
            (None, None, None) => Ok(None),
            (Some(file), None, None) => Ok(Some(KeyPlace::KeyFile(file.to_owned()))),
            (None, Some(file), None) => Ok(Some(KeyPlace::PassphraseFile(file.to_owned()))),
            (None, None, Some(command)) => Ok(Some(KeyPlace::Command(command.to_owned()))),
            _ => Err(Error::new(Kind::Usage, "give one of a key file, a passphrase file and a key command")),
        }
    }

    /// Reads the key. From then on this process leaves no core file.
    pub async fn read(&self, rt: &Rt, disk: &dyn Disk) -> Result<Offered> {
        keep_out_of_cores();
        match self {
            KeyPlace::KeyFile(file) => {
                check_private_to_group(file)?;
                tell_of_group(file);
                let bytes = read_file(disk, file).await?;
                let key = Secret::read(&bytes).map_err(|e| e.context(file.display()))?;
                Ok(Offered::Key(key))
            }
            KeyPlace::PassphraseFile(file) => {
                check_private(file)?;
                let bytes = read_file(disk, file).await?;
                let words = Passphrase::read(&bytes).map_err(|e| e.context(file.display()))?;
                Ok(Offered::Passphrase(words))
            }
            KeyPlace::Command(command) => {
                let bytes = command_of_key(command).run(rt).await?;
                let key = Secret::read(&bytes).map_err(|e| e.context("what the key command prints"))?;
                Ok(Offered::Key(key))
            }
        }
    }
}

/// Fails with `Usage` if others than the file's owner may read or change the file. A file that can't be looked at
/// passes: reading it tells why.
pub fn check_private(file: &Path) -> Result<()> {
    check_mode(file, 0o066)
}

/// Checks the file of a key as `check_private` does, but lets its group read it: the daemon's user may be in that
/// group. Where an access list opens the file to one user, the mode shows that as the group's right.
pub fn check_private_to_group(file: &Path) -> Result<()> {
    check_mode(file, 0o026)
}

fn tell_of_group(file: &Path) {
    if rustix::fs::stat(file).is_ok_and(|found| found.st_mode & 0o040 != 0) && keeps_modes(file) {
        tracing::warn!(
            "{} may be read by its group too: `chmod 600` where nobody of it should",
            file.display()
        );
    }
}

fn check_mode(file: &Path, of_others: u32) -> Result<()> {
    let Ok(found) = rustix::fs::stat(file) else { return Ok(()) };
    let mode = found.st_mode & 0o777;
    if mode & of_others != 0 && !keeps_modes(file) {
        // A stick is a usual place for a key, and there it has no better mode.
        tracing::warn!("{} has mode {mode:03o}, and its filesystem keeps no other", file.display());
        return Ok(());
    }
    match mode & of_others == 0 || !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
        true => Ok(()),
        false => {
            let shown = file.display();
            let why =
                format!("{shown} has mode {mode:03o}, so others may read or change it: chmod 600 {shown}");
            Err(Error::new(Kind::Usage, why))
        }
    }
}

/// Tells whether chmod(1) changes anything there. FAT and exFAT show the mode of the mount for all files.
fn keeps_modes(file: &Path) -> bool {
    const WITHOUT: [i64; 2] = [0x4d44, 0x2011_bab0];
    rustix::fs::statfs(file).map_or(true, |of| !WITHOUT.contains(&of.f_type))
}

async fn read_file(disk: &dyn Disk, file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let read = disk.read(file, KEY_MAX).await;
    let bytes = read.map_err(Error::from).map_err(|e| {
        let kind = if e.is(Kind::NotFound) { Kind::Usage } else { e.kind() };
        Error::new(kind, format!("reading {}", file.display())).because(e)
    })?;
    Ok(wiped(bytes))
}

/// Returns a copy, and overwrites the original where nobody else has it.
fn wiped(bytes: Bytes) -> Zeroizing<Vec<u8>> {
    let copy = Zeroizing::new(bytes.to_vec());
    if let Ok(mut own) = bytes.try_into_mut() {
        own.as_mut().zeroize();
    }
    copy
}

fn command_of_key(line: &str) -> ShellCommand<'_> {
    ShellCommand { called: "the key command", line, input: b"", output_max: KEY_MAX }
}

/// Keeps this process from leaving a core file, which would hold the keys. A failure is logged: the keys are of use
/// all the same.
pub(super) fn keep_out_of_cores() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = rustix::process::setrlimit(Resource::Core, none);
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "a core file of this process would hold keys");
    }
}

/// Returns the key by which a pool is signed. A passphrase is refused: it could be guessed by what is signed.
pub fn pool_key(offered: &Offered) -> Result<PoolKey> {
    match offered {
        Offered::Key(secret) => Ok(PoolKey::new(secret)),
        Offered::Passphrase(_) => Err(Error::new(
            Kind::Usage,
            "a pool takes a key and no passphrase: give --key-file or --key-command",
        )),
    }
}

/// The keys that windlass.toml names in its present state.
#[derive(Debug)]
pub struct ConfiguredKeys {
    rt: Rt,
    disk: Arc<dyn Disk>,
    config: Mutex<Arc<Config>>,
}

impl ConfiguredKeys {
    pub fn new(rt: Rt, disk: Arc<dyn Disk>, config: Arc<Config>) -> Arc<ConfiguredKeys> {
        Arc::new(ConfiguredKeys { rt, disk, config: Mutex::new(config) })
    }

    /// Takes the file that was read anew.
    pub fn follow(&self, config: Arc<Config>) {
        *self.config.lock() = config;
    }

    /// Returns the key of a pool, where the file names one.
    pub async fn pool_key(&self, pool: &Name) -> Result<Option<PoolKey>> {
        let place = self.config.lock().pool_key_place(pool);
        let Some(place) = place else { return Ok(None) };
        let offered = place.read(&self.rt, &*self.disk).await;
        let offered = offered.map_err(|e| e.context(format!("the key of pool {pool}")))?;
        pool_key(&offered).map(Some)
    }
}

#[async_trait]
impl KeyFinder for ConfiguredKeys {
    fn has(&self, volume: &str) -> bool {
        self.config.lock().key_place(volume).is_some()
    }

    async fn find(&self, volume: &str) -> Result<Option<Offered>> {
        let place = self.config.lock().key_place(volume);
        match place {
            Some(place) => place.read(&self.rt, &*self.disk).await.map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use windlass_base::rt::{RealDisk, RealRuntime};

    #[tokio::test]
    async fn a_command_that_prints_without_end_is_ended() {
        let rt = Rt::new(RealRuntime::current());
        let refused = KeyPlace::Command("yes".into()).read(&rt, &*RealDisk::start()).await.unwrap_err();
        assert!(refused.is(Kind::Usage) && refused.to_string().contains("prints more"), "{refused}");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // a user's files
    async fn keys_are_read_from_files_and_commands_and_not_told_when_they_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (rt, disk) = (Rt::new(RealRuntime::current()), RealDisk::start());
        let file = dir.path().join("key");
        let read = |place: KeyPlace| {
            let (rt, disk) = (rt.clone(), disk.clone());
            async move { place.read(&rt, &*disk).await }
        };
        let absent = read(KeyPlace::KeyFile(file.clone())).await.unwrap_err();
        assert!(absent.is(Kind::Usage) && absent.to_string().contains("key"), "{absent}");
        std::fs::write(&file, [7; 32]).unwrap();
        let open_to = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o644, 0o660, 0o602] {
            open_to(mode);
            let refused = read(KeyPlace::KeyFile(file.clone())).await.unwrap_err();
            assert!(refused.is(Kind::Usage) && refused.to_string().contains("chmod 600"), "{refused}");
        }
        open_to(0o640);
        assert!(read(KeyPlace::KeyFile(file.clone())).await.is_ok(), "the daemon may be of its group");
        open_to(0o600);
        let Ok(Offered::Key(key)) = read(KeyPlace::KeyFile(file.clone())).await else { panic!("a key") };
        assert_eq!(key.bytes(), &[7; 32]);
        let print = format!("printf '%s\\n' {}", "07".repeat(32));
        let Ok(Offered::Key(printed)) = read(KeyPlace::Command(print)).await else { panic!("a key") };
        assert!(printed == key);
        std::fs::write(&file, "correct horse\n").unwrap();
        for mode in [0o644, 0o640, 0o602] {
            open_to(mode);
            let refused = read(KeyPlace::PassphraseFile(file.clone())).await.unwrap_err();
            assert!(refused.is(Kind::Usage) && refused.to_string().contains("chmod 600"), "{refused}");
        }
        open_to(0o600);
        let read_words = read(KeyPlace::PassphraseFile(file.clone())).await;
        assert!(matches!(read_words, Ok(Offered::Passphrase(words)) if words.bytes() == b"correct horse"));
        let none = read(KeyPlace::KeyFile(file)).await.unwrap_err();
        assert!(none.is(Kind::Usage) && !none.to_string().contains("horse"), "{none}");
        for (command, kind) in [("echo swordfish; exit 3", Kind::Io), ("echo swordfish", Kind::Usage)] {
            let failed = read(KeyPlace::Command(command.into())).await.unwrap_err();
            assert!(failed.is(kind) && !failed.to_string().contains("swordfish"), "{failed}");
        }
    }

    #[test]
    fn one_place_is_given_at_most() {
        let file = Path::new("/k");
        assert_eq!(KeyPlace::of(None, None, None).unwrap(), None);
        assert_eq!(KeyPlace::of(Some(file), None, None).unwrap(), Some(KeyPlace::KeyFile(file.into())));
        assert!(KeyPlace::of(Some(file), Some(file), None).unwrap_err().is(Kind::Usage));
        assert!(KeyPlace::of(None, Some(file), Some("x")).unwrap_err().is(Kind::Usage));
    }
}
