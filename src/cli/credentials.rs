//! `windlass credentials`: keys of stores, given to engines that run. They come from a file, standard input or the environment,
//! never from the command line, which everybody on the host may read.

use std::io::{IsTerminal as _, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Global, done, output, reach_engine};
use crate::daemon::StateDir;
use crate::daemon::answers::{CredentialsLine, word};
use crate::daemon::api::{CredentialsSet, Outcome, Verb};
use crate::daemon::control_client::Client;
use windlass_base::rt::{Disk as _, RealDisk};
use windlass_base::{Error, Kind, Result, ResultExt as _};
use windlass_store::{AccessKeys, KEYS_TEXT_MAX};

#[derive(clap::Subcommand, Debug)]
pub enum Credentials {
    /// Give keys to stores: those that are open go on with them at once. The keys are read from standard input unless a source
    /// is named: ACCESS:SECRET[:TOKEN], lines as in ~/.aws/credentials, or JSON as `aws sts` prints it
    Set {
        /// Whose: profile:NAME, the name of a store in windlass.toml, or s3://BUCKET[/PREFIX][?endpoint=URL]
        target: String,
        /// Read the keys from this file, which must be its owner's alone
        #[arg(long, value_name = "FILE", conflicts_with = "env")]
        from: Option<PathBuf>,
        /// Take AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of this command's environment
        #[arg(long)]
        env: bool,
        /// Keep them for the next start of the daemon: credentials.json in the state folder, for its owner alone
        #[arg(long)]
        keep: bool,
        /// Also when a store refuses them
        #[arg(long)]
        force: bool,
    },
    /// Whose keys were given, and how many open stores use them; no secret is shown
    #[command(visible_alias = "ls")]
    List,
    /// Take keys back: stores go on with what profiles and the environment give
    #[command(visible_alias = "rm")]
    Remove {
        /// As `list` shows it
        target: String,
    },
}

pub async fn run(global: &Global, args: Credentials) -> Result<ExitCode> {
    match args {
        Credentials::Set { target, from, env, keep, force } => {
            let keys = match (&from, env) {
                (_, true) => AccessKeys::of_environment(|name| std::env::var(name).ok())?,
                (Some(file), _) if file != Path::new("-") => of_file(file).await?,
                _ => of_stdin()?,
            };
            set(global, CredentialsSet { target, keys, keep, force }).await
        }
        Credentials::List => list(global).await,
        Credentials::Remove { target } => {
            let verb = |_: usize| Verb::CredentialsRemove { target: target.clone() };
            let answers = of_each(global, verb).await?;
            report(global, first_that_did(answers)?)
        }
    }
}

async fn of_file(file: &Path) -> Result<AccessKeys> {
    let doing = || format!("reading {}", file.display());
    let mode = std::fs::metadata(file).context(doing)?.permissions().mode() & 0o777;
    if mode & 0o066 != 0 {
        let shown = file.display();
        let why = format!("{shown} has mode {mode:03o}, so others may read or change it: chmod 600 {shown}");
        return Err(Error::new(Kind::Usage, why));
    }
    let bytes = RealDisk::start().read(file, KEYS_TEXT_MAX).await.context(doing)?;
    of_bytes(&bytes).map_err(|error| error.context(file.display().to_string()))
}

fn of_stdin() -> Result<AccessKeys> {
    if std::io::stdin().is_terminal() {
        let why = "what is typed on a terminal is seen: give the keys by a pipe, by --from FILE or by --env";
        return Err(Error::new(Kind::Usage, why));
    }
    let mut bytes = Vec::new();
    let mut stdin = std::io::stdin().take(KEYS_TEXT_MAX as u64 + 1);
    stdin.read_to_end(&mut bytes).context(|| "reading the keys from standard input".into())?;
    of_bytes(&bytes)
}

fn of_bytes(bytes: &[u8]) -> Result<AccessKeys> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= KEYS_TEXT_MAX);
    AccessKeys::parse(text.ok_or_else(|| Error::new(Kind::Usage, "this is no text of keys"))?)
}

/// Connects to the engines that run on the state folder: the daemon, then the one of mounts that began
/// without it.
async fn engines() -> Result<Vec<Client>> {
    let home = StateDir::locate()?;
    let daemon = Client::connect(&home.control()?).await?;
    let mounts = Client::connect(&home.of_mounts().control()?).await?;
    Ok(daemon.into_iter().chain(mounts).collect())
}

/// Asks each engine that runs. Where none runs, one is started and asked.
async fn of_each(global: &Global, verb: impl Fn(usize) -> Verb) -> Result<Vec<Result<Outcome>>> {
    let mut answers = Vec::new();
    for (at, mut client) in engines().await?.into_iter().enumerate() {
        answers.push(reach_engine::through(&mut client, verb(at)).await);
    }
    if answers.is_empty() {
        answers.push(reach_engine::ask(global, verb(0)).await);
    }
    Ok(answers)
}

async fn set(global: &Global, args: CredentialsSet) -> Result<ExitCode> {
    if !args.keep && engines().await?.is_empty() {
        let why = "no daemon and no mount runs that could take them: with --keep the next one has them";
        return Err(Error::new(Kind::NotFound, why));
    }
    // The first one keeps them: it is the daemon, where one runs, whose user must be able to read the file.
    let verb =
        |at: usize| Verb::CredentialsSet(CredentialsSet { keep: args.keep && at == 0, ..args.clone() });
    let mut answers = of_each(global, verb).await?.into_iter();
    let first = answers.next().unwrap_or_else(|| Err(Error::new(Kind::Internal, "nobody was asked")))?;
    let mut outcome = first;
    for other in answers {
        match other {
            Ok(other) => {
                outcome =
                    outcome.note_all(other.notes.into_iter().take(1).map(|note| format!("of mounts: {note}")))
            }
            Err(why) => {
                outcome = outcome.note(format!("mounts go on with what they had: {why}")).degraded(true)
            }
        }
    }
    report(global, outcome)
}

/// Returns the success of one engine that knew the keys, though others may not.
fn first_that_did(answers: Vec<Result<Outcome>>) -> Result<Outcome> {
    let (done, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let first = done.into_iter().chain(failed).next();
    first.unwrap_or_else(|| Err(Error::new(Kind::Internal, "nobody was asked")))
}

fn report(global: &Global, outcome: Outcome) -> Result<ExitCode> {
    output::notes(global, &outcome);
    Ok(done(&outcome))
}

async fn list(global: &Global) -> Result<ExitCode> {
    let mut whole = Outcome::default();
    let mut lines: Vec<CredentialsLine> = Vec::new();
    for answer in of_each(global, |_| Verb::CredentialsList).await? {
        let answer = answer?;
        for line in answer.answer::<Vec<CredentialsLine>>()? {
            match lines.iter_mut().find(|known| known.target == line.target && known.key_id == line.key_id) {
                Some(known) => known.stores += line.stores,
                None => lines.push(line),
            }
        }
        let degraded = whole.degraded || answer.degraded;
        whole = whole.note_all(answer.notes).degraded(degraded);
    }
    whole.value = Outcome::of(&lines)?.value;
    output::report(global, &whole, |lines: Vec<CredentialsLine>| {
        let row = |line: &CredentialsLine| {
            vec![
                line.target.clone(),
                line.key_id.clone(),
                word(&line.source),
                line.stores.to_string(),
                output::or_dash(line.expires.as_ref()),
            ]
        };
        output::table(&["TARGET", "KEY", "FROM", "STORES", "UNTIL"], lines.iter().map(row).collect());
    })?;
    Ok(done(&whole))
}
