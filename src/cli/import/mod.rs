//! `windlass import`.
//!
//! The volume is made under a hidden name, filled through its export, and renamed when all of the image is in it. A run that
//! was cut off leaves the hidden volume and a note of how far it was; the same command goes on there.

mod input;
mod nbd_target;
mod note;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use self::input::{Asked, Input, parse_sum};
use self::nbd_target::{ATTEMPTS, NbdTarget, PAUSE};
use self::note::{Note, Notes};
use super::reach_engine::{Door, unless_interrupted};
use super::transfer_bar::{Counts, bar};
use super::volume::key_of_new;
use super::volume_key::KeyFlags;
use super::{Global, apply_diff, done, output};
use crate::daemon::StateDir;
use crate::daemon::api::{Outcome, RemoveMode, SnapshotPath, Verb, VolumeCreate, VolumePath};
use windlass_base::rt::{Instant, RealRuntime, Rt};
use windlass_base::units::{parse_size, show_bytes, show_size, show_time};
use windlass_base::{Error, Kind, Result};
use windlass_image::{CopyWatch, DiskCopy, FilledTo, Format, Target};

/// Pause between notes, before each of which what was written is flushed.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// First size in bytes of a volume for a disk whose size shows only at its end.
const SIZE_MIN: u64 = 512;

#[derive(clap::Args, Debug)]
pub struct Import {
    /// A file, an http:// or https:// URL, or - for standard input; what gzip, xz or zstd has compressed is decompressed
    #[arg(value_name = "FILE|URL|-")]
    from: String,
    /// POOL/VOLUME: appears when all of the image is in it. It may exist when FILE is what `export --since` wrote: then that
    /// is applied to it
    path: VolumePath,
    /// What the image is: raw or qcow2 (default: as its first bytes tell). With `raw` the bytes are taken as they are, but for a
    /// FILE that is called .gz, .xz or .zst: that is decompressed first
    #[arg(long)]
    format: Option<Format>,
    /// Refuse an image whose bytes have another SHA-256
    #[arg(long, value_name = "SUM", value_parser = parse_sum)]
    sha256: Option<String>,
    /// Make the volume a template: only clones of its snapshots from then on
    #[arg(long)]
    template: bool,
    /// Make the volume larger than the image, for example 20G
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Where files lie that a qcow2 image is built on; nothing outside of this folder is opened
    #[arg(long, value_name = "DIR")]
    backing_dir: Option<PathBuf>,
    /// Make a clone of this snapshot, and write only the blocks that differ
    #[arg(long, value_name = "POOL/VOL@SNAP")]
    base: Option<SnapshotPath>,
    /// Only look at the image, and say what it is; the volume is not made
    #[arg(long, conflicts_with_all = ["restart", "base", "template"])]
    dry_run: bool,
    /// Begin anew what was cut off
    #[arg(long)]
    restart: bool,
    /// Succeed when the volume exists, whatever it holds; not with what `export --since` wrote, which would not be applied
    #[arg(long)]
    if_absent: bool,
    /// Encrypt the volume, as `volume create` does
    #[arg(long, conflicts_with_all = ["base", "dry_run"])]
    encrypt: bool,
    #[command(flatten)]
    key: KeyFlags,
}

impl Import {
    /// Refuses options of an import that a diff has no use for.
    fn refuse_with_a_diff(&self) -> Result<()> {
        let given = [
            ("--sha256", self.sha256.is_some()),
            ("--template", self.template),
            ("--size", self.size.is_some()),
            ("--backing-dir", self.backing_dir.is_some()),
            ("--base", self.base.is_some()),
            ("--format", self.format.is_some()),
            ("--if-absent", self.if_absent),
            ("--encrypt", self.encrypt),
        ];
        match given.iter().find(|(_, is)| *is) {
            Some((name, _)) => {
                let why = format!(
                    "{} is what changed since a snapshot, and {} exists: {name} does not go with that",
                    self.from, self.path
                );
                Err(Error::new(Kind::Usage, why))
            }
            None => Ok(()),
        }
    }

    fn asked(&self) -> Asked {
        Asked {
            from: self.from.clone(),
            format: self.format,
            backing_dir: self.backing_dir.clone(),
            sha256: self.sha256.clone(),
        }
    }
}

