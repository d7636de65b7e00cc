//! Reasons to end a run early.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{input::source::SourceFailed, run::metrics::Ending};

/// A request to stop a run.
#[derive(Debug, Default)]
pub struct Stop {
    state: AtomicU8,
    failure: Mutex<Option<SourceFailed>>,
    deadline: OnceLock<Instant>,
}

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const BUDGET_SPENT: u8 = 2;
const SOURCE_FAILED: u8 = 3;

impl Stop {
    /// Requests a stop: no further row is admitted, rows in slots finish, finished rows are committed.
    /// Rows still in slots after `grace` stay outstanding.
    pub fn request(&self, grace: Duration) {
        self.deadline.get_or_init(|| Instant::now() + grace);
        self.set(STOPPED);
    }

    /// Returns the time after which rows in slots are abandoned, if a stop was requested.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.get().copied()
    }

    /// Returns whether the grace period is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.deadline().is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(crate) fn spend_error_budget(&self) {
        self.set(BUDGET_SPENT);
    }

    /// Ends the run with a failure once rows in slots are finished; only the first failure is kept.
    pub(crate) fn fail(&self, failure: SourceFailed) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.set(SOURCE_FAILED);
    }

    /// Takes the failure that ended the run, if any.
    pub(crate) fn take_failure(&self) -> Option<SourceFailed> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps only the first reason to stop.
    fn set(&self, state: u8) {
        self.state.compare_exchange(RUNNING, state, Relaxed, Relaxed).ok();
    }

    /// Returns whether a stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.state.load(Relaxed) != RUNNING
    }

    pub(crate) fn ending(&self, is_complete: bool) -> Ending {
        match self.state.load(Relaxed) {
            BUDGET_SPENT => Ending::ErrorBudget,
            _ if is_complete => Ending::Complete,
            _ => Ending::Stopped,
        }
    }
}
