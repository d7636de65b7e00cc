//! Computes embeddings of samples on a dedicated thread; replaces `encode` and `generate`.

use std::sync::Arc;

use legenda_models::{Embedder, Sample};

use super::{
    ModelPanic, Outcome, Outcomes, PreparedRow, Stage,
    answer::{Answer, Origin},
    chunks::Admission,
};
use crate::{
    base::{
        budget::{ByteReceiver, Disconnected, receive_batch},
        guard::guarded,
    },
    run::{metrics::Progress, stop::Stop},
};

/// The number of batches to look ahead, so that rows of similar length are batched together.
const WINDOW_BATCHES: usize = 8;

/// Embeds samples until no more arrive; blocks its thread.
///
/// # Errors
///
/// [`Disconnected`] if `collect` has failed.
pub(crate) fn run(
    mut embedder: Embedder,
    mut prepared: ByteReceiver<PreparedRow>,
    outcomes: &Outcomes,
    progress: &Progress,
    stop: &Stop,
) -> Result<(), Disconnected> {
    let window_rows = embedder.info.batch_rows * WINDOW_BATCHES;
    let mut admission = Admission::new(stop);
    while let Some((mut rows, held)) = receive_batch(&mut prepared, window_rows) {
        rows.retain(|row| admission.admits(row.key, &row.chunk));
        if rows.is_empty() {
            continue;
        }
        let (rows, samples): (Vec<_>, Vec<Sample>) =
            rows.into_iter().map(|row| ((row.key, row.identity), row.sample)).unzip();
        let results =
            progress.encode.time(|| or_halves(&samples, &mut |some| embedder.embed(some)));
        drop((samples, held));
        for ((key, identity), result) in rows.into_iter().zip(results) {
            let outcome = match result {
                Ok(Ok(embedding)) => Outcome::Answered {
                    key,
                    input_sha256: identity.input_sha256,
                    answer: Arc::new(Answer::new(embedding, identity.flags)),
                    origin: Origin::Model,
                },
                Ok(Err(error)) => Outcome::rejected(key, Stage::Embed, error.code(), &error),
                Err(panic) => panic.rejects(key, Stage::Embed),
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
    Ok(())
}

/// Runs `work` on a batch, with one result per item; on a panic, retries in halves, down to one item.
fn or_halves<T, R>(
    batch: &[T],
    work: &mut impl FnMut(&[T]) -> Vec<R>,
) -> Vec<Result<R, ModelPanic>> {
    match guarded(|| work(batch)) {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if batch.len() < 2 => {
            batch.iter().map(|_| Err(ModelPanic { problem: error.to_string() })).collect()
        }
        Err(error) => {
            tracing::warn!(rows = batch.len(), %error, "model panicked; retrying in halves");
            let (left, right) = batch.split_at(batch.len() / 2);
            let mut results = or_halves(left, work);
            results.extend(or_halves(right, work));
            results
        }
    }
}

#[cfg(test)]
mod tests {
    use super::or_halves;

    #[test]
    fn a_panic_costs_the_item_it_is_about() {
        let rows: Vec<u32> = (0..13).collect();
        let mut n_calls = 0;
        let results = or_halves(&rows, &mut |some: &[u32]| {
            n_calls += 1;
            assert!(!some.contains(&5) && !some.contains(&11), "no such row");
            some.to_vec()
        });
        let failed: Vec<usize> = (0..13).filter(|row| results[*row].is_err()).collect();
        assert_eq!(failed, [5, 11]);
        assert!(results[5].as_ref().unwrap_err().problem.contains("no such row"));
        assert!(results.iter().flatten().copied().eq([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12]));
        assert!(n_calls < 20, "{n_calls} calls");
    }
}