pub async fn run(global: &Global, args: Import) -> Result<ExitCode> {
    let rt = Rt::new(RealRuntime::current());
    if args.dry_run {
        let outcome = look(&rt, &args).await?;
        output::notes(global, &outcome);
        return Ok(done(&outcome));
    }
    let mut door = Door::open(global).await?;
    let result = Box::pin(import(&rt, &mut door, &args)).await;
    let outcome = door.close(result).await?;
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

/// Looks at the image, for `--dry-run`.
async fn look(rt: &Rt, args: &Import) -> Result<Outcome> {
    let input = open(rt, args, &bar(Counts::Bytes)).await?;
    let size = input.source.size();
    let value = json!({"source": args.from, "format": input.format, "size": size, "sha256": input.sum});
    let size = size.map_or_else(
        || "of a size that shows when it is read".into(),
        |size| format!("of {}", show_size(size)),
    );
    Ok(Outcome { value, ..Outcome::default() }
        .note(format!("{} is a disk {size} ({})", args.from, input.format)))
}

async fn open(rt: &Rt, args: &Import, bar: &ProgressBar) -> Result<Input> {
    let asked = args.asked();
    let opened = match unless_interrupted(Input::open(rt, &asked, bar)).await {
        Some(opened) => opened,
        None => Err(Error::new(Kind::Closed, "interrupted: nothing was made")),
    };
    opened.map_err(|e| e.context(format!("importing {}", args.from)))
}

async fn import(rt: &Rt, door: &mut Door, args: &Import) -> Result<Outcome> {
    // Before anything is read or made.
    if let Some(has) = door.find(&args.path).await? {
        let file = Path::new(&args.from);
        if apply_diff::is_diff(file).await {
            args.refuse_with_a_diff()?;
            return apply_diff::onto(rt, door, &args.path, file, None).await;
        }
        let encrypted = has.get("encrypted").and_then(Value::as_bool).unwrap_or_default();
        return match args.if_absent {
            true if args.encrypt && !encrypted => {
                Err(Error::new(Kind::Exists, format!("volume {} exists, and is not encrypted", args.path)))
            }
            true => {
                Ok(Outcome { value: has, ..Outcome::default() }.note(format!("{} exists already", args.path)))
            }
            false => Err(Error::new(Kind::Exists, format!("volume {} exists", args.path))),
        };
    }
    let notes = Notes::open(&StateDir::locate()?, &args.path).await?;
    let bar = bar(Counts::Bytes);
    let mut input = open(rt, args, &bar).await?;
    let began = rt.now();
    let mut work = begin(door, args, &input, notes).await?;
    let filled = work.fill(rt, door, args, &mut input, &bar).await;
    bar.finish_and_clear();
    let checked = match filled {
        Ok(copied) => check(args, &input, copied).await,
        Err(e) => Err(e),
    };
    let (copied, sum) = match checked {
        // Reading the image again would lead to the same.
        Err(e) if e.is(Kind::Invalid) || e.is(Kind::Corrupt) => {
            return Err(match work.give_up(door).await {
                Ok(()) => e,
                Err(also) => Error::new(e.kind(), format!("{e}; what was imported is left: {also}")),
            });
        }
        checked => checked?,
    };
    work.finish(door, args).await?;
    let ms = rt.now().since(began).as_millis() as u64;
    Ok(told(args, &input, &work, (copied, ms), sum))
}

/// Checks that all of the image that was meant has come. Returns its sum too, if it was taken.
async fn check(args: &Import, input: &Input, copied: FilledTo) -> Result<(FilledTo, Option<String>)> {
    if copied.position == 0 {
        return Err(no_disk(args));
    }
    input.unchanged().await.map_err(|e| e.context(no_volume(args)))?;
    let sum = input.sum.clone().or_else(|| input.source.sum());
    Input::check_sum(&args.asked(), sum.as_deref())?;
    Ok((copied, sum))
}

fn no_volume(args: &Import) -> String {
    format!("{} is not made", args.path)
}

fn told(
    args: &Import,
    input: &Input,
    work: &Work,
    (copied, ms): (FilledTo, u64),
    sum: Option<String>,
) -> Outcome {
    let (path, resumed) = (&args.path, work.resumed);
    let value = json!({
        "path": path.to_string(), "source": args.from, "format": input.format, "size": work.size,
        "image_bytes": copied.position, "written_bytes": copied.written, "resumed_at": resumed, "sha256": sum,
        "template": args.template, "took_ms": ms,
    });
    let went_on = match resumed {
        0 => String::new(),
        at => format!(", from {} on", show_bytes(at)),
    };
    let note = format!(
        "{path} holds {} ({}): {}, of which {} were written in {}{went_on}",
        args.from,
        input.format,
        show_bytes(work.size),
        show_bytes(copied.written),
        show_time(ms)
    );
    let unvouched = (!input.vouched).then(|| {
        format!(
            "nothing vouches for the length of {}: {} came, and then it ended; `--sha256` tells whether that is all",
            args.from,
            show_bytes(copied.position)
        )
    });
    Outcome { value, ..Outcome::default() }.note(note).note_all(unvouched)
}

/// The volume that is being filled.
struct Work {
    hidden: VolumePath,
    /// Size of the volume in bytes.
    size: u64,
    note: Note,
    notes: Notes,
    /// Offset at which this run went on.
    resumed: u64,
}

/// Finds the place where an earlier run was, or makes the volume.
async fn begin(door: &mut Door, args: &Import, input: &Input, notes: Notes) -> Result<Work> {
    let hidden = args.path.while_imported();
    let image = input.source.size();
    if image == Some(0) {
        return Err(no_disk(args));
    }
    if let (Some(asked), Some(image)) = (args.size, image)
        && asked < image
    {
        let (asked, image) = (show_size(asked), show_size(image));
        return Err(Error::new(
            Kind::Usage,
            format!("--size {asked} would cut the image, which has {image}"),
        ));
    }
    let wanted = args.size.unwrap_or(0).max(image.unwrap_or(SIZE_MIN));
    let (there, before) = (door.find(&hidden).await?, notes.read().await);
    let note = Note {
        source: input.identity.clone(),
        format: input.format.to_owned(),
        base: args.base.as_ref().map(ToString::to_string),
        encrypted: args.encrypt,
        volume: None,
        position: 0,
        written: 0,
    };
    if let Some(there) = there {
        match before.filter(|before| before.volume.is_none() || before.volume == text(&there, "id")) {
            Some(before) if !args.restart && goes_on(&before, &note) => {
                let size = there.get("size").and_then(Value::as_u64).unwrap_or_default();
                let mut work = Work { hidden, size, note: before, notes, resumed: 0 };
                work.grow_to(door, wanted).await?;
                return Ok(work);
            }
            // Nothing is lost with one that can't go on.
            Some(before) if before.source.is_none() || before.position == 0 => {}
            _ if args.restart => {}
            Some(before) => return Err(another(&args.path, &before, &note)),
            None => {
                let why = format!(
                    "{} is being imported, maybe by another host: --restart begins anew if it is not, `windlass volume list \
                     --importing` shows it",
                    args.path
                );
                return Err(Error::new(Kind::Refused, why));
            }
        }
        door.remove(&hidden).await?;
    }
    make(door, args, wanted, (hidden, note, notes)).await
}

fn no_disk(args: &Import) -> Error {
    Error::new(Kind::Invalid, format!("{} has no bytes: there is no disk in it", args.from))
}

/// Tells whether a run with this note may go on where an earlier one was.
fn goes_on(before: &Note, now: &Note) -> bool {
    before.volume.is_some()
        && before.source.is_some()
        && before.source == now.source
        && before.format == now.format
        && before.base == now.base
        && before.encrypted == now.encrypted
}

/// Makes the error for an import of something else than the one that was cut off.
fn another(path: &VolumePath, before: &Note, now: &Note) -> Error {
    let what = match before.source == now.source && before.base == now.base {
        true => format!("an import of this image as {}, not {},", before.format, now.format),
        false => "an import of another image".to_owned(),
    };
    let why = format!(
        "{what} into {path} was cut off: --restart begins anew, `windlass volume remove --importing {path}` gives it up"
    );
    Error::new(Kind::Refused, why)
}

async fn make(
    door: &mut Door,
    args: &Import,
    wanted: u64,
    (hidden, note, notes): (VolumePath, Note, Notes),
) -> Result<Work> {
    // What is made without a word of it could be another host's.
    notes.write(&note).await?;
    let made = match &args.base {
        Some(base) => {
            let from = base.clone();
            door.ask(Verb::clone_of(from, hidden.clone(), false)).await?
        }
        None => {
            let key = key_of_new(args.encrypt, &args.key).await?;
            let path = hidden.clone();
            let create = VolumeCreate { path, size: wanted, settings: Vec::new(), if_absent: false, key };
            door.ask(Verb::VolumeCreate(create)).await?
        }
    };
    let size = made.value.get("size").and_then(Value::as_u64).unwrap_or(wanted);
    let note = Note { volume: text(&made.value, "id"), ..note };
    notes.write(&note).await?;
    let mut work = Work { hidden, size, note, notes, resumed: 0 };
    work.grow_to(door, wanted).await?;
    Ok(work)
}

impl Work {
    async fn grow_to(&mut self, door: &mut Door, size: u64) -> Result<()> {
        if size > self.size {
            let path = self.hidden.clone();
            door.ask(Verb::VolumeResize { path, size, disconnect: false }).await?;
            self.size = size;
        }
        Ok(())
    }

    /// Copies the image. The place where a signal or an error stops it is noted.
    async fn fill(
        &mut self,
        rt: &Rt,
        door: &mut Door,
        args: &Import,
        input: &mut Input,
        bar: &ProgressBar,
    ) -> Result<FilledTo> {
        let target = Arc::new(NbdTarget::open(door, &self.hidden).await?);
        let copy = DiskCopy { rt: rt.clone(), target: target.clone(), has_base: args.base.is_some() };
        self.stands(&*target).await?;
        let (from, can_go_on) = (self.note.position, self.note.source.is_some());
        self.resumed = from;
        let before = self.note.written;
        show(bar, &args.path, input.source.size());
        bar.set_position(from);
        bar.reset_eta();
        let (rt, noted) = (rt.clone(), rt.now());
        let copied = FilledTo { position: from, written: 0 };
        let mut filling = Filling { rt, work: self, door, target: &target, bar, before, copied, noted };
        let run = copy.run(&mut *input.source, from, &mut filling);
        let copied = match unless_interrupted(run).await {
            Some(copied) => copied,
            None => Err(Error::new(
                Kind::Closed,
                match can_go_on {
                    true => format!("interrupted: the same command goes on with {} where it was", args.path),
                    false => format!("interrupted: the same command begins {} anew", args.path),
                },
            )),
        };
        if copied.is_err() {
            // What can't be noted is copied again.
            if let Err(error) = filling.take_note().await {
                tracing::debug!(%error, "how far the import was is not noted");
            }
        }
        let copied = copied.map_err(|e| match e.kind() {
            Kind::Closed => e,
            Kind::Invalid | Kind::Corrupt => e.context(no_volume(args)),
            _ if can_go_on => e.context(format!("{}, whose import the same command goes on with", args.path)),
            _ => e.context(format!("{}, whose import the same command begins anew", args.path)),
        })?;
        if copy.has_base {
            copy.erase(copied.position..self.size).await?;
        }
        target.flush().await?;
        drop(copy);
        if let Ok(target) = Arc::try_unwrap(target).map_err(drop) {
            // Whoever is still connected would be a writer of what becomes a template.
            target.0.close().await?;
        }
        Ok(copied)
    }

    /// Checks that the volume holds as many bytes as an earlier run wrote, and else begins at the front: its
    /// stores may have been put back since. What a base has tells nothing of that, and is compared again.
    async fn stands(&mut self, target: &dyn Target) -> Result<()> {
        if self.note.position == 0 {
            return Ok(());
        }
        let data = target.data(0..self.note.position.min(self.size)).await?;
        let has: u64 = data.iter().map(|range| range.end - range.start).sum();
        if self.note.base.is_some() || has < self.note.written {
            tracing::info!(
                has,
                written = self.note.written,
                "what an earlier run wrote is gone through again"
            );
            (self.note.position, self.note.written) = (0, 0);
            self.notes.write(&self.note).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, door: &mut Door, args: &Import) -> Result<()> {
        if args.template {
            let assignments = vec!["template=true".to_owned()];
            door.ask(Verb::VolumeSet { path: self.hidden.clone(), assignments }).await?;
        }
        let to = args.path.volume.clone();
        door.ask(Verb::VolumeRename { path: self.hidden.clone(), to }).await.map_err(|e| {
            let left = format!("`windlass volume remove {} --importing` drops what was imported", args.path);
            Error::new(e.kind(), format!("{e}; {left}"))
        })?;
        self.notes.remove().await
    }

    async fn give_up(&mut self, door: &mut Door) -> Result<()> {
        door.remove(&self.hidden).await?;
        self.notes.remove().await
    }
}

/// The observer of the copy, which flushes and takes notes.
struct Filling<'a> {
    rt: Rt,
    work: &'a mut Work,
    door: &'a mut Door,
    target: &'a NbdTarget,
    bar: &'a ProgressBar,
    /// Number of bytes that earlier runs wrote.
    before: u64,
    /// Progress of this run.
    copied: FilledTo,
    noted: Instant,
}

impl Filling<'_> {
    async fn take_note(&mut self) -> Result<()> {
        let FilledTo { position, written } = self.copied;
        // The bytes are flushed before the note says so: the next run skips all that lies before the position, and
        // would leave a hole in the disk.
        self.target.flush().await?;
        (self.work.note.position, self.work.note.written) = (position, self.before + written);
        self.work.notes.write(&self.work.note).await?;
        self.noted = self.rt.now();
        Ok(())
    }
}

