//! Runs the engine, on a thread of its own: every free slot is filled from the queue, all full
//! slots take a step together, what is finished goes to `collect`.
//!
//! After a panic in the engine nobody knows whose it was: all its rows are dropped and done again,
//! one at a time, and only a row at which it panics alone is rejected.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use legenda_models::{Engine, Finished, Prompt};

use super::{
    EncodedRow, ModelPanic, Outcome, Outcomes, RowIdentity, RowKey, Stage,
    answer::{Answer, Origin},
    parts::{Admission, Part, WaitingParts},
};
use crate::{
    budget::{ByteReceiver, Disconnected, Held, Reservation},
    guard::guarded,
    metrics::Progress,
    stop::Stop,
};

/// A row in the engine, or one that is to be done alone.
struct Live {
    key: RowKey,
    part: Part,
    identity: RowIdentity,
    /// Kept to begin again with; its tensors are shared with the engine's own.
    prompt: Prompt,
    /// The prompt's bytes.
    _held: Reservation,
}

/// Generates until no more rows come and every slot is empty, or the grace of a stop is over; blocks its
/// thread.
///
/// # Errors
///
/// [`Disconnected`] when `collect` has failed.
pub fn run(
    engine: Engine,
    mut encoded: ByteReceiver<EncodedRow>,
    outcomes: &Outcomes,
    progress: &Progress,
    stop: &Stop,
) -> Result<(), Disconnected> {
    let mut generator = Generator {
        engine,
        stop,
        admission: Admission::new(stop),
        live: HashMap::new(),
        suspects: VecDeque::new(),
        waiting: WaitingParts::default(),
        next_ticket: 0,
    };
    while generator.fill(&mut encoded)? {
        for outcome in progress.generate.time(|| generator.step())? {
            outcomes.blocking_send(outcome).map_err(|_| Disconnected)?;
        }
    }
    Ok(())
}

struct Generator<'a> {
    engine: Engine,
    stop: &'a Stop,
    admission: Admission<'a>,
    live: HashMap<u64, Live>,
    /// Rows that were in the engine when it panicked.
    suspects: VecDeque<Live>,
    waiting: WaitingParts,
    next_ticket: u64,
}

impl Generator<'_> {
    /// Fills free slots; returns whether there is anything to do. Only an idle engine waits.
    fn fill(&mut self, encoded: &mut ByteReceiver<EncodedRow>) -> Result<bool, Disconnected> {
        if self.stop.is_over() && !(self.live.is_empty() && self.suspects.is_empty()) {
            self.live.clear();
            self.suspects.clear();
            guarded(|| self.engine.reset()).map_err(|_| Disconnected)?;
        }
        if !self.suspects.is_empty() {
            if self.live.is_empty()
                && let Some(row) = self.suspects.pop_front()
            {
                self.admit(row)?;
            }
            return Ok(true);
        }
        while self.engine.free_slots() > 0 {
            let next = if self.live.is_empty() {
                let Some(next) = encoded.blocking_recv() else { return Ok(false) };
                next
            } else {
                let Ok(next) = encoded.try_recv() else { break };
                next
            };
            let Held { item: EncodedRow { key, part, identity, prompt }, reservation } = next;
            // While a run stops its queues run empty, so that no stage waits for another.
            if !self.admission.admits(key, &part) {
                continue;
            }
            self.admit(Live { key, part, identity, prompt, _held: reservation })?;
        }
        Ok(true)
    }

    fn admit(&mut self, row: Live) -> Result<(), Disconnected> {
        let (prompt, seed) = (row.prompt.clone(), row.identity.seed);
        self.live.insert(self.next_ticket, row);
        // A slot is free, so a refusal is a fault of the engine, not of a row.
        self.engine.admit(self.next_ticket, prompt, seed).map_err(|_| Disconnected)?;
        self.next_ticket += 1;
        Ok(())
    }

    /// Takes a step of the engine and returns what came of it.
    fn step(&mut self) -> Result<Vec<Outcome>, Disconnected> {
        match guarded(|| self.engine.step()) {
            Ok(finished) => Ok(finished.into_iter().filter_map(|one| self.settle(one)).collect()),
            Err(error) => {
                guarded(|| self.engine.reset()).map_err(|_| Disconnected)?;
                let mut rows: Vec<(u64, Live)> = self.live.drain().collect();
                if rows.len() == 1 {
                    let panic = ModelPanic::from(error);
                    let rejects = |(_, row): (u64, Live)| panic.rejects(row.key, Stage::Generate);
                    return Ok(rows.into_iter().map(rejects).collect());
                }
                tracing::warn!(rows = rows.len(), %error, "engine panicked, will do rows alone");
                rows.sort_by_key(|(ticket, _)| *ticket);
                self.suspects.extend(rows.into_iter().map(|(_, row)| row));
                Ok(Vec::new())
            }
        }
    }

    /// Returns the outcome of a row's last part.
    fn settle(&mut self, Finished { ticket, result }: Finished) -> Option<Outcome> {
        let Live { key, part, identity, .. } = self.live.remove(&ticket)?;
        let generation = match result {
            Ok(generation) => generation,
            Err(error) => {
                return Some(Outcome::rejected(key, Stage::Generate, error.code(), &error));
            }
        };
        let place = match part {
            Part::OfSeveral(place) => place,
            Part::Window(reply) => {
                // Who does not wait for it any more has told why.
                reply.send(generation).ok();
                return None;
            }
        };
        let parts = self.waiting.take(key, place, generation)?;
        Some(match guarded(|| self.engine.join(parts)) {
            Ok(whole) => Outcome::Answered {
                key,
                input_sha256: identity.input_sha256,
                answer: Arc::new(Answer::new(whole, identity.flags)),
                origin: Origin::Model,
            },
            Err(error) => ModelPanic::from(error).rejects(key, Stage::Generate),
        })
    }
}
