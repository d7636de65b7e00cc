//! What the service shows while it works: its jobs, and how far the runs at work are. Written by the
//! scheduler's loop and the threads that read from processes, read by the page.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{record::RunId, scheduler::JobView};

/// How far a run is: a line of `--progress json`.
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
}

/// What the service shows.
#[derive(Debug, Default)]
pub(crate) struct Board {
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    jobs: Vec<JobView>,
    progress: BTreeMap<RunId, RunProgress>,
    /// Failures of the service itself since it began.
    n_faults: u64,
    /// When the scheduler last looked at the time.
    ticked: Option<Instant>,
}

impl Board {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Whoever panicked left a whole value behind: each is replaced at once.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the jobs, and no progress of runs but those `at_work`.
    pub(crate) fn show_jobs(&self, jobs: Vec<JobView>, at_work: &[RunId]) {
        let mut shown = self.shown();
        shown.jobs = jobs;
        shown.ticked = Some(Instant::now());
        shown.progress.retain(|run, _| at_work.contains(run));
    }

    /// Shows how far a run is.
    pub(crate) fn show_progress(&self, run: RunId, progress: RunProgress) {
        self.shown().progress.insert(run, progress);
    }

    /// Counts a failure of the service itself.
    pub(crate) fn count_fault(&self) {
        self.shown().n_faults += 1;
    }

    /// Returns how long ago the scheduler last looked at the time; none before the first time.
    pub(crate) fn since_tick(&self) -> Option<Duration> {
        self.shown().ticked.map(|ticked| ticked.elapsed())
    }

    /// Returns the jobs.
    pub(crate) fn jobs(&self) -> Vec<JobView> {
        self.shown().jobs.clone()
    }

    /// Returns how far the runs at work are.
    pub(crate) fn progress(&self) -> BTreeMap<RunId, RunProgress> {
        self.shown().progress.clone()
    }

    /// Returns how often the service itself failed since it began.
    pub(crate) fn n_faults(&self) -> u64 {
        self.shown().n_faults
    }
}
