//! What ends a run before its table does.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{metrics::Ending, source::SourceFailed};

/// Asks a run to stop.
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
    /// Asks the run to admit no further row, finish those in slots, commit every row that is finished,
    /// and end. Rows that are still in slots after `grace` stay outstanding.
    pub fn request(&self, grace: Duration) {
        self.deadline.get_or_init(|| Instant::now() + grace);
        self.set(STOPPED);
    }

    /// Returns when rows in slots are no longer waited for, if the run is to stop by a certain time.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.get().copied()
    }

    /// Returns whether rows in slots are no longer waited for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.deadline().is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(crate) fn spend_error_budget(&self) {
        self.set(BUDGET_SPENT);
    }

    /// Ends the run with a failure, once rows in slots are finished; the first one is kept.
    pub(crate) fn fail(&self, failure: SourceFailed) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.set(SOURCE_FAILED);
    }

    pub(crate) fn failure(&self) -> Option<SourceFailed> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first reason to stop is kept.
    fn set(&self, state: u8) {
        self.state.compare_exchange(RUNNING, state, Relaxed, Relaxed).ok();
    }

    /// Returns whether the run is to stop.
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
