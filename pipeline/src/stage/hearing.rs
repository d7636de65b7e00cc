//! Sounds that are heard window by window: a window goes through the model like a row of its own, and
//! its answer comes back and says where the next one begins. Rows wait for their own windows only.

use std::sync::Arc;

use legenda_models::Hearing;
use tokio::sync::oneshot;

use super::{
    Outcome, Outcomes, PreparedRow, RowIdentity, RowKey,
    answer::{Answer, Origin},
    parts::Part,
};
use crate::budget::{ByteSender, Disconnected, Reservation};

/// A row whose sound is to be heard so.
pub struct HeardRow {
    identity: RowIdentity,
    hearing: Hearing,
    /// The bytes of the whole sound's features, until the row ends.
    _held: Option<Reservation>,
}

impl HeardRow {
    /// Takes a sound, and what was reserved while it was decoded, of which its features need less.
    pub fn new(identity: RowIdentity, hearing: Hearing, mut held: Option<Reservation>) -> Self {
        let bytes = hearing.size_bytes() as u64;
        held.iter_mut().for_each(|reservation| reservation.shrink_to(bytes));
        Self { identity, hearing, _held: held }
    }

    /// Hears the sound to its end and sends the answer to `outcomes`. Where a later stage rejects a
    /// window, it has said so itself.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] when a later stage has failed; the row stays outstanding.
    pub async fn hear(
        self,
        key: RowKey,
        prepared: &ByteSender<PreparedRow>,
        outcomes: &Outcomes,
    ) -> Result<(), Disconnected> {
        let Self { identity, mut hearing, _held } = self;
        let mut n_windows: u64 = 0;
        while let Some(sample) = hearing.window() {
            let (reply, answer) = oneshot::channel();
            let seed = identity.seed.wrapping_add(n_windows);
            let row = PreparedRow {
                key,
                part: Part::Window(reply),
                identity: RowIdentity { seed, ..identity.clone() },
                sample,
            };
            let bytes = row.sample.size_bytes() as u64;
            prepared.send(row, bytes).await?;
            let Ok(window) = answer.await else { return Ok(()) };
            hearing.take(window);
            n_windows += 1;
        }
        let RowIdentity { input_sha256, flags, .. } = identity;
        let answer = Arc::new(Answer::new(hearing.answer(), flags));
        let answered = Outcome::Answered { key, input_sha256, answer, origin: Origin::Model };
        outcomes.send(answered).await.map_err(|_| Disconnected)
    }
}
