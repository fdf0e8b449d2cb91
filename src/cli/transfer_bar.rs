//! How far a long command is: a bar on a stderr that is a terminal, else a line now and then.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use windlass_base::rt::{RealRuntime, Rt};
use windlass_base::units::{show_bytes, show_time};

/// Pause between lines on a stderr that is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Units that a bar counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    Bytes,
    /// Shards, clones or other things, as the text of the bar says.
    Steps,
}

/// Makes a bar of unknown length. The lines on a stderr that is no terminal end with it.
pub fn bar(counts: Counts) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if bar.is_hidden() {
        let (rt, weak) = (Rt::new(RealRuntime::current()), bar.downgrade());
        let clock = rt.clone();
        let lines = async move {
            loop {
                clock.sleep(LINE).await;
                let Some(bar) = weak.upgrade().filter(|bar| !bar.is_finished()) else { return };
                eprintln!("windlass: {}", line(&bar, counts));
            }
        };
        rt.spawn(lines).detach();
    }
    bar
}

fn line(bar: &ProgressBar, counts: Counts) -> String {
    let shown = |n: u64| match counts {
        Counts::Bytes => show_bytes(n),
        Counts::Steps => n.to_string(),
    };
    let (doing, at) = (bar.message(), bar.position());
    match bar.length().filter(|of| *of > 0) {
        Some(of) => {
            let percent = u128::from(at) * 100 / u128::from(of);
            let left = show_time(bar.eta().as_millis() as u64);
            format!("{doing}: {} of {}, {percent} %, about {left} left", shown(at), shown(of))
        }
        None => format!("{doing}: {}", shown(at)),
    }
}

/// A bar that counts bytes, with their rate and the time left.
pub struct TransferBar(ProgressBar);

impl TransferBar {
    pub fn new(doing: String, total: u64) -> TransferBar {
        let bar = bar(Counts::Bytes).with_message(doing);
        bar.set_length(total);
        let shown = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(shown).unwrap_or_else(|_| ProgressStyle::default_bar()));
        TransferBar(bar)
    }

    /// Tells that so many bytes are done.
    pub fn reach(&mut self, at: u64) {
        self.0.set_position(at);
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        let bar = ProgressBar::hidden().with_message("importing p/v");
        bar.set_position(3 << 29);
        assert_eq!(line(&bar, Counts::Bytes), "importing p/v: 1.5 GiB");
        bar.set_length(6 << 30);
        let told = line(&bar, Counts::Bytes);
        assert!(told.starts_with("importing p/v: 1.5 GiB of 6.0 GiB, 25 %, about "), "{told}");
        bar.set_length(0);
        assert_eq!(line(&bar, Counts::Steps), format!("importing p/v: {}", 3 << 29));
    }
}
