//! Runs the model's encoders over batches of samples, on a thread of its own.

use legenda_models::{Encoder, Sample};

use super::{EncodedRow, Outcome, Outcomes, PreparedRow, Reject, Stage};
use crate::{
    budget::{ByteReceiver, ByteSender, Disconnected, Held},
    metrics::Progress,
};

/// The most samples encoded together: beyond this the encoders gain nothing on the CPU, and the
/// decoder waits longer for the first of them.
const BATCH_ROWS_MAX: usize = 8;

/// Encodes samples until no more come; blocks its thread.
///
/// # Errors
///
/// [`Disconnected`] when a later stage has failed.
pub fn run(
    mut encoder: Box<dyn Encoder>,
    mut prepared: ByteReceiver<PreparedRow>,
    encoded: &ByteSender<EncodedRow>,
    outcomes: &Outcomes,
    progress: &Progress,
    runtime: &tokio::runtime::Handle,
) -> Result<(), Disconnected> {
    while let Some(first) = prepared.blocking_recv() {
        let mut rows = vec![first];
        while rows.len() < BATCH_ROWS_MAX
            && let Ok(next) = prepared.try_recv()
        {
            rows.push(next);
        }
        let mut places = Vec::with_capacity(rows.len());
        let mut samples: Vec<Sample> = Vec::with_capacity(rows.len());
        let mut held = Vec::with_capacity(rows.len());
        for Held { item, reservation } in rows {
            places.push((item.key, item.part, item.identity));
            samples.push(item.sample);
            held.push(reservation);
        }
        let results = progress.encode.time(|| encoder.encode(samples));
        drop(held);
        for ((key, part, identity), result) in places.into_iter().zip(results) {
            match result {
                Ok(prompt) => {
                    let bytes = prompt.size_bytes() as u64;
                    let row = EncodedRow { key, part, identity, prompt };
                    runtime.block_on(encoded.send(row, bytes))?;
                }
                Err(error) => {
                    let reject = Reject {
                        stage: Stage::Encode,
                        code: error.code(),
                        message: error.to_string(),
                    };
                    let outcome = Outcome::Rejected { key, reject };
                    outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
                }
            }
        }
    }
    Ok(())
}
