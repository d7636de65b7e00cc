//! Answers: what a run writes, and the record of what is committed.

pub(crate) mod ledger;
pub(crate) mod sidecar;
pub(crate) mod sink;
mod subtitles;
