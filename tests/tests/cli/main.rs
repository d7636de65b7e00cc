//! The command line: each command and each job key, through the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod audio;
mod batch;
mod bundles;
mod column_types;
mod console;
mod csv;
mod damaged;
mod datasets;
mod direct;
mod documents;
mod embed;
mod encoded_cells;
mod errors;
mod estimate;
mod eval;
mod export;
mod folders;
mod hostile;
mod hub;
mod images;
mod incremental;
mod inspect;
#[cfg(feature = "mozjpeg")]
mod jpeg;
#[cfg(unix)]
mod links;
mod listeners;
#[cfg(unix)]
mod manual;
mod mixed_types;
mod modalities;
#[cfg(target_os = "linux")]
mod page;
mod parity;
mod partitions;
#[cfg(feature = "sql")]
mod query;
mod readers;
mod report;
mod resume;
mod retry;
mod reuse;
mod rows;
mod runtime;
mod safety;
#[cfg(unix)]
mod schedule;
mod secrets;
mod sinks;
mod sources;
mod store_errors;
mod store_keys;
mod stores;
mod tables;
mod templates;
mod texts;
mod traces;
mod typed;
mod verify;
