//! `windlass doctor`: looks at all that Windlass stands on, and names each trouble with its cure. Facts are gathered here;
//! what they mean is judged by functions that ask nobody. Nothing is changed, but for probe objects that are removed again.

mod bundle;
mod check;
mod daemon;
mod failure_domains;
mod folder_facts;
mod host;
mod pools;
mod redact;
mod state_folder;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;

use self::bundle::Bundle;
use self::check::{Check, State};
use self::daemon::{DaemonFacts, SocketFacts};
use self::failure_domains::Placed;
use self::host::HostFacts;
use self::state_folder::StateFacts;
use self::store::StoreFacts;
use super::daemon_user::DaemonUser;
use super::{DEGRADED, Global, config, output, reach_engine};
use crate::daemon::answers::{CredentialsLine, EngineStatus, PoolAnswer};
use crate::daemon::api::{Outcome, Verb};
use crate::daemon::control_client::Client;
use crate::daemon::{KnownPool, StateDir, read_kept_credentials};
use windlass_base::rt::{RealDisk, RealRuntime, Rt};
use windlass_base::{Error, Kind, Name, Result, utc};
use windlass_nbd::Address;
use windlass_store::{KeySource, KeyTarget, StoreSpec, StoreUrl, keyring};

/// Longest wait for the engine, with each question.
const ASK: Duration = Duration::from_secs(60);

#[derive(clap::Args, Debug)]
pub struct Doctor {
    /// Only this pool and its stores (default: every known pool)
    #[arg(long, value_name = "POOL")]
    pool: Vec<Name>,
    /// Also this store: URL, or a [store.NAME] of windlass.toml; without --pool no pool is looked at then
    #[arg(long, value_name = "URL")]
    store: Vec<String>,
    /// Write a report for somebody who helps: a tar file of what was found, without secrets
    #[arg(long, value_name = "FILE.tar")]
    bundle: Option<PathBuf>,
}

/// The report, as `doctor --json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    at: String,
    checks: Vec<Check>,
    bad: usize,
    warn: usize,
    unknown: usize,
    ok: usize,
}

pub async fn run(global: &Global, args: Doctor) -> Result<ExitCode> {
    let look = Look::begin(global).await?;
    let (checks, bundle) = look.all(&args).await?;
    let count = |state: State| checks.iter().filter(|check| check.state == state).count();
    let report = Report {
        version: daemon::VERSION,
        at: utc::show(look.rt.wall_ms()),
        bad: count(State::Bad),
        warn: count(State::Warn),
        unknown: count(State::Unknown),
        ok: count(State::Ok),
        checks,
    };
    if let Some(file) = &args.bundle {
        bundle.write(file, &report).await?;
    }
    match global.json {
        true => output::notes(global, &Outcome::of(&report)?),
        false => human(&report, args.bundle.as_ref()),
    }
    let attention = report.checks.iter().any(Check::needs_attention);
    Ok(if attention { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
}

fn human(report: &Report, bundle: Option<&PathBuf>) {
    for check in &report.checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Unknown => "?",
            State::Warn => "WARN",
            State::Bad => "BAD",
        };
        let of = check.of.as_ref().map(|of| format!(" {of}")).unwrap_or_default();
        output::line(&format!("{state:4}  {}{of}: {}", check.name, check.found));
        check.cure.iter().for_each(|cure| output::line(&format!("      do: {cure}")));
    }
    let Report { bad, warn, unknown, ok, .. } = report;
    output::line(&format!("{bad} bad, {warn} to look at, {unknown} that can't be told, {ok} fine"));
    if let Some(file) = bundle {
        output::line(&format!("the report is in {}: read it before you send it", file.display()));
    }
}

/// The state of gathering facts.
struct Look<'a> {
    global: &'a Global,
    rt: Rt,
    home: StateDir,
    /// The daemon that answers, if one does, and its process if that is known. The error says why it can't be
    /// asked.
    daemon: Result<Option<Option<u32>>, String>,
}

