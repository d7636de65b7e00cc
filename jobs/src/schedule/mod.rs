//! `legenda schedule`: runs the jobs of a folder on their schedules, each slot once.
//!
//! ```text
//! job files ─► folder ──┐                     ┌─► child process: `legenda run JOB`
//!       cron ─► slots ──┤                     │        │ progress, report, exit code
//!                       ├─► scheduler ─► effects ◄─────┘
//!  page, API ─► actions ┤       │             └─► hooks: commands, webhooks
//!  signals, time ───────┘       └─► history (SQLite)
//! ```
//!
//! A *slot* is a job file and an instant at which it is due. [`scheduler`] makes every decision: it
//! receives the current time, records a decision in [`history`], and then acts through [`effects`], so
//! a test can simulate a week with restarts in seconds. [`service`] is the loop around it; [`page`]
//! serves the status page and the metrics.

pub(crate) mod board;
pub(crate) mod clock;
pub(crate) mod effects;
pub(crate) mod folder;
pub(crate) mod history;
pub(crate) mod hooks;
pub(crate) mod log;
pub(crate) mod page;
pub(crate) mod private;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod reports;
pub(crate) mod scheduler;
pub(crate) mod service;
pub(crate) mod slots;
pub(crate) mod state;
pub(crate) mod verdict;
