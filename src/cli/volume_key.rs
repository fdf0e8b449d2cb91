//! `windlass volume key …` and `windlass volume unlock`: the keys of encrypted volumes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::{Global, done, output, reach_engine};
use crate::daemon::KeyPlace;
use crate::daemon::answers::{DataKeyLine, KeyList, KeySlotLine, word};
use crate::daemon::api::{GivenKey, KeyChange, SlotChange, Verb, VolumePath};
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::units::show_bytes;
use windlass_base::{Error, Kind, Result};

/// What opens an encrypted volume.
#[derive(clap::Args, Debug, Default)]
pub struct KeyFlags {
    /// A file that holds a key: 32 bytes, or a line that is those in hexadecimal or base64
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "key_command"])]
    key_file: Option<PathBuf>,
    /// A file that holds a passphrase, a line
    #[arg(long, value_name = "FILE", conflicts_with = "key_command")]
    passphrase_file: Option<PathBuf>,
    /// A command, for sh, that prints a key as a key file holds it: of a KMS, a Vault or a TPM
    #[arg(long, value_name = "COMMAND")]
    key_command: Option<String>,
}

/// What a pool's labels and registers are signed by.
#[derive(clap::Args, Debug, Default)]
pub struct PoolKeyFlags {
    /// The pool's key, by which what says who owns its volumes is signed: a file of 32 bytes, or of those as text
    #[arg(long, value_name = "FILE", conflicts_with = "key_command")]
    key_file: Option<PathBuf>,
    /// A command, for sh, that prints the pool's key as a key file holds it
    #[arg(long, value_name = "COMMAND")]
    key_command: Option<String>,
}

impl PoolKeyFlags {
    /// Reads the key. `None`: none is given.
    pub async fn read(&self) -> Result<Option<GivenKey>> {
        match KeyPlace::of(self.key_file.as_deref(), None, self.key_command.as_deref())? {
            None => Ok(None),
            given => read(given, "--key-file or --key-command").await.map(Some),
        }
    }
}

/// What opens it from then on.
#[derive(clap::Args, Debug)]
pub struct NewKeyFlags {
    /// The new key's file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_passphrase_file", "new_key_command"])]
    new_key_file: Option<PathBuf>,
    /// The new passphrase's file
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_command")]
    new_passphrase_file: Option<PathBuf>,
    /// A command that prints the new key
    #[arg(long, value_name = "COMMAND")]
    new_key_command: Option<String>,
}

impl KeyFlags {
    pub fn is_given(&self) -> bool {
        self.key_file.is_some() || self.passphrase_file.is_some() || self.key_command.is_some()
    }

    /// Reads the key. `Usage`: none is given.
    pub async fn read(&self) -> Result<GivenKey> {
        let (command, flags) =
            (self.key_command.as_deref(), "--key-file, --passphrase-file or --key-command");
        read(KeyPlace::of(self.key_file.as_deref(), self.passphrase_file.as_deref(), command)?, flags).await
    }
}

impl NewKeyFlags {
    async fn read(&self) -> Result<GivenKey> {
        let flags = "--new-key-file, --new-passphrase-file or --new-key-command";
        let (file, words) = (self.new_key_file.as_deref(), self.new_passphrase_file.as_deref());
        read(KeyPlace::of(file, words, self.new_key_command.as_deref())?, flags).await
    }
}

async fn read(place: Option<KeyPlace>, flags: &str) -> Result<GivenKey> {
    let Some(place) = place else {
        return Err(Error::new(Kind::Usage, format!("give a key: {flags}")));
    };
    let rt = Rt::new(RealRuntime::current());
    GivenKey::of(&place.read(&rt, &*RealDisk::start()).await?)
}

#[derive(Subcommand, Debug)]
pub enum Key {
    /// Let another key or passphrase open the volume too, of up to 8
    Add {
        path: VolumePath,
        #[command(flatten)]
        key: KeyFlags,
        #[command(flatten)]
        new: NewKeyFlags,
    },
    /// Let a new key or passphrase take the slot of the one that is given
    Change {
        path: VolumePath,
        #[command(flatten)]
        key: KeyFlags,
        #[command(flatten)]
        new: NewKeyFlags,
    },
    /// Let a slot open the volume no more; one that opens it must be given
    #[command(visible_alias = "rm")]
    Remove {
        path: VolumePath,
        /// Its number, as `key list` shows it
        slot: u8,
        #[command(flatten)]
        key: KeyFlags,
    },
    /// Seal the volume by a new data key, and what there is anew; waits until the older ones are gone
    ///
    /// All slots open the volume as before. Reads and writes go on meanwhile; cut off, it goes on wherever the volume is open.
    Rotate {
        path: VolumePath,
        #[command(flatten)]
        key: KeyFlags,
        /// Return when what is written is sealed by the new one
        #[arg(long)]
        no_wait: bool,
    },
    /// List the slots, without what opens them, and the data keys
    #[command(visible_alias = "ls")]
    List { path: VolumePath },
}

pub async fn run(global: &Global, args: Key) -> Result<ExitCode> {
    let (path, key, change) = match args {
        Key::List { path } => return list(global, path).await,
        Key::Rotate { path, key, no_wait } => {
            let key = if key.is_given() { Some(key.read().await?) } else { None };
            return tell(global, Verb::VolumeKeyRotate { path, key, wait: !no_wait }).await;
        }
        Key::Add { path, key, new } => (path, key, SlotChange::Add(new.read().await?)),
        Key::Change { path, key, new } => (path, key, SlotChange::Replace(new.read().await?)),
        Key::Remove { path, slot, key } => (path, key, SlotChange::Remove(slot)),
    };
    let key = key.read().await?;
    tell(global, Verb::VolumeKeyChange(KeyChange { path, key, change })).await
}

pub async fn unlock(global: &Global, path: VolumePath, key: KeyFlags) -> Result<ExitCode> {
    let key = key.read().await?;
    tell(global, Verb::VolumeUnlock { path, key }).await
}

async fn tell(global: &Global, verb: Verb) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, verb).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

async fn list(global: &Global, path: VolumePath) -> Result<ExitCode> {
    let outcome = reach_engine::ask(global, Verb::VolumeKeys { path }).await?;
    output::report(global, &outcome, |keys: KeyList| {
        let row = |line: KeySlotLine| vec![line.slot.to_string(), word(&line.kind), line.made];
        output::table(&["SLOT", "OPENED BY", "MADE"], keys.slots.into_iter().map(row).collect());
        let row = |line: DataKeyLine| {
            let state = if line.seals { "seals what is written" } else { "is to go" };
            let made = if line.made.is_empty() { "-".to_owned() } else { line.made };
            vec![line.number.to_string(), state.to_owned(), show_bytes(line.bytes), made]
        };
        output::table(
            &["DATA KEY", "STATE", "HAS SEALED", "MADE"],
            keys.data_keys.into_iter().map(row).collect(),
        );
    })?;
    Ok(done(&outcome))
}
