//! Runs the engine, on a thread of its own: every free slot is filled from the queue, all full
//! slots take a step together, what is finished goes to `collect`.

use std::collections::HashMap;

use legenda_models::{Engine, Finished};

use super::{
    EncodedRow, Outcome, Outcomes, RowKey, Stage,
    parts::{Part, Place, WaitingParts},
};
use crate::{
    budget::{ByteReceiver, Disconnected, Held, Reservation},
    metrics::Progress,
};

/// A row in the engine.
struct Live {
    key: RowKey,
    part: Part,
    input_sha256: String,
    /// The prompt's bytes: the engine keeps it until it is prefilled.
    _held: Reservation,
}

/// Generates until no more rows come and every slot is empty; blocks its thread.
///
/// # Errors
///
/// [`Disconnected`] when `collect` has failed.
pub fn run(
    mut engine: Engine,
    mut encoded: ByteReceiver<EncodedRow>,
    outcomes: &Outcomes,
    progress: &Progress,
) -> Result<(), Disconnected> {
    let mut live: HashMap<u64, Live> = HashMap::new();
    let mut waiting = WaitingParts::default();
    let mut next_ticket = 0;
    loop {
        while engine.free_slots() > 0 {
            // Only an idle engine waits; one at work takes what is there.
            let next = if live.is_empty() {
                let Some(next) = encoded.blocking_recv() else { return Ok(()) };
                next
            } else {
                let Ok(next) = encoded.try_recv() else { break };
                next
            };
            let Held { item: EncodedRow { key, part, identity, prompt }, reservation } = next;
            let entry = Live { key, part, input_sha256: identity.input_sha256, _held: reservation };
            live.insert(next_ticket, entry);
            if engine.admit(next_ticket, prompt, identity.seed).is_err() {
                // A slot was free just above, so this is a fault of the engine, not of a row.
                return Err(Disconnected);
            }
            next_ticket += 1;
        }
        for finished in progress.generate.time(|| engine.step()) {
            let Finished { ticket, result } = finished;
            let Some(row) = live.remove(&ticket) else { continue };
            let outcome = match result {
                Ok(generation) => {
                    let place: Place = match row.part {
                        Part::OfSeveral(place) => place,
                        Part::Window(reply) => {
                            // Who does not wait for it any more has told why.
                            reply.send(generation).ok();
                            continue;
                        }
                    };
                    let Some(parts) = waiting.take(row.key, place, generation) else { continue };
                    Outcome::Answered {
                        key: row.key,
                        input_sha256: row.input_sha256,
                        answer: engine.join(parts).into(),
                    }
                }
                Err(error) => Outcome::rejected(row.key, Stage::Generate, error.code(), &error),
            };
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
}
