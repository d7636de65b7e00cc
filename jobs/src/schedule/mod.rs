//! `legenda schedule`: runs the jobs of a folder when they are due, each slot once.
//!
//! ```text
//! job files ─► folder ──┐                     ┌─► child process: `legenda run JOB`
//!       cron ─► slots ──┤                     │        │ progress, report, exit code
//!                       ├─► scheduler ─► outside ◄─────┘
//!  page, API ─► actions ┤       │             └─► hooks: commands, webhooks
//!  signals, time ───────┘       └─► history (SQLite)
//! ```
//!
//! A *slot* is a job file and an instant at which it is due. [`scheduler`] decides, and nothing else
//! does: it is given the time, writes what it decides to [`history`] before it acts, and acts through
//! [`outside`], so a test plays a week with restarts in seconds. [`service`] is the loop around it, and
//! [`page`] what a person or a monitor sees.

pub(crate) mod board;
pub(crate) mod clock;
pub(crate) mod folder;
pub(crate) mod history;
pub(crate) mod hooks;
pub(crate) mod log;
pub(crate) mod outside;
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
