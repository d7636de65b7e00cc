//! The live state of the service: its jobs and the progress of running jobs. The scheduler loop and the
//! threads that read process output write it; the page reads it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{record::RunId, scheduler::JobView};

/// The progress of a run: one line of `--progress json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunProgress {
    pub(crate) rows_planned: u64,
    pub(crate) rows_done: u64,
    #[serde(default)]
    pub(crate) rejects: u64,
    #[serde(default)]
    pub(crate) rows_per_second: f64,
    #[serde(default)]
    pub(crate) seconds_left: Option<f64>,
    /// The latest answers, latest first.
    #[serde(default)]
    pub(crate) latest: Vec<String>,
}

/// The live state of the service.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<BoardState>,
}

#[derive(Debug, Default)]
struct BoardState {
    jobs: Vec<JobView>,
    progress: BTreeMap<RunId, RunProgress>,
    /// Failures of the service itself since its start.
    n_faults: u64,
    /// The time of the last scheduler tick.
    last_tick: Option<Instant>,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, BoardState> {
        // Every update replaces a whole value, so a panic cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the jobs, and removes the progress of runs that are not in `running`.
    pub(crate) fn set_jobs(&self, jobs: Vec<JobView>, running: &[RunId]) {
        let mut state = self.state();
        state.jobs = jobs;
        state.last_tick = Some(Instant::now());
        state.progress.retain(|run, _| running.contains(run));
    }

    /// Sets the progress of a run.
    pub(crate) fn set_progress(&self, run: RunId, progress: RunProgress) {
        self.state().progress.insert(run, progress);
    }

    /// Counts a failure of the service itself.
    pub(crate) fn count_fault(&self) {
        self.state().n_faults += 1;
    }

    /// Returns the time since the last scheduler tick, `None` before the first one.
    pub(crate) fn since_tick(&self) -> Option<Duration> {
        self.state().last_tick.map(|tick| tick.elapsed())
    }

    /// Returns the jobs.
    pub(crate) fn jobs(&self) -> Vec<JobView> {
        self.state().jobs.clone()
    }

    /// Returns the progress of running runs.
    pub(crate) fn progress(&self) -> BTreeMap<RunId, RunProgress> {
        self.state().progress.clone()
    }

    /// Returns the number of failures of the service itself since its start.
    pub(crate) fn n_faults(&self) -> u64 {
        self.state().n_faults
    }
}
