//! What ends a run before its table does.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use crate::{metrics::Ending, source::SourceFailed};

/// Asks a run to stop.
#[derive(Debug, Default)]
pub struct Stop {
    state: AtomicU8,
    failure: Mutex<Option<SourceFailed>>,
}

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const BUDGET_SPENT: u8 = 2;
const SOURCE_FAILED: u8 = 3;

impl Stop {
    /// Asks the run to begin no further span, finish and commit those begun, and end.
    pub fn request(&self) {
        self.set(STOPPED);
    }

    pub(crate) fn spend_error_budget(&self) {
        self.set(BUDGET_SPENT);
    }

    /// Ends the run with a failure, after what was begun; the first one is kept.
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
