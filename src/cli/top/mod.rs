//! `windlass top`: what a running daemon does, anew each second. What is shown is made of the daemon's own counters by
//! `rates`, and drawn by `screen`. A daemon that does not answer is said, and asked again.

mod rates;
mod screen;

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::screen::Screen;
use super::Global;
use crate::daemon::answers::WatchAnswer;
use crate::daemon::api::Verb;
use crate::daemon::control_client::Client;
use crate::daemon::{StateDir, signals};
use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};

const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer. A daemon that takes longer counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time until a new answer or a signal shows.
const GLANCE: Duration = Duration::from_millis(100);
/// Number of answers that are kept: rates are those between the newest and the oldest of them.
const ANSWERS: usize = 4;

#[derive(clap::Args, Debug)]
pub struct Top {}

/// The answers that have come from the daemon.
#[derive(Debug, Default)]
struct Feed {
    /// The answers, the newest last.
    answers: VecDeque<Arc<WatchAnswer>>,
    /// Reason why the newest answer is not of a moment ago.
    trouble: Option<String>,
}

impl Feed {
    fn take(&mut self, polled: Result<WatchAnswer>) {
        match polled {
            Ok(answer) => {
                // A daemon that was started anew counts anew.
                self.answers.retain(|old| old.up_ms < answer.up_ms);
                self.answers.push_back(Arc::new(answer));
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
        while self.answers.len() > ANSWERS {
            self.answers.pop_front();
        }
    }
}

pub async fn run(_: &Global, _: Top) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let why =
            "`windlass top` draws on a terminal, and this is none: `windlass status --json` is for programs";
        return Err(Error::new(Kind::Usage, why));
    }
    let (rt, home) = (Rt::new(RealRuntime::current()), StateDir::locate()?);
    let feed = Arc::new(Mutex::new(Feed::default()));
    // What is wrong at the start is said before the screen is taken.
    let first = poll(&rt, &home).await?;
    feed.lock().take(Ok(first));
    let ended = Arc::new(AtomicBool::new(false));
    rt.spawn(keep_polling(rt.clone(), home, feed.clone())).detach();
    let signalled = ended.clone();
    rt.spawn(async move {
        signals::terminated().await;
        signalled.store(true, Ordering::Relaxed);
    })
    .detach();
    let mut terminal = ratatui::try_init().context(|| "taking the terminal".into())?;
    let shown = show(&mut terminal, &feed, &ended).context(|| "drawing on the terminal".into());
    ratatui::restore();
    shown?;
    Ok(ExitCode::SUCCESS)
}

async fn keep_polling(rt: Rt, home: StateDir, feed: Arc<Mutex<Feed>>) {
    loop {
        rt.sleep(EVERY).await;
        let polled = poll(&rt, &home).await;
        feed.lock().take(polled);
    }
}

async fn poll(rt: &Rt, home: &StateDir) -> Result<WatchAnswer> {
    let asked = async {
        let Some(mut client) = Client::connect(&home.control()?).await? else {
            let home = home.root().display();
            return Err(Error::new(
                Kind::Unavailable,
                format!("no daemon runs on {home}: `windlass serve` starts one"),
            ));
        };
        client.call(rt, Verb::Watch, |_| {}, std::future::pending()).await?.answer()
    };
    let late = || Error::new(Kind::Unavailable, format!("the daemon has not answered within {PATIENCE:?}"));
    rt.timeout(PATIENCE, asked).await.unwrap_or_else(|| Err(late()))
}

/// Shows the screen until a key or a signal ends it. It waits on this thread: nothing else runs here.
fn show(terminal: &mut DefaultTerminal, feed: &Mutex<Feed>, ended: &AtomicBool) -> std::io::Result<()> {
    let mut screen = Screen::default();
    while !ended.load(Ordering::Relaxed) {
        let (answers, trouble) = {
            let feed = feed.lock();
            (feed.answers.clone(), feed.trouble.clone())
        };
        if let (Some(was), Some(now)) = (answers.front(), answers.back()) {
            terminal.draw(|frame| screen.draw(frame, was, now, trouble.as_deref()))?;
        }
        if event::poll(GLANCE)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && pressed(&mut screen, key)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Applies a key to the screen. Returns whether the key ends it.
fn pressed(screen: &mut Screen, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        // The terminal makes no signal of it while we have it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Left => screen.sort_by_neighbour(-1),
        KeyCode::Right => screen.sort_by_neighbour(1),
        KeyCode::Char('r') => screen.reversed = !screen.reversed,
        KeyCode::Up => screen.first = screen.first.saturating_sub(1),
        KeyCode::Down => screen.first += 1,
        KeyCode::PageUp => screen.first = screen.first.saturating_sub(10),
        KeyCode::PageDown => screen.first += 10,
        KeyCode::Home => screen.first = 0,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_scroll_and_quit() {
        let mut screen = Screen::default();
        let mut press = |code, modifiers| pressed(&mut screen, KeyEvent::new(code, modifiers));
        assert!(!press(KeyCode::Down, KeyModifiers::NONE));
        assert!(!press(KeyCode::Char('r'), KeyModifiers::NONE));
        assert!(!press(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(press(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(press(KeyCode::Char('q'), KeyModifiers::NONE));
        assert_eq!((screen.first, screen.reversed), (1, true));
    }
}
