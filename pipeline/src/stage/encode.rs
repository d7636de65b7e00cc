//! Runs the model's encoders over batches of samples, on a thread of its own.

use legenda_models::{EncodeError, Encoder, Prompt, Sample};

use super::{EncodedRow, ModelPanic, Outcome, Outcomes, PreparedRow, Stage, parts::Admission};
use crate::{
    budget::{ByteReceiver, ByteSender, Disconnected, receive_batch},
    guard::guarded,
    metrics::Progress,
    stop::Stop,
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
    stop: &Stop,
    runtime: &tokio::runtime::Handle,
) -> Result<(), Disconnected> {
    let mut admission = Admission::new(stop);
    while let Some((mut rows, held)) = receive_batch(&mut prepared, BATCH_ROWS_MAX) {
        rows.retain(|row| admission.admits(row.key, &row.part));
        if rows.is_empty() {
            continue;
        }
        let (places, samples): (Vec<_>, Vec<Sample>) =
            rows.into_iter().map(|row| ((row.key, row.part, row.identity), row.sample)).unzip();
        let results = progress.encode.time(|| encode(encoder.as_mut(), samples));
        drop(held);
        for ((key, part, identity), result) in places.into_iter().zip(results) {
            let outcome = match result {
                Ok(Ok(prompt)) => {
                    let bytes = prompt.size_bytes() as u64;
                    let row = EncodedRow { key, part, identity, prompt };
                    runtime.block_on(encoded.send(row, bytes))?;
                    continue;
                }
                Ok(Err(error)) => Outcome::rejected(key, Stage::Encode, error.code(), &error),
                Err(panic) => panic.rejects(key, Stage::Encode),
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
    Ok(())
}

/// What became of a sample.
type Encoded = Result<Result<Prompt, EncodeError>, ModelPanic>;

/// Encodes samples; a batch in which the encoder panics is encoded in halves, down to one sample.
fn encode(encoder: &mut dyn Encoder, samples: Vec<Sample>) -> Vec<Encoded> {
    let n_samples = samples.len();
    // A batch of several is small, because the queue it came through is.
    let kept = if n_samples > 1 { samples.clone() } else { Vec::new() };
    match guarded(|| encoder.encode(samples)) {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if n_samples == 1 => vec![Err(error.into())],
        Err(error) => {
            tracing::warn!(rows = n_samples, %error, "encoder panicked, will split");
            let mut left = kept;
            let right = left.split_off(n_samples / 2);
            let mut results = encode(encoder, left);
            results.extend(encode(encoder, right));
            results
        }
    }
}
