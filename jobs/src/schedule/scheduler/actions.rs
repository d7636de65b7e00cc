//! What a person requests: start, stop, retry.

use chrono::{DateTime, Utc};

use super::{JobEntry, Scheduler};
use crate::schedule::{
    effects::Effects,
    history::HistoryError,
    log,
    record::{RunId, Second, State},
    verdict::StopReason,
};

/// An error of an action.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// The job does not exist.
    #[error("job file `{0}` not found")]
    NoJob(String),
    /// The job file is invalid.
    #[error("invalid job file `{job}`: {problem}")]
    InvalidJob {
        /// The job file.
        job: String,
        /// The error in the file.
        problem: String,
    },
    /// The run does not exist.
    #[error("run {0} not found")]
    NoRun(RunId),
    /// The run is in the wrong state for the action.
    #[error("run {run} is {state} and cannot be {action}")]
    State {
        /// The run.
        run: RunId,
        /// The state of the run.
        state: &'static str,
        /// The action, as a past participle.
        action: &'static str,
    },
    /// The service is shutting down.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl<E: Effects> Scheduler<E> {
    /// Starts a job now.
    pub(crate) fn start(&mut self, job: &str, now: DateTime<Utc>) -> Result<RunId, ActionError> {
        if self.is_draining {
            return Err(ActionError::ShuttingDown);
        }
        match self.jobs.get(job) {
            None => return Err(ActionError::NoJob(job.to_owned())),
            Some(JobEntry { job: Err(problem), .. }) => {
                let (job, problem) = (job.to_owned(), problem.clone());
                return Err(ActionError::InvalidJob { job, problem });
            }
            Some(JobEntry { job: Ok(_), .. }) => {}
        }
        let run = self.history.record_manual_start(job, Second::from_instant(now))?;
        self.start_due(now)?;
        Ok(run)
    }

    /// Stops a waiting or running run.
    pub(crate) fn stop(&mut self, id: RunId, now: DateTime<Utc>) -> Result<(), ActionError> {
        let run = self.history.run(id)?.ok_or(ActionError::NoRun(id))?;
        let active = self.active.iter_mut().find(|(_, active)| active.run.id == id);
        if let Some((attempt, active)) = active {
            active.stop_reason = Some(StopReason::Manual);
            self.effects.stop(*attempt);
            return Ok(());
        }
        if run.state != State::Waiting {
            let state = run.state.as_str();
            return Err(ActionError::State { run: id, state, action: "stopped" });
        }
        let message = "stopped manually";
        log::ended_without_process(&run.job, id, State::Stopped, message);
        Ok(self.history.set_state(id, Second::from_instant(now), State::Stopped, message)?)
    }

    /// Retries a failed, stopped or skipped run, as the same slot.
    pub(crate) fn retry(&mut self, id: RunId, now: DateTime<Utc>) -> Result<(), ActionError> {
        if self.is_draining {
            return Err(ActionError::ShuttingDown);
        }
        let run = self.history.run(id)?.ok_or(ActionError::NoRun(id))?;
        if !run.state.is_end() || run.state == State::Done {
            let state = run.state.as_str();
            return Err(ActionError::State { run: id, state, action: "retried" });
        }
        self.history.set_state(
            id,
            Second::from_instant(now),
            State::Waiting,
            "retried manually",
        )?;
        Ok(self.start_due(now)?)
    }
}
