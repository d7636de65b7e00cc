//! Inspects a table before a model is loaded: its columns, its media, and a proposed job.
//!
//! A sample of rows is read, and its media are decoded as in a run, under the default limits of a job. The
//! content of a column is detected from its cells, not from its name.

mod column;
mod inspection;
mod medium;
mod proposal;
mod sample;

pub(crate) use self::column::Problem;
pub use self::{
    column::{ColumnFacts, Holds, Spread},
    inspection::{InspectError, Inspection, inspect},
    proposal::Proposal,
};
