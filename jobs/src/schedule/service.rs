//! The loop around the scheduler: at least once per second it polls the job folder and the clock, and
//! handles events, until shutdown.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::{
    board::Board,
    effects::{DeliveryResult, Ended},
    folder::{Change, JobFolder},
    history::{History, HistoryError},
    process::Processes,
    record::RunId,
    scheduler::{ActionError, Scheduler},
};

/// The maximum wait for hooks at shutdown; the next service repeats pending deliveries.
const HOOKS_TIMEOUT: Duration = Duration::from_secs(30);

/// An event for the loop.
pub(crate) enum Event {
    /// A process ended.
    ProcessEnded(Ended),
    /// A delivery of hooks is finished.
    HooksDelivered(DeliveryResult),
    /// A user requested an action; the reply is the id of the run.
    Requested(Action, oneshot::Sender<Result<RunId, ActionError>>),
    /// A shutdown signal: the first one stops gracefully, the second one kills the runs.
    Signal,
}

/// An action that a user can request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a job by name.
    Start(String),
    /// Stop a run.
    Stop(RunId),
    /// Retry a run.
    Retry(RunId),
}

/// An error that stops the service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The folder of job files cannot be read.
    #[error("failed to read the job folder `{path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("failed to open the state directory `{path}`")]
    State {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another service uses the state directory.
    #[error("`{path}` is used by another service")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// The state of the loop.
pub(crate) struct Service {
    pub(crate) dir: PathBuf,
    pub(crate) history: History,
    pub(crate) effects: Processes,
    pub(crate) parallel: usize,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) board: Arc<Board>,
    /// The clock.
    pub(crate) now: fn() -> DateTime<Utc>,
}

impl Service {
    /// Runs until a signal arrives and all runs have ended.
    pub(crate) fn run(self) -> Result<(), ServiceError> {
        let Self { dir, history, effects, parallel, events, board, now } = self;
        let failed = |source| ServiceError::Folder { path: dir.clone(), source };
        let mut folder = JobFolder::new(&dir);
        let mut files = Vec::new();
        for change in folder.poll().map_err(failed)? {
            if let Change::Loaded(name, file) = change {
                log_loaded(&name, &file.job);
                files.push((name, file));
            }
        }
        let mut scheduler = Scheduler::new(&dir, history, effects, parallel, files, now())?;
        let mut stopping_since: Option<Instant> = None;
        loop {
            if stopping_since.is_none() {
                match folder.poll() {
                    Ok(changes) => apply(&mut scheduler, changes, now())?,
                    Err(error) => {
                        board.count_fault();
                        tracing::error!(%error, "failed to read the job folder");
                    }
                }
            }
            scheduler.tick(now())?;
            let running: Vec<RunId> = scheduler.running().collect();
            board.set_jobs(scheduler.jobs(), &running);
            let is_overdue = stopping_since.is_some_and(|since| since.elapsed() > HOOKS_TIMEOUT);
            let is_done = scheduler.is_idle() || (is_overdue && running.is_empty());
            if stopping_since.is_some() && is_done {
                return Ok(());
            }
            let Ok(event) = events.recv_timeout(to_next_second(now())) else { continue };
            let mut event = Some(event);
            // Handle all pending events before the next tick.
            while let Some(current) = event.take() {
                match current {
                    Event::ProcessEnded(ended) => scheduler.end_attempt(ended, now())?,
                    Event::HooksDelivered(result) => scheduler.end_delivery(&result)?,
                    Event::Requested(action, reply) => {
                        let result = act(&mut scheduler, action, now());
                        // The requester may be gone.
                        reply.send(result).ok();
                    }
                    Event::Signal if stopping_since.is_some() => scheduler.effects.kill_all(),
                    Event::Signal => {
                        stopping_since = Some(Instant::now());
                        scheduler.drain();
                    }
                }
                event = events.try_recv().ok();
            }
        }
    }
}

fn act(
    scheduler: &mut Scheduler<Processes>,
    action: Action,
    now: DateTime<Utc>,
) -> Result<RunId, ActionError> {
    match action {
        Action::Start(job) => scheduler.start(&job, now),
        Action::Stop(run) => scheduler.stop(run, now).map(|()| run),
        Action::Retry(run) => scheduler.retry(run, now).map(|()| run),
    }
}

fn apply(
    scheduler: &mut Scheduler<Processes>,
    changes: Vec<Change>,
    now: DateTime<Utc>,
) -> Result<(), HistoryError> {
    for change in changes {
        match change {
            Change::Loaded(name, file) => {
                log_loaded(&name, &file.job);
                scheduler.load(name, file, now)?;
            }
            Change::Deleted(name) => scheduler.remove(&name, now)?,
        }
    }
    Ok(())
}

fn log_loaded<T>(name: &str, job: &Result<T, String>) {
    match job {
        Ok(_) => tracing::info!(job = name, "job file loaded"),
        Err(problem) => tracing::warn!(
            job = name,
            problem,
            "invalid job file; it will be reloaded when it changes"
        ),
    }
}

/// Returns the time until just after the start of the next second, when a slot may be due.
fn to_next_second(now: DateTime<Utc>) -> Duration {
    let millis = u64::from(now.timestamp_subsec_millis()).min(999);
    Duration::from_millis(1002 - millis)
}
