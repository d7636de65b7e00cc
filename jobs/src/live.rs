//! Answers on standard output while a run makes them, in input order.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use legenda_pipeline::{
    RunPlan,
    export::{AnswerLine, LineLabel, LineOrder, answer_lines},
};
use legenda_schemas::ledger::LedgerEntry;

use crate::{
    console::{eprint, print},
    failure::warn,
};

/// How rows are printed: `name<TAB>answer`.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    /// The name of a row.
    pub(crate) label: LineLabel,
    /// The folder that paths are relative to.
    pub(crate) base: Option<PathBuf>,
}

/// How often the printer looks whether the run has ended.
const POLL: Duration = Duration::from_millis(50);

/// A thread that prints committed answers.
pub(crate) struct LivePrinter {
    thread: JoinHandle<()>,
    has_ended: Arc<AtomicBool>,
}

impl LivePrinter {
    /// Starts to print the spans that `commits` receives.
    pub(crate) fn start(plan: Arc<RunPlan>, lines: Lines, commits: Receiver<LedgerEntry>) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let has_ended = Arc::clone(&has_ended);
            move || {
                let mut order = LineOrder::new(&plan);
                loop {
                    let is_last = has_ended.load(Relaxed);
                    match commits.recv_timeout(POLL) {
                        Ok(entry) => order
                            .add(&plan, entry)
                            .iter()
                            .for_each(|entry| show(&plan, entry, &lines)),
                        Err(RecvTimeoutError::Disconnected) => break,
                        Err(RecvTimeoutError::Timeout) if is_last => break,
                        Err(RecvTimeoutError::Timeout) => {}
                    }
                }
                order.rest().iter().for_each(|entry| show(&plan, entry, &lines));
            }
        });
        Self { thread, has_ended }
    }

    /// Prints what is left and ends.
    pub(crate) fn finish(self) {
        self.has_ended.store(true, Relaxed);
        // A panic has been reported.
        self.thread.join().ok();
    }
}

fn show(plan: &RunPlan, entry: &LedgerEntry, lines: &Lines) {
    let answers = match answer_lines(plan, entry, &lines.label) {
        Ok(answers) => answers,
        Err(error) => return warn(&error),
    };
    for AnswerLine { label, answer } in answers {
        let base = lines.base.as_deref();
        let below = base.and_then(|base| Path::new(&label).strip_prefix(base).ok()?.to_str());
        let label = one_line(below.unwrap_or(&label));
        match answer {
            Ok(answer) => print(&format!("{label}\t{}", one_line(&answer))),
            Err((code, message)) => eprint(&format!("rejected {label}: {code}: {message}")),
        }
    }
}

/// Replaces line breaks and tabs, which end a line or a field, with spaces.
fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " ").replace(['\n', '\r', '\t'], " ")
}
