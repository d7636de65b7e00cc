//! Estimates the cost of a run from a sample that is really run, and compares it with the actual cost.
//!
//! The sample is some rows of the job, run by the same stages on the same model into a temporary folder. The
//! whole is extrapolated as follows:
//!
//! - *Time*: that of the sample, which includes startup and shutdown once, plus, for each further row, the
//!   pace of the sample's middle, when all slots were full ([`interval`]: batch means).
//! - *Tokens, rejects*: those of the sample, plus a cluster-sample estimate for the remaining rows.
//! - *Output bytes*: small parts compress worse than large ones, so the answers of the sample are serialised
//!   whole and in halves, and the marginal size per row is extrapolated to the size of a span.
//! - *Peak memory*: it cannot be extrapolated per row. It is at least that of the sample, and probably that
//!   plus full queues; rows larger than any sampled one need more, up to `limits.memory`.

mod interval;
mod sample;
mod sample_plan;

pub use self::{interval::CONFIDENCE, sample_plan::SamplePlan};
