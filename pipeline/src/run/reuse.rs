//! Deduplication and reuse of answers: a row whose input equals that of another row, in this or an earlier
//! run, is not computed again.
//!
//! The key of an answer ([`ResultKey`]) is a digest of all its inputs: the job
//! ([`RunPlan::answer_fingerprint`]), prompt and media of the row, and the row's seed if the model samples.
//! The first row of a key is computed. Rows that arrive meanwhile wait for it without blocking others;
//! later rows find its answer, first in memory and, after the commit of its span, in a [`ResultStore`]: the
//! file of `reuse.store`, or a temporary one. Errors of that file cost time, never a row.

mod store;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

pub(crate) use self::store::{ResultStore, StoreError};
use legenda_schemas::cause::chain;

use crate::run::{
    plan::RunPlan,
    stage::{
        RowIdentity, RowKey,
        answer::{Answer, Origin},
    },
};

/// The key of an answer: a SHA-256 of its inputs.
pub(crate) type ResultKey = [u8; 32];

/// The maximum bytes of the temporary file with the answers of this run.
const WITHIN_RUN_BYTES_MAX: u64 = 256 << 20;

/// The answers of a run and of its result store, by input.
#[derive(Debug)]
pub(crate) struct AnswerCache {
    fingerprint: String,
    /// Whether answers depend on the row's seed.
    draws: bool,
    /// Whether rows of this run are deduplicated.
    within_run: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The answers of rows in open spans.
    open: HashMap<ResultKey, Computed>,
    /// The keys of rows being computed.
    computing: HashMap<RowKey, ResultKey>,
    /// `None` after an error.
    store: Option<ResultStore>,
}

/// An answer of this run and the row it is computed for.
#[derive(Debug)]
struct Computed {
    by: RowKey,
    state: Computing,
}

#[derive(Debug)]
enum Computing {
    /// In progress, with the rows that wait for it.
    Pending(Vec<RowKey>),
    /// Finished.
    Done(Arc<Answer>),
}

/// The result of a lookup.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The row must be computed.
    Miss,
    /// A duplicate row is being computed; it also settles this one.
    Pending,
    /// The answer exists.
    Hit(Arc<Answer>, Origin),
}

impl AnswerCache {
    /// Opens the cache of the run of `plan`, with the result store that its job names, relative to
    /// `base_dir`. If the store cannot be used, logs a warning and only caches answers of this run.
    #[must_use]
    pub(crate) fn open(plan: &RunPlan, draws: bool, base_dir: &Path) -> Self {
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

    fn key(&self, identity: &RowIdentity) -> ResultKey {
        let mut digest = Sha256::new();
        digest.update(&self.fingerprint);
        digest.update(&identity.input_sha256);
        if self.draws {
            digest.update(identity.seed.to_le_bytes());
        }
        digest.finalize().into()
    }

    /// Looks up the answer of `row`; on a [`Lookup::Miss`] the caller must settle the row.
    pub(crate) fn lookup(&self, row: RowKey, identity: &RowIdentity) -> Lookup {
        let key = self.key(identity);
        let mut state = self.state();
        if let Some(Computed { by, state }) = state.open.get_mut(&key) {
            return match state {
                Computing::Done(answer) => Lookup::Hit(Arc::clone(answer), Origin::Duplicate),
                // The row was already started and is started again.
                Computing::Pending(_) if *by == row => Lookup::Miss,
                Computing::Pending(waiting) => {
                    waiting.push(row);
                    Lookup::Pending
                }
            };
        }
        match state.with_store(|store| store.get(&key)).flatten() {
            Some((answer, false)) => return Lookup::Hit(Arc::new(answer), Origin::Store),
            Some((answer, true)) if self.within_run => {
                return Lookup::Hit(Arc::new(answer), Origin::Duplicate);
            }
            _ => {}
        }
        if self.within_run {
            let pending = Computing::Pending(Vec::new());
            state.open.insert(key, Computed { by: row, state: pending });
        }
        state.computing.insert(row, key);
        Lookup::Miss
    }

    /// Records the answer of a computed row, or `None` if it failed; returns the rows that waited for it.
    pub(crate) fn settle(&self, row: RowKey, answer: Option<&Arc<Answer>>) -> Vec<RowKey> {
        let mut state = self.state();
        let Some(key) = state.computing.get(&row).copied() else { return Vec::new() };
        let was = match state.open.entry(key) {
            Entry::Occupied(mut entry) if entry.get().by == row => match answer {
                Some(answer) => {
                    let done = Computing::Done(Arc::clone(answer));
                    std::mem::replace(&mut entry.get_mut().state, done)
                }
                // Later duplicates are computed again: the failure may have been temporary, such as low
                // memory.
                None => entry.remove().state,
            },
            _ => return Vec::new(),
        };
        if answer.is_none() {
            state.computing.remove(&row);
        }
        match was {
            Computing::Pending(waiting) => waiting,
            Computing::Done(_) => Vec::new(),
        }
    }

    /// Stores the computed answers of a committed span. A row of it may still be in progress if its file was
    /// found damaged after it was read; other rows may wait for it.
    pub(crate) fn keep<'a>(&self, answers: impl Iterator<Item = (RowKey, Option<&'a Answer>)>) {
        let mut state = self.state();
        let mut kept = Vec::new();
        for (row, answer) in answers {
            let Entry::Occupied(computing) = state.computing.entry(row) else { continue };
            let key = *computing.get();
            match state.open.get(&key) {
                Some(Computed { by, state: Computing::Pending(_) }) if *by == row => continue,
                Some(Computed { by, .. }) if *by == row => {
                    state.open.remove(&key);
                }
                _ => {}
            }
            state.computing.remove(&row);
            kept.extend(answer.map(|answer| (key, answer)));
        }
        state.with_store(|store| store.put(&kept));
    }
}

impl State {
    /// Runs `work` on the store. Skips the operation if another process holds the store; disables a damaged
    /// store for the rest of the run.
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
            let error = chain(&error);
            tracing::debug!(error, "result store is busy, skipped");
        } else {
            warn(store.name(), &error);
            self.store = None;
        }
        None
    }
}

fn warn(store: &str, error: &StoreError) {
    let error = chain(error);
    tracing::warn!(
        store,
        error,
        "result store disabled, answers of this run are not reused; if this persists, remove the file"
    );
}
