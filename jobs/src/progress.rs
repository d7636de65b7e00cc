//! Progress of a run: a bar on a terminal, plain lines elsewhere, JSON for programs.

use std::{
    io::IsTerminal,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle as BarStyle};
use legenda_pipeline::Progress;
use legenda_schemas::units::counted;
use serde_json::json;

use crate::{cli::ProgressStyle, command::eprint};

/// A progress display.
enum Display {
    Bar(ProgressBar),
    Plain,
    Json,
    None,
}

impl Display {
    /// Creates a display; `Auto` is a bar if stderr is a terminal.
    fn new(style: ProgressStyle) -> Self {
        match style {
            ProgressStyle::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::new(0);
                let template = "{bar:30} {pos}/{len} rows  {msg}";
                bar.set_style(BarStyle::with_template(template).unwrap_or(BarStyle::default_bar()));
                Self::Bar(bar)
            }
            ProgressStyle::Auto | ProgressStyle::Plain => Self::Plain,
            ProgressStyle::Json => Self::Json,
            ProgressStyle::None => Self::None,
        }
    }

    fn period(&self) -> Duration {
        match self {
            Self::Bar(_) => Duration::from_millis(100),
            Self::Json => Duration::from_secs(1),
            Self::Plain | Self::None => Duration::from_secs(5),
        }
    }

    fn show(&self, state: &Snapshot) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(state.rows_planned);
                bar.set_position(state.rows_done);
                bar.set_message(state.text());
            }
            Self::Plain => {
                eprint(&format!(
                    "{}/{} rows  {}",
                    state.rows_done,
                    state.rows_planned,
                    state.text()
                ));
            }
            Self::Json => {
                let line = json!({
                    "rows_planned": state.rows_planned,
                    "rows_done": state.rows_done,
                    "rejects": state.rejects,
                    "rows_per_second": state.rows_per_second,
                    "tokens_per_second": state.tokens_per_second,
                    "seconds_left": state.seconds_left(),
                    "latest": state.latest,
                });
                eprint(&line.to_string());
            }
            Self::None => {}
        }
    }
}

/// The number of rows and seconds after which the remaining time is shown. Before, the rate is distorted
/// by filling queues and slots.
const STABLE_ROWS: u64 = 32;
const STABLE_SECONDS: f64 = 5.0;

/// The progress of a run at one point in time.
struct Snapshot {
    rows_planned: u64,
    rows_done: u64,
    rejects: u64,
    rows_per_second: f64,
    tokens_per_second: f64,
    /// The latest answers.
    latest: Vec<String>,
    /// Whether the rate is meaningful for an estimate.
    is_stable: bool,
}

impl Snapshot {
    #[expect(clippy::cast_precision_loss, reason = "rates are approximate")]
    fn new(progress: &Progress, since: Instant) -> Self {
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let settled = progress.rows_settled();
        Self {
            rows_planned: progress.rows_planned.load(Relaxed),
            rows_done: settled + progress.rows_resumed.load(Relaxed),
            rejects: progress.rejects.load(Relaxed),
            rows_per_second: settled as f64 / seconds,
            tokens_per_second: progress.tokens_generated.load(Relaxed) as f64 / seconds,
            latest: progress.latest.texts(),
            is_stable: settled >= STABLE_ROWS && seconds >= STABLE_SECONDS,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the remaining time is an estimate")]
    fn seconds_left(&self) -> Option<f64> {
        let left = self.rows_planned.saturating_sub(self.rows_done) as f64;
        self.is_stable.then(|| left / self.rows_per_second)
    }

    fn text(&self) -> String {
        let left = self.seconds_left().map_or_else(String::new, |seconds| {
            let left = Duration::from_secs_f64(seconds.min(1e9));
            format!("  {} left", indicatif::HumanDuration(left))
        });
        // Embedding jobs generate no tokens.
        let tokens = if self.tokens_per_second > 0.0 {
            format!("{:.0} tokens/s  ", self.tokens_per_second)
        } else {
            String::new()
        };
        let rejects = counted(self.rejects, "reject");
        format!("{:.1} rows/s  {tokens}{rejects}{left}", self.rows_per_second)
    }
}

/// A background task that shows progress.
pub(crate) struct ProgressReporter {
    display: Arc<Display>,
    progress: Arc<Progress>,
    since: Instant,
    task: tokio::task::JoinHandle<()>,
}

impl ProgressReporter {
    /// Starts to show the progress periodically.
    pub(crate) fn start(style: ProgressStyle, progress: Arc<Progress>) -> Self {
        let (display, since) = (Arc::new(Display::new(style)), Instant::now());
        let task = tokio::spawn({
            let (display, progress) = (Arc::clone(&display), Arc::clone(&progress));
            async move {
                let mut ticks = tokio::time::interval(display.period());
                // The first tick fires immediately, when there is nothing to show yet.
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    display.show(&Snapshot::new(&progress, since));
                }
            }
        });
        Self { display, progress, since, task }
    }

    /// Shows the final progress and clears the bar.
    pub(crate) async fn finish(self) {
        self.task.abort();
        self.task.await.ok();
        self.display.show(&Snapshot::new(&self.progress, self.since));
        if let Display::Bar(bar) = &*self.display {
            bar.finish_and_clear();
        }
    }
}
