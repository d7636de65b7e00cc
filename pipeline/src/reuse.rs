//! Answers that need not be computed: another row of the run has the same input, or an earlier run has
//! answered it.
//!
//! An answer is named by what it follows from (its [`ResultKey`]): what decides answers of the job
//! ([`RunPlan::answer_fingerprint`]), prompt and media of the row, and the row's seed where it is drawn.
//! The first row of a name is computed; those that come meanwhile wait for it and hold nothing else up;
//! later ones find the answer with it, and, when its span is committed, in a [`ResultStore`]: the file of
//! `reuse.store`, or a temporary one. What is wrong with that file costs time, never a row.

mod store;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

pub use self::store::{ResultStore, StoreError};
use crate::{
    plan::RunPlan,
    stage::{
        RowIdentity, RowKey,
        answer::{Answer, Origin},
    },
};

/// What an answer follows from: a SHA-256.
pub type ResultKey = [u8; 32];

/// The most bytes of the temporary file that remembers answers of this run alone.
const WITHIN_RUN_BYTES_MAX: u64 = 256 << 20;

/// What is known of the answers of a run.
#[derive(Debug)]
pub struct Known {
    fingerprint: String,
    /// Whether the row's seed has a part in its answer.
    draws: bool,
    /// Whether rows of this run are compared with each other.
    within_run: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the rows of open spans make.
    open: HashMap<ResultKey, Computed>,
    /// The rows that are computed, and what.
    computing: HashMap<RowKey, ResultKey>,
    /// None when it cannot be used any more.
    store: Option<ResultStore>,
}

/// An answer of this run, and the row that it is computed for.
#[derive(Debug)]
struct Computed {
    by: RowKey,
    state: Computing,
}

#[derive(Debug)]
enum Computing {
    /// It is on its way, and these rows wait for it.
    Awaited(Vec<RowKey>),
    /// It is there.
    Done(Arc<Answer>),
}

/// What is known of a row.
#[derive(Debug)]
pub enum Asked {
    /// Nothing: it is to be computed.
    New,
    /// Another row has the same input and is computed: this one is settled with it.
    Awaited,
    /// Its answer.
    Known(Arc<Answer>, Origin),
}

impl Known {
    /// Opens what is known to the run of `plan`: the store that its job names, relative to `base_dir`.
    /// A store that cannot be used is told of, and the run remembers its own answers alone.
    #[must_use]
    pub fn open(plan: &RunPlan, draws: bool, base_dir: &Path) -> Self {
        let reuse = &plan.job.reuse;
        let kept = reuse.store.as_ref().and_then(|name| {
            let path = base_dir.join(name);
            let store = ResultStore::open(&path, reuse.max_size.0);
            store.map_err(|error| warn(&path.display().to_string(), &error)).ok()
        });
        let store = kept.or_else(|| {
            let store = ResultStore::temporary(WITHIN_RUN_BYTES_MAX);
            store.map_err(|error| warn("a temporary file", &error)).ok()
        });
        Self {
            fingerprint: plan.answer_fingerprint().as_str().to_owned(),
            draws,
            within_run: reuse.within_run,
            state: Mutex::new(State { store, ..State::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, identity: &RowIdentity) -> ResultKey {
        let mut digest = Sha256::new();
        digest.update(&self.fingerprint);
        digest.update(&identity.input_sha256);
        if self.draws {
            digest.update(identity.seed.to_le_bytes());
        }
        digest.finalize().into()
    }

    /// Asks for the answer of the row at `row`; where it is [`Asked::New`] the row is to be settled.
    pub fn ask(&self, row: RowKey, identity: &RowIdentity) -> Asked {
        let name = self.name(identity);
        let mut state = self.state();
        if let Some(Computed { by, state }) = state.open.get_mut(&name) {
            return match state {
                Computing::Done(answer) => Asked::Known(Arc::clone(answer), Origin::Twin),
                // It was begun before, and begins again.
                Computing::Awaited(_) if *by == row => Asked::New,
                Computing::Awaited(waiting) => {
                    waiting.push(row);
                    Asked::Awaited
                }
            };
        }
        match state.with_store(|store| store.get(&name)).flatten() {
            Some((answer, false)) => return Asked::Known(Arc::new(answer), Origin::Store),
            Some((answer, true)) if self.within_run => {
                return Asked::Known(Arc::new(answer), Origin::Twin);
            }
            _ => {}
        }
        if self.within_run {
            let awaited = Computing::Awaited(Vec::new());
            state.open.insert(name, Computed { by: row, state: awaited });
        }
        state.computing.insert(row, name);
        Asked::New
    }

    /// Takes in what became of a row that was to be computed, its answer or none; returns the rows that
    /// have waited for it.
    pub fn settle(&self, row: RowKey, answer: Option<&Arc<Answer>>) -> Vec<RowKey> {
        let mut state = self.state();
        let Some(name) = state.computing.get(&row).copied() else { return Vec::new() };
        let was = match state.open.entry(name) {
            Entry::Occupied(mut entry) if entry.get().by == row => match answer {
                Some(answer) => {
                    let done = Computing::Done(Arc::clone(answer));
                    std::mem::replace(&mut entry.get_mut().state, done)
                }
                // Whoever asks later is computed again: it may have been the memory of the moment.
                None => entry.remove().state,
            },
            _ => return Vec::new(),
        };
        if answer.is_none() {
            state.computing.remove(&row);
        }
        match was {
            Computing::Awaited(waiting) => waiting,
            Computing::Done(_) => Vec::new(),
        }
    }

    /// Keeps the answers of a committed span that it has computed. A row of it may be computed still,
    /// where the table was found damaged after it was read; others may wait for it.
    pub fn keep<'a>(&self, answers: impl Iterator<Item = (RowKey, Option<&'a Answer>)>) {
        let mut state = self.state();
        let mut kept = Vec::new();
        for (row, answer) in answers {
            let Entry::Occupied(computing) = state.computing.entry(row) else { continue };
            let name = *computing.get();
            match state.open.get(&name) {
                Some(Computed { by, state: Computing::Awaited(_) }) if *by == row => continue,
                Some(Computed { by, .. }) if *by == row => {
                    state.open.remove(&name);
                }
                _ => {}
            }
            state.computing.remove(&row);
            kept.extend(answer.map(|answer| (name, answer)));
        }
        state.with_store(|store| store.put(&kept));
    }
}

impl State {
    /// Does something with the store. One that another process holds is left alone this time, one that is
    /// damaged for good.
    fn with_store<T>(
        &mut self,
        work: impl FnOnce(&mut ResultStore) -> Result<T, StoreError>,
    ) -> Option<T> {
        let store = self.store.as_mut()?;
        let error = match work(store) {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        if error.is_busy() {
            tracing::debug!(%error, "result store left alone");
        } else {
            warn(store.name(), &error);
            self.store = None;
        }
        None
    }
}

fn warn(store: &str, error: &StoreError) {
    tracing::warn!(store, %error, "answers are not kept for reuse; the run goes on without");
}