impl<'a> Look<'a> {
    async fn begin(global: &'a Global) -> Result<Look<'a>> {
        let home = StateDir::locate()?;
        let daemon = match home.control() {
            Ok(path) => Client::connect(&path).await.map(|found| found.map(|client| client.process())),
            Err(error) => Err(error),
        };
        let daemon = daemon.map_err(|error| error.to_string());
        Ok(Look { global, rt: Rt::new(RealRuntime::current()), home, daemon })
    }

    async fn all(&self, args: &Doctor) -> Result<(Vec<Check>, Bundle)> {
        let answers = self.daemon.as_ref().map(Option::is_some).map_err(Clone::clone);
        let mut checks = HostFacts::look(self.memory().await).judge();
        checks.extend(StateFacts::look(&self.home, answers).judge());
        checks.extend(self.config().await?);
        let status = self.status().await;
        checks.extend(self.daemon_facts(status.as_ref()).await.judge());
        match &status {
            Some(Ok(status)) => checks.extend(daemon::judge_status(status)),
            Some(Err(why)) => checks.push(Check::bad("engine", why.clone(), "do as the message says")),
            None => {}
        }
        let pools = match self.pools(args).await {
            Err(error) if error.is(Kind::NotFound) => return Err(error),
            Err(error) => {
                let cure = "mend or move away the file, then `windlass pool add` makes the pool known again";
                checks.push(Check::bad("known-pools", error.to_string(), cure));
                Vec::new()
            }
            Ok(pools) => pools,
        };
        let answers = self.pool_answers(&pools).await;
        let now = self.rt.wall_ms();
        for (pool, answer) in pools.iter().zip(&answers) {
            checks.extend(pools::judge(pool.name.as_str(), answer, now));
            let bears = answer.as_ref().ok().and_then(pools::bears);
            checks.push(failure_domains::judge(pool.name.as_str(), &placed(pool), bears));
        }
        checks.extend(self.stores(args, &pools).await?);
        let bundle = Bundle {
            home: self.home.clone(),
            config: reach_engine::config_file(self.global)?.0,
            status: status.and_then(Result::ok),
            pools: pools
                .into_iter()
                .zip(answers)
                .filter_map(|(pool, a)| Some((pool.name, a.ok()?)))
                .collect(),
        };
        Ok((checks, bundle))
    }

    async fn memory(&self) -> Result<u64, String> {
        let config = reach_engine::config(self.global).await.map_err(|e| e.to_string())?;
        config.memory(self.global.memory).map_err(|e| e.to_string())
    }

    async fn config(&self) -> Result<Vec<Check>> {
        let (file, _) = reach_engine::config_file(self.global)?;
        let found = config::findings(self.global).await;
        let wrong = found.map(|found| found.wrong).map_err(|error| error.to_string());
        Ok(daemon::judge_config(&file, &wrong))
    }

    /// Asks a verb that only looks, through the daemon or in this process.
    async fn ask<T: serde::de::DeserializeOwned>(&self, verb: Verb) -> Result<T, String> {
        match self.rt.timeout(ASK, Box::pin(reach_engine::ask(self.global, verb))).await {
            Some(done) => done.and_then(|outcome| outcome.answer()).map_err(|error| error.to_string()),
            None => Err(format!("no answer within {ASK:?}")),
        }
    }

    /// Asks for the status. `None`: there is no state folder yet, and looking must not make one.
    async fn status(&self) -> Option<Result<EngineStatus, String>> {
        if !self.home.root().is_dir() {
            return None;
        }
        Some(self.ask(Verb::Status).await)
    }

    async fn daemon_facts(&self, status: Option<&Result<EngineStatus, String>>) -> DaemonFacts {
        let running = self.daemon.as_ref().is_ok_and(Option::is_some);
        let Some(Ok(status)) = status.filter(|_| running) else {
            return DaemonFacts { version: None, replaced: false, sockets: Vec::new() };
        };
        let paths = status.nbd.iter().filter_map(|address| match address.parse() {
            Ok(Address::Unix(path)) => Some(path.display().to_string()),
            _ => None,
        });
        let sockets =
            join_all(paths.map(|path| async move { SocketFacts::look(&self.rt, &path).await })).await;
        DaemonFacts { version: Some(status.version.clone()), replaced: self.is_replaced(), sockets }
    }

    fn is_replaced(&self) -> bool {
        let process = self.daemon.as_ref().ok().copied().flatten().flatten();
        let program = process.and_then(|process| std::fs::read_link(format!("/proc/{process}/exe")).ok());
        program.is_some_and(|program| program.to_string_lossy().ends_with(" (deleted)"))
    }

    async fn pools(&self, args: &Doctor) -> Result<Vec<KnownPool>> {
        let known = self.home.known_pools(&*RealDisk::start()).await?;
        if let Some(name) = args.pool.iter().find(|name| known.iter().all(|known| known.name != **name)) {
            let why =
                format!("this host knows no pool {name}: `windlass pool list` shows those that it knows");
            return Err(Error::new(Kind::NotFound, why));
        }
        let wanted = |known: &KnownPool| match args.pool.is_empty() {
            true => args.store.is_empty(),
            false => args.pool.contains(&known.name),
        };
        Ok(known.into_iter().filter(|known| wanted(known) && known.destroying.is_none()).collect())
    }

    /// Asks for the status of the pools, one after the other: without a daemon each question takes the lock
    /// of the state folder.
    async fn pool_answers(&self, pools: &[KnownPool]) -> Vec<Result<PoolAnswer, String>> {
        let mut answers = Vec::new();
        for pool in pools {
            answers.push(self.ask(Verb::PoolStatus { name: pool.name.clone(), walk: false }).await);
        }
        answers
    }

    async fn stores(&self, args: &Doctor, pools: &[KnownPool]) -> Result<Vec<Check>> {
        let mut specs: Vec<(StoreSpec, bool)> = Vec::new();
        let of_pools = pools.iter().flat_map(|pool| &pool.stores).filter_map(|given| given.parse().ok());
        specs.extend(of_pools.map(|spec| (spec, true)));
        if !args.store.is_empty() {
            let config = reach_engine::config(self.global).await?;
            for given in &args.store {
                specs.push((config.store_url(given)?.parse()?, false));
            }
        }
        let (mut checks, elsewhere) = self.given_credentials().await;
        let is_elsewhere = |(spec, _): &(StoreSpec, bool)| match &spec.url {
            StoreUrl::S3(place) => elsewhere.iter().any(|target| target.covers(place)),
            _ => false,
        };
        let (untried, specs): (Vec<_>, Vec<_>) = specs.into_iter().partition(is_elsewhere);
        let user = DaemonUser::of(&self.home);
        let looks =
            specs.into_iter().map(|(spec, of_pool)| StoreFacts::look(&self.rt, (spec.url, of_pool), &user));
        checks.extend(join_all(looks).await.iter().flat_map(StoreFacts::judge));
        let why = "the daemon was given credentials for it, which no command can see: not tried; `windlass pool status` \
            tells what the daemon meets";
        let untried = untried
            .into_iter()
            .map(|(spec, _)| Check::unknown("store-credentials", why).of(spec.url.to_string()));
        checks.extend(untried);
        Ok(checks)
    }

    /// Takes the keys of stores that are kept for this process too. Returns checks, and the targets whose
    /// keys the daemon alone has.
    async fn given_credentials(&self) -> (Vec<Check>, Vec<KeyTarget>) {
        let mut checks = Vec::new();
        match read_kept_credentials(&*RealDisk::start(), &self.home.credentials()).await {
            Ok(kept) => keyring().replace(KeySource::Kept, kept),
            Err(error) => {
                checks.push(Check::bad("credentials-kept", error.to_string(), "do as the message says"))
            }
        }
        if !self.daemon.as_ref().is_ok_and(Option::is_some) {
            return (checks, Vec::new());
        }
        let lines: Vec<CredentialsLine> = self.ask(Verb::CredentialsList).await.unwrap_or_default();
        let elsewhere = lines.iter().filter(|line| line.source != KeySource::Kept);
        (checks, elsewhere.filter_map(|line| line.target.parse().ok()).collect())
    }
}

fn placed(pool: &KnownPool) -> Vec<Placed> {
    pool.stores.iter().filter_map(|given| given.parse().ok()).map(Placed::of).collect()
}
