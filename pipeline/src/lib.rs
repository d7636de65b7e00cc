//! The data path of a run: a table of records in, a table of answers out.
//!
//! - [`plan`]: a job checked against its table and model, before a row is read. [`first_row`]: what is
//!   asked of its first row.
//! - [`inspect`]: what is in a table, before there is a job.
//! - [`run`]: wires the stages; the file to read first. [`stop`]: what ends a run early.
//! - [`stage`]: scan, prepare, encode, generate, collect.
//! - [`source`]: file listing, Parquet scan, cells. [`media`]: images and sounds under limits.
//! - [`template`]: prompts over columns. [`query`]: SQL that chooses rows.
//! - [`store`]: folders on a disk or in an object store, whose files appear whole. [`ledger`]: an
//!   output in such a folder, and the record of what is committed. [`sink`]: tables as bytes.
//! - [`retry`]: rejects that are tried again. [`reuse`]: answers that need not be computed.
//! - [`verify`]: the proof that an output is whole. [`crash`]: crashes that tests ask for.
//! - [`eval`]: how good answers are, where the right ones are known.
//! - [`predict`]: what a run will take, told by a sample of it.
//! - [`preview`]: a look at the answers written. [`report`]: the page about a run, and what it shows;
//!   [`timeline`]: its speed and memory over time.
//! - [`guard`]: third-party code whose panics and endless loops cost a row, not the run.
//! - [`budget`]: queues that are bounded in bytes. [`metrics`]: counters and the closing report.
//!
//! Nothing here knows of the command line or prints; the environment is read for object stores alone.

pub mod budget;
pub mod crash;
pub mod eval;
pub mod excerpt;
pub mod first_row;
pub mod guard;
pub mod inspect;
pub mod ledger;
pub mod media;
pub mod metrics;
pub mod openai;
pub mod plan;
pub mod predict;
pub mod preview;
pub mod query;
pub mod report;
pub mod retry;
pub mod reuse;
pub mod run;
pub(crate) mod sidecar;
pub mod sink;
pub mod source;
pub mod stage;
pub mod stop;
pub mod store;
pub mod template;
pub mod timeline;
pub mod verify;

pub use metrics::{Ending, Progress, RunReport};
pub use plan::{PlanError, PlanScope, RunPlan};
pub use run::{RunError, RunOptions, run};
pub use stop::Stop;
