//! `windlass demo`: the tour. Each step says what it did and a figure, and fails loudly when what it shows isn't so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{Global, output, reach_engine};
use crate::daemon::answers::ScrubFindings;
use crate::daemon::api::{Outcome, PoolCreate, ScrubRequest, Verb, VolumeCreate};
use crate::daemon::progress::ProgressSink;
use crate::daemon::{Engine, Options, StateDir};
use windlass_base::rt::{Instant, RealRuntime, Rt};
use windlass_base::units::MIB;
use windlass_base::{Error, Kind, Result, ResultExt};
use windlass_nbd as nbd;

/// Bytes that the tour writes first; `SECOND` are those that it overwrites after the snapshot.
const FIRST: u64 = 192 * MIB;
const SECOND: u64 = 48 * MIB;
const PIECE: u64 = MIB;
const STORES: usize = 6;

#[derive(clap::Args, Debug)]
pub struct Demo {
    /// Leave everything in place afterwards
    #[arg(long)]
    keep: bool,
    /// Where to work; must be empty (a folder of its own under the system's temporary one otherwise)
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The tour's place and its engine, replaced when the tour restarts it.
struct Tour<'a> {
    global: &'a Global,
    rt: Rt,
    dir: PathBuf,
    engine: Arc<Engine>,
    steps: u32,
}

pub async fn run(global: &Global, args: Demo) -> Result<ExitCode> {
    let rt = Rt::new(RealRuntime::current());
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir).context(|| format!("folder {}", dir.display()))?,
        None => std::env::temp_dir().join(format!("windlass-demo-{:08x}", rt.random() as u32)),
    };
    make_empty(&dir)?;
    let began = rt.now();
    let engine = start(global, &dir).await?;
    let mut tour = Tour { global, rt, dir: dir.clone(), engine, steps: 0 };
    let shown = tour.all().await;
    let ended = tour.engine.shutdown().await;
    if args.keep {
        output::line(&format!("kept: {} (WINDLASS_HOME={})", dir.display(), dir.join("home").display()));
    } else {
        std::fs::remove_dir_all(&dir).context(|| format!("removing {}", dir.display()))?;
    }
    shown?;
    ended?;
    output::line(&format!("the tour took {:.1} s; all that it claims was checked", seconds(&tour.rt, began)));
    Ok(ExitCode::SUCCESS)
}

fn make_empty(dir: &Path) -> Result<()> {
    let told = || format!("folder {}", dir.display());
    std::fs::create_dir_all(dir).context(told)?;
    if std::fs::read_dir(dir).context(told)?.next().is_some() {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is not empty: give the tour a folder of its own", dir.display()),
        ));
    }
    for index in 0..STORES {
        std::fs::create_dir(store_dir(dir, index)).context(told)?;
    }
    std::fs::create_dir(dir.join("bucket")).context(told)?;
    std::fs::create_dir(dir.join("mnt")).context(told)
}

fn store_dir(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("store{index}"))
}

async fn start(global: &Global, dir: &Path) -> Result<Arc<Engine>> {
    // TCP: a deep --dir would make the path of a unix socket too long.
    let options = Options { serve: true, nbd: vec!["127.0.0.1:0".into()], ..Options::default() };
    reach_engine::start(global, StateDir::at(dir.join("home")), options, Some(0)).await
}

fn seconds(rt: &Rt, since: Instant) -> f64 {
    rt.now().since(since).as_secs_f64()
}

/// Returns the bytes that the tour writes at `offset` in its `round`: incompressible, and different from all
/// others.
fn pattern(round: u64, offset: u64, len: u64) -> Bytes {
    let mut out = Vec::with_capacity(len as usize);
    let mut at = offset;
    while (out.len() as u64) < len {
        out.extend_from_slice(&xxhash_rust::xxh3::xxh3_128_with_seed(&at.to_le_bytes(), round).to_le_bytes());
        at += 16;
    }
    out.truncate(len as usize);
    out.into()
}

