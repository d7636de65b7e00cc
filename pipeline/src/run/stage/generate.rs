//! Runs the engine on a dedicated thread: fills free slots from the queue, steps all occupied slots
//! together, and sends finished rows to `collect`.
//!
//! A step costs nearly the same for few rows as for many, so free slots wait for rows that are in the
//! encoders. Rows that arrive more slowly than they are encoded are not waited for.
//!
//! If the engine panics, the row at fault is unknown: all active rows are dropped and retried one at a
//! time, and a row is rejected only if the engine panics on it alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use legenda_models::{Engine, Finished, Prompt};

use super::{
    EncodedRow, ModelPanic, Outcome, Outcomes, RowIdentity, RowKey, Stage,
    answer::{Answer, Origin},
    chunks::{Admission, Chunk, PendingChunks},
    encode::Encoding,
};
use crate::{
    base::{
        budget::{ByteReceiver, Disconnected, Held, Reservation},
        guard::guarded,
    },
    run::{metrics::Progress, stop::Stop},
};

/// How often a free slot checks whether the encoders still have rows.
const LOOK: Duration = Duration::from_millis(5);

/// A row in the engine, or one that waits to be retried alone.
struct Live {
    key: RowKey,
    chunk: Chunk,
    identity: RowIdentity,
    /// Kept for a retry; its tensors are shared with the engine.
    prompt: Prompt,
    /// The prompt's bytes.
    _held: Reservation,
}

/// Generates until no more rows arrive and every slot is empty, or the grace period is over; blocks
/// its thread.
///
/// # Errors
///
/// [`Disconnected`] if `collect` has failed.
pub(crate) fn run(
    engine: Engine,
    (mut encoded, encoding): (ByteReceiver<EncodedRow>, &Encoding),
    outcomes: &Outcomes,
    progress: &Progress,
    stop: &Stop,
    runtime: &tokio::runtime::Handle,
) -> Result<(), Disconnected> {
    let mut generator = Generator {
        engine,
        encoding,
        stop,
        runtime,
        admission: Admission::new(stop),
        live: HashMap::new(),
        suspects: VecDeque::new(),
        waiting: PendingChunks::default(),
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
    encoding: &'a Encoding,
    stop: &'a Stop,
    runtime: &'a tokio::runtime::Handle,
    admission: Admission<'a>,
    live: HashMap<u64, Live>,
    /// Rows that were active when the engine panicked.
    suspects: VecDeque<Live>,
    waiting: PendingChunks,
    next_ticket: u64,
}

impl Generator<'_> {
    /// Fills free slots; returns whether there is work to do. Waits if the engine is idle, or while the
    /// encoders run.
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
                let Some(next) = self.receive_next(encoded) else { break };
                next
            };
            let Held { item: EncodedRow { key, chunk, identity, prompt }, reservation } = next;
            // While a run stops, drain the queue so that no stage blocks on another.
            if !self.admission.admits(key, &chunk) {
                continue;
            }
            self.admit(Live { key, chunk, identity, prompt, _held: reservation })?;
        }
        Ok(true)
    }

    /// Receives a row that is in the queue or in the encoders.
    fn receive_next(&self, encoded: &mut ByteReceiver<EncodedRow>) -> Option<Held<EncodedRow>> {
        loop {
            if let Ok(next) = encoded.try_recv() {
                return Some(next);
            }
            if !self.encoding.is_active() || self.stop.is_over() {
                return None;
            }
            let next = async { tokio::time::timeout(LOOK, encoded.recv()).await };
            match self.runtime.block_on(next) {
                Ok(next) => return next,
                Err(_) => continue,
            }
        }
    }

    fn admit(&mut self, row: Live) -> Result<(), Disconnected> {
        let (prompt, seed) = (row.prompt.clone(), row.identity.seed);
        self.live.insert(self.next_ticket, row);
        // A slot is free, so a refusal is an engine bug, not a row error.
        self.engine.admit(self.next_ticket, prompt, seed).map_err(|_| Disconnected)?;
        self.next_ticket += 1;
        Ok(())
    }

    /// Steps the engine and returns the outcomes.
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
                tracing::warn!(rows = rows.len(), %error, "engine panicked; retrying rows one at a time");
                rows.sort_by_key(|(ticket, _)| *ticket);
                self.suspects.extend(rows.into_iter().map(|(_, row)| row));
                Ok(Vec::new())
            }
        }
    }

    /// Returns the outcome of a row when its last chunk finishes.
    fn settle(&mut self, Finished { ticket, result }: Finished) -> Option<Outcome> {
        let Live { key, chunk, identity, .. } = self.live.remove(&ticket)?;
        let generation = match result {
            Ok(generation) => generation,
            Err(error) => {
                return Some(Outcome::rejected(key, Stage::Generate, error.code(), &error));
            }
        };
        let chunk = match chunk {
            Chunk::Indexed(chunk) => chunk,
            Chunk::Window(reply) => {
                // A receiver that has gone has reported its own error.
                reply.send(generation).ok();
                return None;
            }
        };
        let chunks = self.waiting.take(key, chunk, generation)?;
        Some(match guarded(|| self.engine.join(chunks)) {
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
