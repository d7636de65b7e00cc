//! The data path of a run: reads a table of records, writes a table of answers.
//!
//! - [`plan`]: checks a job against its table and model before any row is read. [`first_row`]: renders
//!   the prompt of the first row.
//! - [`inspect`]: summarises a table before a job exists.
//! - [`run`]: wires the stages together; read it first. [`stop`]: reasons to end a run early.
//! - [`stage`]: scan, prepare, encode, generate, collect.
//! - [`source`]: file listing, table scans, cells. [`media`]: image and audio decoding under limits.
//! - [`template`]: prompt templates over columns. [`query`]: SQL row filters.
//! - [`store`]: folders on disk or in an object store, with atomic file writes. [`ledger`]: the output
//!   in such a folder, and the record of committed spans. [`sink`]: table serialisation.
//! - [`retry`]: retries of rejected rows. [`reuse`]: deduplication and the answer cache.
//! - [`verify`]: integrity checks of an output. [`crash`]: crash injection for tests.
//! - [`eval`]: answer quality against references.
//! - [`estimate`]: cost of a run, estimated from a sample.
//! - [`preview`]: a preview of written answers. [`report`]: the report page of a run and its data;
//!   [`timeline`]: speed and memory over time.
//! - [`guard`]: isolates third-party code, so that a panic or an endless loop costs one row, not the run.
//! - [`budget`]: byte-bounded queues and reservations. [`metrics`]: counters and the final report.
//!
//! This crate does not parse command lines and does not print; only object stores read the environment.

pub mod budget;
pub mod crash;
pub mod estimate;
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
