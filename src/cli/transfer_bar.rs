//! The progress of bytes, with their rate and the time left, on a stderr that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

pub struct TransferBar(ProgressBar);

impl TransferBar {
    pub fn new(doing: String, total: u64) -> TransferBar {
        let bar = ProgressBar::new(total).with_message(doing);
        let shown = "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(shown).unwrap_or_else(|_| ProgressStyle::default_bar()));
        TransferBar(bar)
    }

    /// So many bytes are done.
    pub fn reach(&mut self, at: u64) {
        self.0.set_position(at);
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
