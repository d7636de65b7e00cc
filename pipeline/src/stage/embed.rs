//! Makes embeddings of samples, on a thread of its own, in the place of `encode` and `generate`.

use legenda_models::{Embedder, Sample};

use super::{Outcome, Outcomes, PreparedRow, Reject, Stage};
use crate::{
    budget::{ByteReceiver, Disconnected, Held},
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
    while let Some(first) = prepared.blocking_recv() {
        let mut rows = vec![first];
        while rows.len() < window_rows
            && let Ok(next) = prepared.try_recv()
        {
            rows.push(next);
        }
        let mut places = Vec::with_capacity(rows.len());
        let mut samples: Vec<Sample> = Vec::with_capacity(rows.len());
        let mut held = Vec::with_capacity(rows.len());
        for Held { item, reservation } in rows {
            places.push((item.key, item.identity));
            samples.push(item.sample);
            held.push(reservation);
        }
        let results = progress.encode.time(|| embedder.embed(&samples));
        drop((samples, held));
        for ((key, identity), result) in places.into_iter().zip(results) {
            let outcome = match result {
                Ok(embedding) => Outcome::Answered {
                    key,
                    input_sha256: identity.input_sha256,
                    answer: embedding.into(),
                },
                Err(error) => Outcome::Rejected {
                    key,
                    reject: Reject {
                        stage: Stage::Embed,
                        code: error.code(),
                        message: error.to_string(),
                    },
                },
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
    Ok(())
}
