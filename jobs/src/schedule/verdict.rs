//! What the end of a process means for its run: the exit codes are those of `legenda run`.

use legenda_schemas::job::Schedule;

use super::{
    outside::{Ended, ProcessEnd},
    record::State,
};

/// Why a process was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The service ends.
    Service,
    /// Somebody wants it.
    Person,
    /// It had its time.
    Timeout,
}

/// How the run of a try that ended goes on.
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// How long it waits before it is tried again.
    pub(crate) wait_seconds: u64,
    /// Tries that failed, with this one.
    pub(crate) failures: u32,
    /// What is to be said of it.
    pub(crate) message: String,
}

/// Reads what a try's end means: the exit codes are those of `legenda run`.
pub(crate) fn verdict(
    ended: &Ended,
    stopped: Option<Stopped>,
    failures: u32,
    schedule: Option<&Schedule>,
) -> Verdict {
    let settled = |state, message: String| Verdict { state, wait_seconds: 0, failures, message };
    let said = |otherwise: &str| ended.complaint().unwrap_or_else(|| otherwise.to_owned());
    match (ended.end, stopped) {
        (ProcessEnd::Code(0), _) => return settled(State::Done, String::new()),
        (_, Some(Stopped::Service)) => {
            return settled(State::Waiting, "goes on after a restart of the service".to_owned());
        }
        (_, Some(Stopped::Person)) => {
            return settled(State::Stopped, "stopped by hand".to_owned());
        }
        (ProcessEnd::Code(2), None) if !ended.may_pass => {
            return settled(State::Failed, said("the job, its table or its model is wrong"));
        }
        (ProcessEnd::Code(3), None) => {
            return settled(State::Failed, said("the error budget is spent"));
        }
        _ => {}
    }
    let failures = failures.saturating_add(1);
    let problem = match stopped {
        Some(Stopped::Timeout) => "it took longer than `schedule.timeout`".to_owned(),
        _ => said(&ended.end.text()),
    };
    match schedule {
        Some(schedule) if failures <= schedule.retries => Verdict {
            state: State::Waiting,
            wait_seconds: schedule.wait_after(failures).0,
            failures,
            message: format!(
                "failed, and is tried again ({failures}/{}): {problem}",
                schedule.retries
            ),
        },
        _ => Verdict { state: State::Failed, wait_seconds: 0, failures, message: problem },
    }
}
