//! The log of the service: one event for each start, end, retry and failure of a run, with structured
//! fields (`job`, `run`, `exit`, `seconds`).

use super::{
    effects::{Ended, ProcessEnd},
    record::{Run, Second, State},
    verdict::Verdict,
};

/// Logs the start of a process of a run.
pub(crate) fn started(run: &Run) {
    let slot = run.slot.instant();
    let (job, cause, attempt) = (&run.job, run.cause.as_str(), run.n_attempts.saturating_add(1));
    tracing::info!(job, run = run.id, slot = %slot.to_rfc3339(), cause, attempt, "run started");
}

/// Logs the end of a process of a run after `seconds`, and the verdict.
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

/// Logs that a run is resumed after an earlier service was cut off.
pub(crate) fn resumed(job: &str, run: i64) {
    tracing::info!(job, run, "run was interrupted by a restart and will be resumed");
}

/// Logs that a run ended without a process.
pub(crate) fn ended_without_process(job: &str, run: i64, state: State, message: &str) {
    tracing::info!(job, run, state = state.as_str(), message, "run ended without a process");
}

/// Logs the number of skipped slots of a job; `last` is the latest slot.
pub(crate) fn skipped(job: &str, slots: usize, last: Second) {
    if slots > 0 {
        tracing::info!(job, slots, last = %last.instant().to_rfc3339(), "slots skipped");
    }
}

/// Returns the exit code, or `killed`.
fn exit(end: ProcessEnd) -> String {
    match end {
        ProcessEnd::Code(code) => code.to_string(),
        ProcessEnd::Killed => "killed".to_owned(),
    }
}
