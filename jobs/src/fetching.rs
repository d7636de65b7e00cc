//! Progress of a download from the Hub: a bar on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use legenda_models::hub::FetchState;
use legenda_schemas::units::ByteSize;

use crate::command::eprint;

/// The interval between plain progress lines of a file.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress display of a fetch.
#[derive(Default)]
pub(crate) struct FetchProgress(RefCell<FetchDisplay>);

#[derive(Default)]
struct FetchDisplay {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    n_files: usize,
    n_bytes: u64,
}

impl FetchProgress {
    /// Shows the progress of a file.
    pub(crate) fn show(&self, state: FetchState<'_>) {
        let display = &mut *self.0.borrow_mut();
        if state.ended {
            display.n_files += 1;
            display.n_bytes += state.done_bytes;
            if let Some(bar) = display.bar.take() {
                bar.finish_and_clear();
            }
            display.last_line = None;
            eprint(&format!("fetched {} ({})", state.file, ByteSize(state.done_bytes)));
        } else if std::io::stderr().is_terminal() {
            let bar = display.bar.get_or_insert_with(|| {
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
            let last = *display.last_line.get_or_insert_with(Instant::now);
            if last.elapsed() >= LINE_INTERVAL {
                display.last_line = Some(Instant::now());
                let total = state.total_bytes.map(|total| format!(" of {}", ByteSize(total)));
                let done = ByteSize(state.done_bytes);
                eprint(&format!("fetching {}: {done}{}", state.file, total.unwrap_or_default()));
            }
        }
    }

    /// Clears the display; returns the number of files and bytes fetched.
    pub(crate) fn end(&self) -> (usize, u64) {
        let display = &mut *self.0.borrow_mut();
        if let Some(bar) = display.bar.take() {
            bar.finish_and_clear();
        }
        (display.n_files, display.n_bytes)
    }
}
