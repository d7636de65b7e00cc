//! Makes embeddings of samples, on a thread of its own, in the place of `encode` and `generate`.

use legenda_models::{Embedder, Sample};

use super::{Outcome, Outcomes, PreparedRow, Stage};
use crate::{
    budget::{ByteReceiver, Disconnected, receive_batch},
    metrics::Progress,
};

/// Batches' worth of rows that are looked at together, so that rows of like length meet.
const WINDOW_BATCHES: usize = 8;

/// Embeds samples until no more come; blocks its thread.
///
/// # Errors
///
/// [`Disconnected`] when `collect` has failed.
pub fn run(
    mut embedder: Embedder,
    mut prepared: ByteReceiver<PreparedRow>,
    outcomes: &Outcomes,
    progress: &Progress,
) -> Result<(), Disconnected> {
    let window_rows = embedder.info.batch_rows * WINDOW_BATCHES;
    while let Some((rows, held)) = receive_batch(&mut prepared, window_rows) {
        let (places, samples): (Vec<_>, Vec<Sample>) =
            rows.into_iter().map(|row| ((row.key, row.identity), row.sample)).unzip();
        let results = progress.encode.time(|| embedder.embed(&samples));
        drop((samples, held));
        for ((key, identity), result) in places.into_iter().zip(results) {
            let outcome = match result {
                Ok(embedding) => Outcome::Answered {
                    key,
                    input_sha256: identity.input_sha256,
                    answer: embedding.into(),
                },
                Err(error) => Outcome::rejected(key, Stage::Embed, error.code(), &error),
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
    Ok(())
}
