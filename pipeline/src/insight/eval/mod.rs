//! Answer quality against references.
//!
//! A metric turns each row into a few sums, and the sums of all rows into a score. The score of any resample
//! of rows then only needs additions, as required by bootstrap intervals.

mod errors;
mod metric;
mod overlap;
mod read;
mod score;
mod words;

pub use self::{
    metric::{Metric, Pair},
    read::{EvalError, Key, rows},
    score::{Comparison, Score, compare, scores},
};
