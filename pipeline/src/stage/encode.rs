//! Runs the model's encoders over batches of samples, on a thread of its own.

use legenda_models::{Encoder, Sample};

use super::{EncodedRow, Outcome, Outcomes, PreparedRow, Stage};
use crate::{
    budget::{ByteReceiver, ByteSender, Disconnected, receive_batch},
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
    while let Some((rows, held)) = receive_batch(&mut prepared, BATCH_ROWS_MAX) {
        let (places, samples): (Vec<_>, Vec<Sample>) =
            rows.into_iter().map(|row| ((row.key, row.part, row.identity), row.sample)).unzip();
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
                    let outcome = Outcome::rejected(key, Stage::Encode, error.code(), &error);
                    outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
                }
            }
        }
    }
    Ok(())
}