#[async_trait]
impl CopyWatch for Filling<'_> {
    async fn grow(&mut self, size: u64) -> Result<()> {
        self.bar.set_length(size);
        self.work.grow_to(self.door, size).await
    }

    async fn reached(&mut self, copied: FilledTo) -> Result<()> {
        self.copied = copied;
        self.bar.set_position(copied.position);
        if self.rt.now().since(self.noted) >= NOTE_EVERY {
            self.take_note().await?;
        }
        Ok(())
    }
}

impl Door {
    /// Asks for the facts on a volume. `None`: there is no such volume.
    async fn find(&mut self, path: &VolumePath) -> Result<Option<Value>> {
        match self.ask(Verb::VolumeInfo { path: path.clone(), walk: false }).await {
            Ok(outcome) => Ok(Some(outcome.value)),
            Err(e) if e.is(Kind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn remove(&mut self, path: &VolumePath) -> Result<()> {
        let verb = Verb::VolumeRemove {
            path: path.clone(),
            if_exists: true,
            dry_run: false,
            mode: RemoveMode::Now,
            with_snapshots: true,
        };
        // The daemon may take a moment to notice that this command's own connection has ended.
        let mut attempt = 0;
        loop {
            match self.ask(verb.clone()).await {
                Err(e) if e.is(Kind::Owned) && attempt < ATTEMPTS => attempt += 1,
                Err(e) if !e.is(Kind::NotFound) => return Err(e),
                _ => return Ok(()),
            }
            self.rt().sleep(PAUSE).await;
        }
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn show(bar: &ProgressBar, path: &VolumePath, size: Option<u64>) {
    let template = match size {
        Some(_) => "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        None => "{msg} {binary_bytes} {binary_bytes_per_sec}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("importing {path}"));
    if let Some(size) = size {
        bar.set_length(size);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;

    use super::*;

    /// A volume of which only so much holds data.
    struct Holds(u64);

    #[async_trait]
    impl Target for Holds {
        async fn read(&self, _: u64, len: u64) -> Result<Bytes> {
            Ok(vec![0; len as usize].into())
        }
        async fn write(&self, _: u64, _: Bytes) -> Result<()> {
            Ok(())
        }
        async fn zero(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        async fn flush(&self) -> Result<()> {
            Ok(())
        }
        async fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
            let used = 0..self.0.min(range.end);
            Ok(vec![used])
        }
    }

    #[tokio::test]
    async fn an_import_begins_anew_where_its_stores_were_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path: VolumePath = "p/v".parse().unwrap();
        let went_on = async |held: u64, base: Option<&str>| {
            let notes = Notes::open(&StateDir::at(dir.path()), &path).await.unwrap();
            let (source, base) = (Some("a".to_owned()), base.map(str::to_owned));
            let (format, volume) = ("raw".to_owned(), Some("id".to_owned()));
            let note =
                Note { source, format, base, encrypted: false, volume, position: 1 << 20, written: 8192 };
            let mut work = Work { hidden: path.while_imported(), size: 1 << 30, note, notes, resumed: 0 };
            work.stands(&Holds(held)).await.unwrap();
            work.note.position
        };
        assert_eq!(went_on(8192, None).await, 1 << 20);
        assert_eq!(went_on(1 << 30, None).await, 1 << 20);
        assert_eq!(went_on(4096, None).await, 0, "less than was noted");
        assert_eq!(went_on(1 << 30, Some("p/b@s")).await, 0, "a base may have all of it");
    }

    #[test]
    fn an_import_goes_on_with_the_same_image_in_the_same_format() {
        let note = |source: Option<&str>, format: &str| Note {
            source: source.map(str::to_owned),
            format: format.to_owned(),
            base: None,
            encrypted: false,
            volume: Some("id".to_owned()),
            position: 1,
            written: 0,
        };
        let (before, raw) = (note(Some("a"), "raw, gzip"), note(Some("a"), "raw"));
        assert!(goes_on(&before, &before));
        assert!(!goes_on(&before, &raw) && !goes_on(&note(None, "raw"), &note(None, "raw")));
        // Into a plain volume no image goes that is to be encrypted.
        assert!(!goes_on(&before, &Note { encrypted: true, ..before.clone() }));
        let refused = another(&"p/v".parse().unwrap(), &before, &raw);
        let why = "an import of this image as raw, gzip, not raw, into p/v was cut off";
        assert!(refused.is(Kind::Refused) && refused.to_string().starts_with(why), "{refused}");
    }
}
