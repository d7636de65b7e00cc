//! The stages of a run and the messages between them.
//!
//! ```text
//! scan ──ScannedBatch──► prepare ──PreparedRow──► encode ──EncodedRow──► generate
//!   │                       │                       │                      │
//!   └───────────────────────┴── Outcome ────────────┴──────────────────────┴──► collect
//! ```
//!
//! For embedding models, `embed` replaces `encode` and `generate`.
//!
//! A row leaves the path as an [`Outcome`] at the stage that settles it with an answer or a reject.

mod admission;
pub(crate) mod answer;
mod carry;
pub(crate) mod chunks;
pub(crate) mod collect;
mod decode;
pub(crate) mod embed;
pub(crate) mod encode;
pub(crate) mod generate;
mod message;
mod outcome;
mod outstanding;
pub(crate) mod prepare;
pub(crate) mod prompt;
mod reread;
pub(crate) mod scan;
pub(crate) mod sequential;
mod typed;

pub(crate) use self::{
    message::{EncodedRow, PreparedRow, RowIdentity, RowKey, ScannedBatch},
    outcome::{Carried, ModelPanic, OUTCOMES_MAX, Outcome, Outcomes, Reject, Stage},
    outstanding::{OutstandingSpan, Retry},
};
