//! Runs the model's encoders over batches of samples on a dedicated thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use legenda_models::{EncodeError, Encoder, Prompt, Sample};

use super::{EncodedRow, ModelPanic, Outcome, Outcomes, PreparedRow, Stage, chunks::Admission};
use crate::{
    base::{
        budget::{ByteReceiver, ByteSender, Disconnected, receive_batch},
        guard::guarded,
    },
    run::{metrics::Progress, stop::Stop},
};

/// The maximum batch size: beyond this the encoders gain nothing on the CPU, and the decoder waits
/// longer for its first row.
const BATCH_ROWS_MAX: usize = 8;

/// Whether the encoders have rows, and do not wait for the decoder.
#[derive(Debug, Default)]
pub(crate) struct Encoding(AtomicBool);

impl Encoding {
    /// Returns whether a row will come without anything that the decoder does.
    pub(crate) fn is_active(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn set(&self, is_active: bool) {
        self.0.store(is_active, Relaxed);
    }
}

/// Encodes samples until no more arrive; blocks its thread.
///
/// # Errors
///
/// [`Disconnected`] if a later stage has failed.
pub(crate) fn run(
    mut encoder: Box<dyn Encoder>,
    mut prepared: ByteReceiver<PreparedRow>,
    (encoded, encoding): (&ByteSender<EncodedRow>, &Encoding),
    outcomes: &Outcomes,
    progress: &Progress,
    stop: &Stop,
    runtime: &tokio::runtime::Handle,
) -> Result<(), Disconnected> {
    let mut admission = Admission::new(stop);
    loop {
        encoding.set(!prepared.is_empty());
        let Some((mut rows, held)) = receive_batch(&mut prepared, BATCH_ROWS_MAX) else {
            return Ok(());
        };
        encoding.set(true);
        rows.retain(|row| admission.admits(row.key, &row.chunk));
        if rows.is_empty() {
            continue;
        }
        let (rows, samples): (Vec<_>, Vec<Sample>) =
            rows.into_iter().map(|row| ((row.key, row.chunk, row.identity), row.sample)).unzip();
        let results = progress.encode.time(|| encode(encoder.as_mut(), samples));
        drop(held);
        for ((key, chunk, identity), result) in rows.into_iter().zip(results) {
            let outcome = match result {
                Ok(Ok(prompt)) => {
                    let bytes = prompt.size_bytes() as u64;
                    let row = EncodedRow { key, chunk, identity, prompt };
                    let reservation = encoded.try_reserve(bytes).unwrap_or_else(|| {
                        encoding.set(false);
                        let reservation = runtime.block_on(encoded.reserve(bytes));
                        encoding.set(true);
                        reservation
                    });
                    encoded.send_reserved(row, reservation)?;
                    continue;
                }
                Ok(Err(error)) => Outcome::rejected(key, Stage::Encode, error.code(), &error),
                Err(panic) => panic.rejects(key, Stage::Encode),
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
}

/// The result of a sample.
type Encoded = Result<Result<Prompt, EncodeError>, ModelPanic>;

/// Encodes samples; if the encoder panics, retries the batch in halves, down to one sample.
fn encode(encoder: &mut dyn Encoder, samples: Vec<Sample>) -> Vec<Encoded> {
    let n_samples = samples.len();
    // Copies are cheap: a batch of several is bounded by the queue it came through.
    let kept = if n_samples > 1 { samples.clone() } else { Vec::new() };
    match guarded(|| encoder.encode(samples)) {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if n_samples == 1 => vec![Err(error.into())],
        Err(error) => {
            tracing::warn!(rows = n_samples, %error, "encoder panicked; retrying in halves");
            let mut left = kept;
            let right = left.split_off(n_samples / 2);
            let mut results = encode(encoder, left);
            results.extend(encode(encoder, right));
            results
        }
    }
}
