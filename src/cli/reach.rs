//! Reaching an engine: the running daemon through its control socket, else one in this process.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use crate::base::rt::{RealDisk, RealRuntime, Rt};
use crate::base::{Kind, Result};
use crate::daemon::api::{Outcome, Progress, Verb};
use crate::daemon::control::{Client, ProgressSink};
use crate::daemon::{Config, Engine, Home, Options};

/// Runs one verb wherever the engine is.
pub async fn ask(global: &Global, verb: Verb) -> Result<Outcome> {
    let home = Home::locate()?;
    // A daemon that is just starting or ending holds the lock without listening: a short wait bridges it.
    for attempt in 0..20 {
        if let Some(mut client) = Client::connect(&home.control()?).await? {
            let mut bar = Bar::default();
            return client.call(verb, |step| bar.show(&step)).await;
        }
        match start(global, home.clone(), Options::default()).await {
            Err(e) if e.is(Kind::Owned) && attempt < 19 => {
                Rt::new(RealRuntime::current()).sleep(std::time::Duration::from_millis(100)).await;
            }
            Err(e) => return Err(e),
            Ok(engine) => return in_process(engine, verb).await,
        }
    }
    unreachable!("the last attempt returns")
}

async fn in_process(engine: Arc<Engine>, verb: Verb) -> Result<Outcome> {
    let (sink, mut steps) = ProgressSink::channel();
    let shown = async move {
        let mut bar = Bar::default();
        while let Some(step) = steps.recv().await {
            bar.show(&step);
        }
    };
    let (result, ()) = futures::join!(engine.run(verb, sink), shown);
    // A command that ran the engine itself gives up what it owns before it exits.
    let ended = engine.shutdown().await;
    let outcome = result?;
    ended?;
    Ok(outcome)
}

/// Starts an engine in this process; `Kind::Owned` when another one runs on the state folder.
pub async fn start(global: &Global, home: Home, options: Options) -> Result<Arc<Engine>> {
    let rt = Rt::new(RealRuntime::current());
    let disk = RealDisk::start();
    let file = global.config.clone().unwrap_or_else(|| home.config());
    let config = Config::load(&*disk, &file, global.config.is_some()).await?;
    let memory = config.memory(global.memory)?;
    Engine::start(rt, disk, home, config, Options { memory, ..options }).await
}

/// A progress bar on a terminal's stderr, from the second on which a verb takes longer than one.
#[derive(Default)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn show(&mut self, step: &Progress) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::new(step.total);
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(step.total);
        bar.set_position(step.done);
        bar.set_message(step.doing.clone());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
