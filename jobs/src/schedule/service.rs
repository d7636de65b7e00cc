//! The loop around the scheduler: it looks at the time, the folder and what comes back from outside, a
//! second at a time at most, until it is told to end.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::{
    board::Board,
    folder::{Change, JobFolder},
    history::{History, HistoryError},
    outside::{Ended, Told},
    process::Processes,
    record::RunId,
    scheduler::{ActionError, Scheduler},
};

/// How long hooks are waited for when the service ends; the next one tells those that were not told.
const HOOKS_WAITED: Duration = Duration::from_secs(30);

/// What the loop hears of.
pub(crate) enum Event {
    /// A process ended.
    Ended(Ended),
    /// Hooks were told.
    Told(Told),
    /// Somebody asks for something; the answer is the number of the run.
    Asked(Action, oneshot::Sender<Result<RunId, ActionError>>),
    /// End: the first time after the rows at work, the second at once.
    Signal,
}

/// What somebody may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a job, by its name.
    Start(String),
    /// Stop a run.
    Stop(RunId),
    /// Let a run run again.
    Retry(RunId),
}

/// Why the service cannot begin, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The folder of job files cannot be read.
    #[error("cannot read the folder of job files `{path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The state cannot be written.
    #[error("cannot use the folder `{path}` for the state of the service")]
    State {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another service works with this state.
    #[error(
        "another service works with the state in `{path}`: end it, or choose another `--state`"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// What the loop works with.
pub(crate) struct Service {
    pub(crate) dir: PathBuf,
    pub(crate) history: History,
    pub(crate) outside: Processes,
    pub(crate) parallel: usize,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) board: Arc<Board>,
    /// Where the time is told.
    pub(crate) now: fn() -> DateTime<Utc>,
}

impl Service {
    /// Works until a signal comes and what is at work has ended.
    pub(crate) fn work(self) -> Result<(), ServiceError> {
        let Self { dir, history, outside, parallel, events, board, now } = self;
        let failed = |source| ServiceError::Folder { path: dir.clone(), source };
        let mut folder = JobFolder::new(&dir);
        let mut files = Vec::new();
        for change in folder.look().map_err(failed)? {
            if let Change::Loaded(name, file) = change {
                warn_of(&name, &file.job);
                files.push((name, file));
            }
        }
        let mut scheduler = Scheduler::new(&dir, history, outside, parallel, files, now())?;
        let mut ending: Option<Instant> = None;
        loop {
            if ending.is_none() {
                match folder.look() {
                    Ok(changes) => take(&mut scheduler, changes, now())?,
                    Err(error) => {
                        board.count_fault();
                        tracing::error!(%error, "cannot read the folder of job files");
                    }
                }
            }
            scheduler.tick(now())?;
            let at_work: Vec<RunId> = scheduler.at_work().collect();
            board.show_jobs(scheduler.jobs(), &at_work);
            let is_late = ending.is_some_and(|since| since.elapsed() > HOOKS_WAITED);
            if ending.is_some() && (scheduler.is_idle() || (is_late && at_work.is_empty())) {
                return Ok(());
            }
            let Ok(event) = events.recv_timeout(to_next_second(now())) else { continue };
            let mut event = Some(event);
            // What came meanwhile is taken together.
            while let Some(taken) = event.take() {
                match taken {
                    Event::Ended(ended) => scheduler.ended(ended, now())?,
                    Event::Told(told) => scheduler.told(&told)?,
                    Event::Asked(action, answer) => {
                        let result = act(&mut scheduler, action, now());
                        // Whoever asked may have gone.
                        answer.send(result).ok();
                    }
                    Event::Signal if ending.is_some() => scheduler.outside.abandon(),
                    Event::Signal => {
                        ending = Some(Instant::now());
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

fn take(
    scheduler: &mut Scheduler<Processes>,
    changes: Vec<Change>,
    now: DateTime<Utc>,
) -> Result<(), HistoryError> {
    for change in changes {
        match change {
            Change::Loaded(name, file) => {
                warn_of(&name, &file.job);
                scheduler.load(name, file, now)?;
            }
            Change::Gone(name) => scheduler.drop_job(&name, now)?,
        }
    }
    Ok(())
}

fn warn_of<T>(name: &str, job: &Result<T, String>) {
    match job {
        Ok(_) => tracing::info!(job = name, "job read"),
        Err(problem) => tracing::warn!(
            job = name,
            problem,
            "invalid job file; it will be reloaded when it changes"
        ),
    }
}

/// Returns the time to just after the next second begins, when a slot may come.
fn to_next_second(now: DateTime<Utc>) -> Duration {
    let within = u64::from(now.timestamp_subsec_millis()).min(999);
    Duration::from_millis(1002 - within)
}
