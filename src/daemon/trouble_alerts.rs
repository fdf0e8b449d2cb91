//! Tells somebody of troubles, where windlass.toml says whom: `[alert]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use serde_json::json;

use super::config::AlertPlan;
use super::engine::Engine;
use super::engine_tables::EngineState;
use super::shell_command::ShellCommand;
use super::verbs;
use windlass_base::rt::{Instant, Rt};
use windlass_base::{Error, Kind, Result};
use windlass_store::web_client;

/// Time between two looks for troubles.
const LOOK: Duration = Duration::from_secs(20);
/// Time between two requests to stores that nobody uses.
const ASK: Duration = Duration::from_secs(3600);
/// Time until the next try where somebody could not be told.
const AGAIN: Duration = Duration::from_secs(300);
/// Longest time that a web server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes that a command may print; nobody reads them.
const OUTPUT_MAX: usize = 1 << 20;

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Name of the thing that is wrong: `pool tank`, `mount /srv/data`; `host`.
    pub what: String,
    /// Sentence that tells what is wrong, and what to do.
    pub why: String,
}

/// Troubles by a key that stays the same while a trouble stands.
pub type Found = BTreeMap<String, Trouble>;

/// Record of what one way of telling has told.
#[derive(Debug, Default)]
struct Told {
    /// Troubles that stand, by the keys of `Found`.
    standing: BTreeMap<String, Standing>,
    failed: Option<Instant>,
}

#[derive(Debug)]
struct Standing {
    began: Instant,
    seen: Instant,
    told: bool,
    trouble: Trouble,
}

/// Troubles that are to be told of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct News {
    began: Found,
    /// Troubles that are over, as they were last.
    over: Found,
    /// Number of troubles that were told before and are not over.
    stand: usize,
}

impl Told {
    /// Returns what is to be told now. A trouble counts once it has stood for `after`, and is over when it has been
    /// gone for as long: what comes and goes is told once.
    fn news(&mut self, now: Instant, found: &Found, after: Duration) -> News {
        for (key, trouble) in found {
            let new = || Standing { began: now, seen: now, told: false, trouble: trouble.clone() };
            let standing = self.standing.entry(key.clone()).or_insert_with(new);
            (standing.seen, standing.trouble) = (now, trouble.clone());
        }
        let is_gone = |standing: &Standing| standing.seen != now && now.since(standing.seen) >= after;
        self.standing.retain(|_, standing| standing.told || !is_gone(standing));
        let mut news = News::default();
        for (key, standing) in &self.standing {
            let list = match standing.told {
                true if is_gone(standing) => &mut news.over,
                true => {
                    news.stand += 1;
                    continue;
                }
                false if standing.seen == now && now.since(standing.began) >= after => &mut news.began,
                false => continue,
            };
            list.insert(key.clone(), standing.trouble.clone());
        }
        news
    }

    fn is_told(&mut self, news: &News) {
        self.standing.retain(|key, _| !news.over.contains_key(key));
        for key in news.began.keys() {
            if let Some(standing) = self.standing.get_mut(key) {
                standing.told = true;
            }
        }
    }
}

impl News {
    fn is_empty(&self) -> bool {
        self.began.is_empty() && self.over.is_empty()
    }

    /// Returns a text for people: a line that says how many troubles there are, and one for each.
    fn text(&self, host: &str) -> String {
        let stand = match self.stand {
            0 => String::new(),
            n => format!(", {n} told before"),
        };
        let mut text =
            format!("windlass on {host}: {} wrong, {} over{stand}\n", self.began.len(), self.over.len());
        for Trouble { what, why } in self.began.values() {
            text += &format!("\n{what}: {why}\n");
        }
        for Trouble { what, why } in self.over.values() {
            text += &format!("\nover: {what}: {why}\n");
        }
        text
    }
}

/// Tells of troubles that stand until the engine ends.
pub fn follow(engine: &Arc<Engine>) {
    let (weak, rt) = (Arc::downgrade(engine), engine.state().host_context.rt.clone());
    let again = rt.clone();
    let work = async move {
        let (mut by_command, mut by_url, mut asked) = (Told::default(), Told::default(), None::<Instant>);
        while let Some(engine) = weak.upgrade().filter(|engine| !engine.state().stop.is_cancelled()) {
            let state = engine.state();
            if let Some(plan) = state.config().alert_plan() {
                // A pool that nobody uses knows nothing new of its stores.
                if asked.is_none_or(|at| again.now().since(at) >= ASK) {
                    asked = Some(again.now());
                    verbs::ask_all(state).await;
                }
                let found = verbs::standing_troubles(state).await;
                by_command.tell(state, &plan, &found, plan.command.as_deref().map(Way::Command)).await;
                by_url.tell(state, &plan, &found, plan.url.as_deref().map(Way::Url)).await;
            }
            let stop = state.stop.clone();
            drop(engine);
            let _ = again.timeout(LOOK, stop.cancelled()).await;
        }
    };
    rt.spawn(work).detach();
}

