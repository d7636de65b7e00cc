//! Sequential long-audio decoding: each window goes through the model like a row of its own, and its
//! answer decides where the next window starts. A row only waits for its own windows.

use std::sync::Arc;

use legenda_models::SequentialAudio;
use tokio::sync::oneshot;

use super::{
    Outcome, Outcomes, PreparedRow, RowIdentity, RowKey,
    answer::{Answer, Origin},
    chunks::Chunk,
};
use crate::base::budget::{ByteSender, Disconnected, Reservation};

/// A row with long audio to decode sequentially.
pub(crate) struct SequentialRow {
    identity: RowIdentity,
    sequential: SequentialAudio,
    /// The bytes of the features of the whole audio, until the row ends.
    _held: Option<Reservation>,
}

impl SequentialRow {
    /// Takes the audio and the reservation of its decoding, which is shrunk to the size of the features.
    pub(crate) fn new(
        identity: RowIdentity,
        sequential: SequentialAudio,
        mut held: Option<Reservation>,
    ) -> Self {
        let bytes = sequential.size_bytes() as u64;
        held.iter_mut().for_each(|reservation| reservation.shrink_to(bytes));
        Self { identity, sequential, _held: held }
    }

    /// Decodes all windows and sends the answer to `outcomes`. If a later stage rejects a window, that
    /// stage has already reported the reject.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] if a later stage has failed; the row stays outstanding.
    pub(crate) async fn run(
        self,
        key: RowKey,
        prepared: &ByteSender<PreparedRow>,
        outcomes: &Outcomes,
    ) -> Result<(), Disconnected> {
        let Self { identity, mut sequential, _held } = self;
        let mut n_windows: u64 = 0;
        while let Some(sample) = sequential.window() {
            let (reply, answer) = oneshot::channel();
            let seed = identity.seed.wrapping_add(n_windows);
            let row = PreparedRow {
                key,
                chunk: Chunk::Window(reply),
                identity: RowIdentity { seed, ..identity.clone() },
                sample,
            };
            let bytes = row.sample.size_bytes() as u64;
            prepared.send(row, bytes).await?;
            let Ok(window) = answer.await else { return Ok(()) };
            sequential.take(window);
            n_windows += 1;
        }
        let RowIdentity { input_sha256, flags, .. } = identity;
        let answer = Arc::new(Answer::new(sequential.answer(), flags));
        let answered = Outcome::Answered { key, input_sha256, answer, origin: Origin::Model };
        outcomes.send(answered).await.map_err(|_| Disconnected)
    }
}
