//! Shows how a fetch from the Hub goes: a bar on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use legenda_models::hub::FetchState;
use legenda_schemas::units::ByteSize;

use crate::command::tell;

/// How often a line tells of a file that takes long.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// A fetch as it is shown.
#[derive(Default)]
pub(crate) struct Fetching(RefCell<Shown>);

#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    n_files: usize,
    n_bytes: u64,
}

impl Fetching {
    /// Shows how far the fetch of a file is.
    pub(crate) fn show(&self, state: FetchState<'_>) {
        let shown = &mut *self.0.borrow_mut();
        if state.ended {
            shown.n_files += 1;
            shown.n_bytes += state.done_bytes;
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
            shown.last_line = None;
            tell(&format!("fetched {} ({})", state.file, ByteSize(state.done_bytes)));
        } else if std::io::stderr().is_terminal() {
            let bar = shown.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(0);
                let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}  {msg}";
                bar.set_style(
                    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()),
                );
                bar
            });
            bar.set_message(state.file.to_owned());
            bar.set_length(state.total_bytes.unwrap_or(state.done_bytes));
            bar.set_position(state.done_bytes);
        } else {
            let last = *shown.last_line.get_or_insert_with(Instant::now);
            if last.elapsed() >= LINE_PERIOD {
                shown.last_line = Some(Instant::now());
                let total = state.total_bytes.map(|total| format!(" of {}", ByteSize(total)));
                let done = ByteSize(state.done_bytes);
                tell(&format!("fetching {}: {done}{}", state.file, total.unwrap_or_default()));
            }
        }
    }

    /// Ends what is shown; returns how many files and bytes were fetched.
    pub(crate) fn end(&self) -> (usize, u64) {
        let shown = &mut *self.0.borrow_mut();
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
        (shown.n_files, shown.n_bytes)
    }
}