/// Way by which somebody is told.
enum Way<'a> {
    /// A command that gets a text for people.
    Command(&'a str),
    /// A web address that gets the text, and JSON for programs.
    Url(&'a str),
}

impl Told {
    async fn tell(&mut self, state: &EngineState, plan: &AlertPlan, found: &Found, way: Option<Way<'_>>) {
        let Some(way) = way else { return self.standing.clear() };
        let (rt, host) = (&state.host_context.rt, &state.host_context.host.name);
        let news = self.news(rt.now(), found, plan.after);
        if news.is_empty() || self.failed.is_some_and(|at| rt.now().since(at) < AGAIN) {
            return;
        }
        let done = match way {
            Way::Command(line) => {
                let text = news.text(host);
                let called = "the command of [alert]";
                let input = text.as_bytes();
                ShellCommand { called, line, input, output_max: OUTPUT_MAX }.run(rt).await.map(drop)
            }
            Way::Url(url) => post(rt, url, &news, host).await,
        };
        match done {
            Ok(()) => {
                self.failed = None;
                self.is_told(&news);
            }
            Err(error) => {
                self.failed = Some(rt.now());
                tracing::warn!(%error, "nobody could be told of what is wrong; the next try is in {AGAIN:?}");
            }
        }
    }
}

async fn post(rt: &Rt, url: &str, news: &News, host: &str) -> Result<()> {
    let told = |all: &Found| -> serde_json::Value {
        all.values().map(|Trouble { what, why }| json!({"what": what, "why": why})).collect()
    };
    let body = json!({
        "text": news.text(host),
        "host": host,
        "began": told(&news.began),
        "over": told(&news.over),
        "stand": news.stand,
    });
    let failed = |why: String| Error::new(Kind::Io, format!("the URL of [alert] {why}"));
    let mut request = HttpRequest::new(SdkBody::from(body.to_string()));
    request.set_method("POST").map_err(|e| failed(e.to_string()))?;
    request.set_uri(url.to_owned()).map_err(|e| failed(format!("can't be asked: {e}")))?;
    request.headers_mut().insert("content-type", "application/json");
    let connector = web_client()?;
    match rt.timeout(PATIENCE, connector.call(request)).await {
        Some(Ok(answer)) if answer.status().is_success() => Ok(()),
        Some(Ok(answer)) => Err(failed(format!("answers with status {}", answer.status().as_u16()))),
        Some(Err(error)) => Err(failed("can't be reached".to_owned()).because(error)),
        None => Err(failed(format!("does not answer within {PATIENCE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn found(all: &[(&str, &str)]) -> Found {
        let one = |(what, why): &(&str, &str)| {
            ((*what).to_owned(), Trouble { what: (*what).to_owned(), why: (*why).to_owned() })
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn a_trouble_is_told_once_it_has_stood_and_its_end_once_it_is_gone_for_as_long() {
        let (mut told, pool) = (Told::default(), found(&[("pool p", "a store is away")]));
        let at = |minutes: u32| Instant(Duration::ZERO) + MINUTE * minutes;
        assert!(told.news(at(0), &pool, 2 * MINUTE).is_empty(), "it may pass");
        assert!(told.news(at(1), &pool, 2 * MINUTE).is_empty());
        let news = told.news(at(2), &pool, 2 * MINUTE);
        assert_eq!((news.began.clone(), news.over.len(), news.stand), (pool.clone(), 0, 0));
        assert_eq!(told.news(at(2), &pool, 2 * MINUTE), news, "nobody was told: it is news still");
        told.is_told(&news);
        // Its sentence changes, it comes and goes: nothing new.
        let longer = found(&[("pool p", "two stores are away")]);
        assert_eq!(told.news(at(3), &longer, 2 * MINUTE), News { stand: 1, ..News::default() });
        assert!(told.news(at(4), &found(&[]), 2 * MINUTE).is_empty());
        assert!(told.news(at(5), &longer, 2 * MINUTE).is_empty());
        assert!(told.news(at(6), &found(&[]), 2 * MINUTE).is_empty());
        let news = told.news(at(7), &found(&[]), 2 * MINUTE);
        assert_eq!((news.began.len(), news.over.clone()), (0, longer));
        told.is_told(&news);
        assert!(told.news(at(8), &found(&[]), 2 * MINUTE).is_empty());
    }

    #[test]
    fn what_passes_before_it_counts_is_never_told() {
        let (mut told, short) = (Told::default(), found(&[("mount /m", "the bucket does not answer")]));
        let at = |seconds: u64| Instant(Duration::ZERO) + Duration::from_secs(seconds);
        assert!(told.news(at(0), &short, MINUTE).is_empty());
        assert!(told.news(at(59), &found(&[]), MINUTE).is_empty());
        assert!(told.news(at(61), &found(&[]), MINUTE).is_empty());
        assert!(told.news(at(70), &short, MINUTE).is_empty(), "it has begun anew");
    }

    #[test]
    fn the_text_says_how_many_and_each() {
        let began = found(&[("pool p", "a store is away"), ("volume p/v", "writes wait")]);
        let news = News { began, over: found(&[("mount /m", "the bucket did not answer")]), stand: 1 };
        assert_eq!(
            news.text("h"),
            "windlass on h: 2 wrong, 1 over, 1 told before\n\npool p: a store is away\n\nvolume p/v: writes wait\n\n\
             over: mount /m: the bucket did not answer\n"
        );
    }
}