impl Tour<'_> {
    async fn all(&mut self) -> Result<()> {
        self.make().await?;
        self.write().await?;
        self.snapshot_and_clone().await?;
        self.compare().await?;
        self.lose_two_stores().await?;
        self.heal().await?;
        self.mount().await
    }

    /// Prints a step and its figure.
    fn step(&mut self, what: &str, figure: String) {
        self.steps += 1;
        output::line(&format!("{:>2}. {what:<62} {figure}", self.steps));
    }

    async fn ask(&self, verb: Verb) -> Result<Outcome> {
        self.engine.run(verb, ProgressSink::none()).await
    }

    async fn client(&self, export: &str) -> Result<nbd::Client> {
        let addresses = self.engine.state().nbd_addresses();
        let address =
            addresses.first().ok_or_else(|| Error::new(Kind::Internal, "the engine listens nowhere"))?;
        nbd::Client::connect(&self.rt, address, export).await
    }

    async fn make(&mut self) -> Result<()> {
        let stores = (0..STORES).map(|i| format!("file://{}", store_dir(&self.dir, i).display())).collect();
        let create = PoolCreate {
            name: "demo".parse()?,
            stores,
            layout: Some("4+2".into()),
            ack_zone: false,
            degrade_after: Some("500ms".into()),
            trash: Some("0".into()),
            force: false,
            if_absent: false,
            key: None,
        };
        let began = self.rt.now();
        let made = self.ask(Verb::PoolCreate(create)).await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("pool `demo`: 4 data + 2 parity shards over six folders", format!("{took:.0} ms"));
        for note in &made.notes {
            output::line(&format!("    {note}"));
        }
        let create = VolumeCreate {
            path: "demo/disk".parse()?,
            size: 16 << 30,
            settings: vec!["flush=pool".into()],
            if_absent: false,
            key: None,
        };
        let began = self.rt.now();
        self.ask(Verb::VolumeCreate(create)).await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("volume `demo/disk`, 16 GiB thin; a flush means: in the pool", format!("{took:.0} ms"));
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        let client = self.client("demo/disk").await?;
        let rate = self.fill(&client, 1, FIRST).await?;
        client.close().await?;
        self.step(&format!("wrote {} MiB over NBD and flushed", FIRST / MIB), format!("{rate:.0} MB/s"));
        Ok(())
    }

    /// Writes the first `len` bytes of `round` and flushes. Returns MB/s.
    async fn fill(&self, client: &nbd::Client, round: u64, len: u64) -> Result<f64> {
        let began = self.rt.now();
        stream::iter((0..len).step_by(PIECE as usize))
            .map(Ok)
            .try_for_each_concurrent(8, |at| client.write(at, pattern(round, at, PIECE), false))
            .await?;
        client.flush().await?;
        Ok(len as f64 / 1e6 / seconds(&self.rt, began))
    }

    /// Reads `from..to` and compares it with `round`. Returns MB/s.
    async fn check(&self, export: &str, round: u64, from: u64, to: u64) -> Result<f64> {
        let client = self.client(export).await?;
        let began = self.rt.now();
        stream::iter((from..to).step_by(PIECE as usize))
            .map(Ok)
            .try_for_each_concurrent(8, |at| {
                let client = &client;
                async move {
                    let read = client.read(at, PIECE as u32).await?;
                    if read != pattern(round, at, PIECE) {
                        return Err(Error::new(Kind::Corrupt, format!("{export} shows wrong bytes at {at}")));
                    }
                    Ok(())
                }
            })
            .await?;
        let rate = (to - from) as f64 / 1e6 / seconds(&self.rt, began);
        client.close().await?;
        Ok(rate)
    }

    async fn snapshot_and_clone(&mut self) -> Result<()> {
        let began = self.rt.now();
        let paths = vec!["demo/disk@first".parse()?];
        self.ask(Verb::SnapshotCreate {
            paths,
            no_wait: false,
            if_absent: false,
            held: false,
            same_as: None,
        })
        .await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("snapshot `demo/disk@first`, stored and confirmed", format!("{took:.0} ms"));
        let client = self.client("demo/disk").await?;
        let rate = self.fill(&client, 2, SECOND).await?;
        client.close().await?;
        self.step(&format!("overwrote the first {} MiB", SECOND / MIB), format!("{rate:.0} MB/s"));
        let began = self.rt.now();
        let verb = Verb::clone_of("demo/disk@first".parse()?, "demo/copy".parse()?, false);
        self.ask(verb).await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("linked clone `demo/copy` of the snapshot", format!("{took:.0} ms"));
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        let client = self.client("demo/copy").await?;
        self.fill(&client, 3, 4 * MIB).await?;
        client.close().await?;
        self.check("demo/disk", 2, 0, SECOND).await?;
        self.check("demo/disk@first", 1, 0, SECOND).await?;
        self.check("demo/copy", 3, 0, 4 * MIB).await?;
        self.check("demo/copy", 1, 4 * MIB, SECOND).await?;
        self.step("disk, snapshot and clone (written on) each show their own bytes", "equal".into());
        Ok(())
    }

    async fn lose_two_stores(&mut self) -> Result<()> {
        self.ask(Verb::PoolRepair { name: "demo".parse()?, scrub: ScrubRequest::default(), labels: false })
            .await?;
        self.engine.shutdown().await?;
        self.move_stores(true).await?;
        let began = self.rt.now();
        self.engine = start(self.global, &self.dir).await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("two folders moved away, daemon restarted with cold caches", format!("{took:.0} ms"));
        let rate = self.check("demo/disk@first", 1, 0, FIRST).await?;
        self.step(
            &format!("read all {} MiB back with two stores away", FIRST / MIB),
            format!("{rate:.0} MB/s"),
        );
        let began = self.rt.now();
        let client = self.client("demo/disk").await?;
        self.fill(&client, 4, 16 * MIB).await?;
        client.close().await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("wrote on (16 MiB, flushed) with two stores away", format!("{took:.0} ms"));
        Ok(())
    }

    /// Moves two stores' folders away, or back.
    async fn move_stores(&self, away: bool) -> Result<()> {
        for index in [1, 4] {
            let home = store_dir(&self.dir, index);
            let gone = home.with_extension("away");
            let (from, to) = if away { (home, gone) } else { (gone, home) };
            self.engine
                .state()
                .host_context
                .disk
                .rename(&from, &to)
                .await
                .context(|| format!("moving {}", from.display()))?;
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<()> {
        self.move_stores(false).await?;
        let began = self.rt.now();
        self.ask(Verb::PoolRepair { name: "demo".parse()?, scrub: ScrubRequest::default(), labels: false })
            .await?;
        let took = seconds(&self.rt, began) * 1e3;
        self.step("folders back; repaired", format!("{took:.0} ms"));
        let began = self.rt.now();
        let scrub =
            self.ask(Verb::PoolScrub { name: "demo".parse()?, scrub: ScrubRequest::default() }).await?;
        let ScrubFindings { findings, unreachable } = scrub.answer()?;
        let found = findings.len() + unreachable.len();
        if found > 0 {
            return Err(Error::new(Kind::Corrupt, format!("scrub found {found} problems: {}", scrub.value)));
        }
        let took = seconds(&self.rt, began) * 1e3;
        self.step("scrubbed every shard of every store: clean", format!("{took:.0} ms"));
        self.check("demo/disk", 4, 0, 16 * MIB).await?;
        self.check("demo/disk", 2, 16 * MIB, SECOND).await?;
        let rate = self.check("demo/disk", 1, SECOND, FIRST).await?;
        self.step("the disk shows every write", format!("{rate:.0} MB/s"));
        Ok(())
    }

    async fn mount(&mut self) -> Result<()> {
        let (bucket, dir) = (self.dir.join("bucket"), self.dir.join("mnt"));
        let verb = Verb::Mount {
            url: format!("file://{}", bucket.display()),
            dir: dir.display().to_string(),
            options: Vec::new(),
        };
        match self.ask(verb).await {
            Err(e) if e.is(Kind::Unsupported) || e.is(Kind::Denied) => {
                self.step("mounting a bucket is not possible here", e.to_string());
                return Ok(());
            }
            other => other?,
        };
        let began = self.rt.now();
        // On another thread: a task of this runtime must not wait for a mount that this runtime serves.
        let (inside, data) = (dir.join("notes/hello.bin"), pattern(5, 0, 8 * MIB));
        let expected = data.clone();
        let (path, read) = (inside.clone(), self.rt.cpu(move || write_and_read(&inside, &data)).await?);
        let read = read.context(|| format!("using {}", path.display()))?;
        if read != expected {
            return Err(Error::new(Kind::Corrupt, "the mount gives back other bytes than were written"));
        }
        let took = seconds(&self.rt, began) * 1e3;
        self.ask(Verb::Unmount { dir: dir.display().to_string() }).await?;
        self.step("mounted a bucket; wrote and read an 8 MiB file", format!("{took:.0} ms"));
        let object =
            std::fs::metadata(bucket.join("notes/hello.bin")).context(|| "looking at the object".into())?;
        self.step("the file is one object of the bucket", format!("{} bytes", object.len()));
        Ok(())
    }
}

fn write_and_read(path: &Path, data: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    let open = |write: bool| {
        std::fs::OpenOptions::new().read(!write).write(write).create(write).truncate(write).open(path)
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = open(true)?;
    file.write_all(data)?;
    file.sync_all()?;
    drop(file);
    let mut read = Vec::new();
    open(false)?.read_to_end(&mut read)?;
    Ok(read)
}
