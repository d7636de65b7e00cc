//! The data path of a run: its plan, its stages, and the report about it.

pub(crate) mod metrics;
pub(crate) mod plan;
pub(crate) mod prediction;
pub(crate) mod report;
pub(crate) mod retry;
pub(crate) mod reuse;
pub(crate) mod run;
pub(crate) mod stage;
pub(crate) mod stop;
pub(crate) mod timeline;
