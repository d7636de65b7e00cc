//! The verdict on a finished attempt, from the exit codes of `legenda run`.

use legenda_schemas::job::Schedule;

use super::{
    effects::{Ended, ProcessEnd},
    record::State,
};

/// The reason for stopping a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The service shuts down.
    Shutdown,
    /// A user stopped it.
    Manual,
    /// It exceeded `schedule.timeout`.
    Timeout,
}

/// The verdict on a finished attempt: the next state of its run.
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// The delay before the next attempt.
    pub(crate) wait_seconds: u64,
    /// The number of failed attempts, including this one.
    pub(crate) failures: u32,
    /// A message about the state.
    pub(crate) message: String,
}

/// Returns the verdict on a finished attempt.
pub(crate) fn verdict(
    ended: &Ended,
    stopped: Option<StopReason>,
    failures: u32,
    schedule: Option<&Schedule>,
) -> Verdict {
    let settled = |state, message: String| Verdict { state, wait_seconds: 0, failures, message };
    let message = |default: &str| ended.error_message().unwrap_or_else(|| default.to_owned());
    match (ended.end, stopped) {
        (ProcessEnd::Code(0), _) => return settled(State::Done, String::new()),
        (_, Some(StopReason::Shutdown)) => {
            return settled(State::Waiting, "resumes after a restart of the service".to_owned());
        }
        (_, Some(StopReason::Manual)) => {
            return settled(State::Stopped, "stopped manually".to_owned());
        }
        (ProcessEnd::Code(2), None) if !ended.is_transient => {
            return settled(State::Failed, message("invalid job, table or model"));
        }
        (ProcessEnd::Code(3), None) => {
            return settled(State::Failed, message("error budget exceeded"));
        }
        _ => {}
    }
    let failures = failures.saturating_add(1);
    let problem = match stopped {
        Some(StopReason::Timeout) => "timed out (`schedule.timeout`)".to_owned(),
        _ => message(&ended.end.text()),
    };
    match schedule {
        Some(schedule) if failures <= schedule.retries => Verdict {
            state: State::Waiting,
            wait_seconds: schedule.backoff_after(failures).0,
            failures,
            message: format!(
                "failed; will be retried ({failures}/{}): {problem}",
                schedule.retries
            ),
        },
        _ => Verdict { state: State::Failed, wait_seconds: 0, failures, message: problem },
    }
}
