//! The log of the service: a line for each start, end, retry and failure of a run, with fields that a
//! program can read (`job`, `run`, `exit`, `seconds`).

use super::{
    outside::{Ended, ProcessEnd},
    record::{Run, Second, State},
    verdict::Verdict,
};

/// Logs that a process of a run was started.
pub(crate) fn started(run: &Run) {
    let slot = run.slot.instant();
    let (job, cause, attempt) = (&run.job, run.cause.as_str(), run.n_tries.saturating_add(1));
    tracing::info!(job, run = run.id, slot = %slot.to_rfc3339(), cause, attempt, "run started");
}

/// Logs how a process of a run ended after so many seconds, and what follows.
pub(crate) fn ended(run: &Run, ended: &Ended, verdict: &Verdict, seconds: f64) {
    let (job, run, exit) = (&run.job, run.id, exit(ended.end));
    let problem = &verdict.message;
    match verdict.state {
        State::Done => tracing::info!(job, run, exit, seconds, "run done"),
        State::Waiting if verdict.wait_seconds > 0 => {
            let wait_seconds = verdict.wait_seconds;
            tracing::warn!(job, run, exit, seconds, wait_seconds, problem, "run will be retried");
        }
        State::Waiting => tracing::info!(job, run, exit, seconds, problem, "run interrupted"),
        State::Stopped => tracing::info!(job, run, exit, seconds, "run stopped"),
        _ => tracing::error!(job, run, exit, seconds, problem, "run failed"),
    }
}

/// Logs that a run which an earlier service left is taken up again.
pub(crate) fn taken_up(job: &str, run: i64) {
    tracing::info!(job, run, "run was cut off, will be resumed");
}

/// Logs that a run reached its end without a process.
pub(crate) fn settled(job: &str, run: i64, state: State, message: &str) {
    tracing::info!(job, run, state = state.as_str(), message, "run settled");
}

/// Logs that slots of a job came and were not run, the last of them at `last`.
pub(crate) fn skipped(job: &str, slots: usize, last: Second) {
    if slots > 0 {
        tracing::info!(job, slots, last = %last.instant().to_rfc3339(), "slots skipped");
    }
}

/// Returns the exit code, or that there is none.
fn exit(end: ProcessEnd) -> String {
    match end {
        ProcessEnd::Code(code) => code.to_string(),
        ProcessEnd::Killed => "killed".to_owned(),
    }
}
