//! Batches of encoders, and errors of runs.

use super::EncodeError;
use crate::{engine::DecodeError, runtime::RunError};

/// Runs an encoder on a batch. If it fails, runs it on halves of the batch, down to single items.
/// `put` receives the result of each item.
pub(super) fn run_or_split<T, R>(
    batch: &[T],
    run: &mut impl FnMut(&[T]) -> Result<Vec<R>, EncodeError>,
    put: &mut impl FnMut(&T, Result<R, EncodeError>),
) {
    match (run(batch), batch) {
        (Ok(found), _) => batch.iter().zip(found).for_each(|(item, found)| put(item, Ok(found))),
        (Err(_), []) => {}
        (Err(error), [one]) => put(one, Err(error)),
        (Err(error), _) => {
            tracing::warn!(rows = batch.len(), code = error.code(), "encoder failed, will split");
            let (left, right) = batch.split_at(batch.len() / 2);
            run_or_split(left, run, put);
            run_or_split(right, run, put);
        }
    }
}

/// Converts a failed run into the error of a whole decoder call.
pub(super) fn decode_error(error: RunError, n_rows: usize) -> DecodeError {
    DecodeError::Run { graph: error.graph, n_rows, source: error.source }
}

/// Token counts are far below 2^63.
pub(super) fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
