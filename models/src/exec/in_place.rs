//! Slots over a decoder of the in-place dialect.
//!
//! # Why answers do not depend on the other slots
//!
//! Every step runs all rows of the cache, including free ones, with the same shapes: the operands of
//! a row and the order of its sums are the same regardless of which rows are live. The number of cache
//! rows changes the shapes. The matrix kernels of the CPU provider still sum a row in the same order,
//! except for a single row, which has separate kernels. So no run and no matrix product in it has
//! fewer than [`ROWS_MIN`] rows. `models/tests/models/engine.rs` tests this with 1, 3 and 8 slots. On a
//! GPU, the number of rows changes only where the memory limit requires it. (If a graph lets rows
//! depend on each other, each row runs alone.)

use std::collections::BTreeMap;

use super::{
    decode_error,
    decoder::DecoderSlots,
    sizes::cache_tokens,
    slot_size::SharedMemory,
    to_i64,
    tokens::{Padding, TokenInput},
};
use crate::{
    engine::{DecodeError, Decoder, Join, Logits, SlotCopy, StepRow},
    runtime::{Cache, InPlaceGraph, RunError, SessionError, StepInputs},
    tensors::Tensor,
};

/// The minimum number of rows of any matrix product in the decoder; see the module documentation.
const ROWS_MIN: usize = 2;

/// The initial number of cache positions. The attention kernel reads all of them, so a cache that
/// fits its rows is faster. It doubles when a row outgrows it.
const CAPACITY_TOKENS_MIN: usize = 128;

/// The smallest number of rows of a cache that grows with the number of live slots.
const ROWS_START: usize = 8;

/// The maximum number of prompts prefilled together. More gain nothing: a prompt has enough rows.
const PREFILL_ROWS_MAX: usize = 4;

/// A decoder of the in-place dialect.
///
/// A slot has a row of the cache while it is live. With a limit, the cache has as many rows as fit at
/// its capacity, so rows of short texts are many and those of long texts few.
#[derive(Debug)]
pub(crate) struct InPlaceDecoder {
    graph: InPlaceGraph,
    tokens: TokenInput,
    slots: usize,
    limit: Option<SharedMemory>,
    /// The minimum number of rows of any matrix product.
    rows_min: usize,
    context_tokens: usize,
    vocab_size: usize,
    cache: Cache,
    /// The caches for prefilling prompts before they move to their slots, by number of rows.
    staging: BTreeMap<usize, Cache>,
    /// The buffer for copying slots; allocated when beam search first needs it.
    spare: Option<Cache>,
    /// The cache row of each slot that is live.
    cache_rows: Vec<Option<usize>>,
    /// The number of tokens in each cache row.
    n_tokens: Vec<usize>,
    /// The position of the next token of each cache row.
    next_positions: Vec<i64>,
    /// The adapter that all slots use.
    adapter: Option<usize>,
}

/// Returns the number of cache rows of this capacity that fit, at least 1 and at most `slots`.
fn rows_for(slots: usize, limit: Option<SharedMemory>, capacity_tokens: usize) -> usize {
    limit.map_or(slots, |limit| limit.rows(capacity_tokens, slots))
}

impl InPlaceDecoder {
    /// Allocates the slots of an opened graph. If rows depend on each other (`mixes_rows`), only
    /// the requested rows run.
    pub(super) fn new(
        graph: InPlaceGraph,
        tokens: TokenInput,
        slots: DecoderSlots,
        limit: Option<SharedMemory>,
        mixes_rows: bool,
    ) -> Result<Self, SessionError> {
        let DecoderSlots { slots, context_tokens, vocab_size } = slots;
        let capacity_tokens = CAPACITY_TOKENS_MIN.min(cache_tokens(context_tokens));
        let rows_min = if mixes_rows { 1 } else { ROWS_MIN };
        // With a limit, the first prompts make room for more.
        let n_rows = if limit.is_some() { rows_min } else { slots.max(rows_min) };
        let cache = graph.new_cache(n_rows, capacity_tokens, None)?;
        Ok(Self {
            graph,
            tokens,
            slots,
            limit,
            rows_min,
            context_tokens,
            vocab_size,
            cache,
            staging: BTreeMap::new(),
            spare: None,
            cache_rows: vec![None; slots],
            n_tokens: vec![0; n_rows],
            next_positions: vec![0; n_rows],
            adapter: None,
        })
    }

    /// Returns the capacity of a cache with rows of `n_tokens`, at most the context.
    fn capacity_for(&self, n_tokens: usize) -> usize {
        let capacity = n_tokens.next_power_of_two().max(CAPACITY_TOKENS_MIN);
        capacity.min(cache_tokens(self.context_tokens))
    }

    /// Makes room for rows of `n_tokens` and for `n_joining` more slots.
    fn reserve(&mut self, n_tokens: usize, n_joining: usize) -> Result<(), RunError> {
        let n_live = self.cache_rows.iter().flatten().count();
        let has_rows = n_live + n_joining <= self.cache.n_rows();
        if has_rows && n_tokens <= self.cache.capacity_tokens() {
            return Ok(());
        }
        // If rows are missing, the cache has a capacity that earlier rows needed.
        let longest = self.n_tokens.iter().copied().max().unwrap_or(0).max(n_tokens);
        self.rebuild(self.capacity_for(longest), n_live + n_joining)
    }

    /// Returns the number of rows of a cache for `n_live` slots. Every step computes all rows, so a CPU
    /// has fewer of them while few are live. On a GPU, other numbers of rows may have other kernels,
    /// with other rounding errors.
    fn rows_wanted(&self, capacity_tokens: usize, n_live: usize) -> usize {
        let most = rows_for(self.slots, self.limit, capacity_tokens);
        let varies = self.limit.is_some() && !self.graph.is_on_cuda();
        let wanted = if varies { n_live.next_power_of_two().max(ROWS_START) } else { most };
        wanted.min(most).max(n_live).max(self.rows_min)
    }

    /// Halves the cache if few of its rows are live.
    fn shrink(&mut self) -> Result<(), RunError> {
        let n_live = self.cache_rows.iter().flatten().count();
        let n_rows = self.rows_wanted(self.cache.capacity_tokens(), 2 * n_live);
        if n_rows * 2 <= self.cache.n_rows() {
            self.rebuild(self.cache.capacity_tokens(), 2 * n_live)?;
        }
        Ok(())
    }

    /// Moves the live slots to a new cache with room for `n_live`.
    fn rebuild(&mut self, capacity_tokens: usize, n_live: usize) -> Result<(), RunError> {
        let n_rows = self.rows_wanted(capacity_tokens, n_live);
        let mut cache = self.new_cache(n_rows, capacity_tokens)?;
        let (mut kept_tokens, mut kept_positions) = (vec![0; n_rows], vec![0; n_rows]);
        let mut cache_rows = vec![None; self.slots];
        let live =
            self.cache_rows.iter().enumerate().filter_map(|(slot, row)| Some((slot, (*row)?)));
        for (to, (slot, from)) in live.enumerate() {
            self.graph.copy_row((&mut cache, to), (&self.cache, from), self.n_tokens[from])?;
            kept_tokens[to] = self.n_tokens[from];
            kept_positions[to] = self.next_positions[from];
            cache_rows[slot] = Some(to);
        }
        self.cache = cache;
        (self.n_tokens, self.next_positions) = (kept_tokens, kept_positions);
        self.cache_rows = cache_rows;
        self.staging.clear();
        self.spare = None;
        Ok(())
    }

    /// Returns the cache row of a slot; a free one if the slot has none.
    fn row_of(&mut self, slot: usize) -> Result<usize, RunError> {
        if let Some(row) = self.cache_rows[slot] {
            return Ok(row);
        }
        let is_free = |row: &usize| !self.cache_rows.contains(&Some(*row));
        let row = (0..self.cache.n_rows()).find(is_free);
        let row = row.ok_or_else(|| RunError::new(self.graph.name(), "no free cache row"))?;
        self.cache_rows[slot] = Some(row);
        Ok(row)
    }

    fn new_cache(&self, n_rows: usize, capacity_tokens: usize) -> Result<Cache, RunError> {
        self.graph
            .new_cache(n_rows, capacity_tokens, self.adapter)
            .map_err(|error| RunError::new(self.graph.name(), error))
    }

    /// Switches to the adapter of the prompts. The engine admits them only when no other adapter is
    /// in use.
    fn adapt(&mut self, joins: &[Join<'_>]) -> Result<(), RunError> {
        let adapter = joins.first().and_then(|join| join.prompt.adapter());
        let are_alike = joins.iter().all(|join| join.prompt.adapter() == adapter);
        if are_alike && adapter == self.adapter {
            return Ok(());
        }
        if !are_alike || self.cache_rows.iter().any(Option::is_some) {
            let problem = "rows with different adapters cannot share a batch";
            return Err(RunError::new(self.graph.name(), problem));
        }
        // Bound inputs stay bound, so other runs use separate bindings.
        let before = std::mem::replace(&mut self.adapter, adapter);
        match self.new_cache(self.cache.n_rows(), self.cache.capacity_tokens()) {
            Ok(cache) => self.cache = cache,
            Err(error) => {
                self.adapter = before;
                return Err(error);
            }
        }
        self.staging.clear();
        self.spare = None;
        Ok(())
    }

    /// Prefills prompts in a staging cache and, on success, moves them to their slots.
    fn prefill_joins(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), RunError> {
        self.adapt(joins)?;
        let longest = joins.iter().map(|join| join.prompt.n_tokens()).max().unwrap_or(0);
        self.reserve(longest, joins.len())?;
        // One row of several tokens is enough rows for a matrix product; one row of one token is
        // not.
        let n_rows = if longest < self.rows_min { self.rows_min } else { joins.len() };
        // Rows usually join one at a time, so a padding row would double the cost: each number of
        // rows has its own cache.
        let mut staging = match self.staging.remove(&n_rows) {
            Some(staging) => staging,
            None => self.new_cache(n_rows, self.cache.capacity_tokens())?,
        };
        let done = self
            .prefill_staged(&mut staging, joins, logits)
            .and_then(|()| self.enter_slots(&staging, joins));
        self.staging.insert(n_rows, staging);
        done
    }

    /// Copies prefilled rows to their slots.
    fn enter_slots(&mut self, staging: &Cache, joins: &[Join<'_>]) -> Result<(), RunError> {
        for (row_idx, join) in joins.iter().enumerate() {
            let (n_tokens, row) = (join.prompt.n_tokens(), self.row_of(join.slot)?);
            self.graph.copy_row((&mut self.cache, row), (staging, row_idx), n_tokens)?;
            self.n_tokens[row] = n_tokens;
            self.next_positions[row] = join.prompt.next_position();
        }
        Ok(())
    }

    /// Runs prompts through a staging cache. The slots are not changed before the run succeeds.
    fn prefill_staged(
        &mut self,
        staging: &mut Cache,
        joins: &[Join<'_>],
        logits: &mut Logits,
    ) -> Result<(), RunError> {
        let n_rows = staging.n_rows();
        let lengths: Vec<usize> = joins.iter().map(|join| join.prompt.n_tokens()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let shortest = lengths.iter().copied().min().unwrap_or(0);
        // With right padding, the last tokens of shorter rows are before the end. The minimum is
        // two, as one position of one row would be a single-row product again.
        let n_logits = if self.graph.takes_logits_to_keep() {
            (longest - shortest + 1).max(self.rows_min).min(longest)
        } else {
            longest
        };
        let tokens = self.tokens.prompts(joins, n_rows, longest, Padding::Right)?;
        let mut nonpad = vec![1; n_rows];
        for (nonpad, length) in nonpad.iter_mut().zip(&lengths) {
            *nonpad = to_i64(*length);
        }
        let mut position_ids = self.positions(n_rows, longest);
        for (axis, rows) in position_ids.data_mut().chunks_exact_mut(n_rows * longest).enumerate() {
            for (join, row) in joins.iter().zip(rows.chunks_exact_mut(longest)) {
                for (token_idx, value) in row.iter_mut().take(join.prompt.n_tokens()).enumerate() {
                    *value = join.prompt.position(axis, token_idx);
                }
            }
        }
        let inputs = StepInputs {
            tokens,
            position_ids,
            write_indices: vec![0; n_rows],
            nonpad_kv_seqlen: nonpad,
            n_logits,
        };
        logits.reset(joins.len(), self.vocab_size);
        self.graph.run(staging, inputs, |scores| {
            for (row_idx, length) in lengths.iter().enumerate() {
                let position = length - 1 - (longest - n_logits);
                scores.read(row_idx..row_idx + 1, position, |_, values| {
                    logits.row_mut(row_idx).copy_from_slice(values);
                })?;
            }
            Ok(())
        })
    }

    /// Allocates positions, `[B, S]` or `[A, B, S]`.
    fn positions(&self, n_rows: usize, n_tokens: usize) -> Tensor<i64> {
        match self.graph.position_axes() {
            1 => Tensor::zeros([n_rows, n_tokens]),
            n_axes => Tensor::zeros([n_axes, n_rows, n_tokens]),
        }
    }

    /// Copies slots through a spare cache, so that no slot is overwritten before it is read.
    fn copy_rows(&mut self, copies: &[SlotCopy]) -> Result<(), RunError> {
        let mut rows = Vec::with_capacity(copies.len());
        for copy in copies {
            rows.push((self.row_of(copy.from)?, self.row_of(copy.to)?));
        }
        let mut spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.new_cache(self.cache.n_rows(), self.cache.capacity_tokens())?,
        };
        for (from, to) in &rows {
            self.graph.copy_row((&mut spare, *to), (&self.cache, *from), self.n_tokens[*from])?;
        }
        let state = |(from, _): &(usize, usize)| (self.n_tokens[*from], self.next_positions[*from]);
        let sources: Vec<(usize, i64)> = rows.iter().map(state).collect();
        for ((_, to), (n_tokens, next_position)) in rows.iter().zip(sources) {
            self.graph.copy_row((&mut self.cache, *to), (&spare, *to), n_tokens)?;
            self.n_tokens[*to] = n_tokens;
            self.next_positions[*to] = next_position;
        }
        self.spare = Some(spare);
        Ok(())
    }

    fn run_step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), RunError> {
        self.shrink()?;
        // Every cache row writes after its tokens, including free ones.
        self.reserve(self.n_tokens.iter().max().map_or(1, |n| n + 1), 0)?;
        let n_rows = self.cache.n_rows();
        let mut token_ids = Tensor::zeros([n_rows, 1]);
        // The row of the call for each cache row.
        let mut places = vec![None; n_rows];
        for (row_idx, row) in rows.iter().enumerate() {
            let cache_row = self.row_of(row.slot)?;
            token_ids.data_mut()[cache_row] = row.token_id;
            places[cache_row] = Some(row_idx);
        }
        let tokens = self.tokens.step(token_ids)?;
        let lengths: Vec<i64> = self.n_tokens.iter().map(|n| to_i64(*n)).collect();
        let mut position_ids = self.positions(n_rows, 1);
        for axis in position_ids.data_mut().chunks_exact_mut(n_rows) {
            axis.copy_from_slice(&self.next_positions);
        }
        let inputs = StepInputs {
            tokens,
            position_ids,
            nonpad_kv_seqlen: lengths.iter().map(|length| length + 1).collect(),
            write_indices: lengths,
            n_logits: 1,
        };
        logits.reset(rows.len(), self.vocab_size);
        self.graph.run(&mut self.cache, inputs, |scores| {
            scores.read_last(|cache_row, values| {
                if let Some(row_idx) = places[cache_row] {
                    logits.row_mut(row_idx).copy_from_slice(values);
                }
            })
        })
    }
}

impl Decoder for InPlaceDecoder {
    fn slots(&self) -> usize {
        self.slots
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn slots_for(&self, n_tokens: usize) -> usize {
        rows_for(self.slots, self.limit, self.capacity_for(n_tokens))
    }

    fn prefill_rows_max(&self) -> usize {
        PREFILL_ROWS_MAX
    }

    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError> {
        self.prefill_joins(joins, logits).map_err(|error| decode_error(error, joins.len()))
    }

    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError> {
        self.run_step(rows, logits).map_err(|error| decode_error(error, rows.len()))?;
        for row in rows {
            if let Some(cache_row) = self.cache_rows[row.slot] {
                self.n_tokens[cache_row] += 1;
                self.next_positions[cache_row] += 1;
            }
        }
        Ok(())
    }

    fn copy_slots(&mut self, copies: &[SlotCopy]) -> Result<(), DecodeError> {
        self.copy_rows(copies).map_err(|error| decode_error(error, copies.len()))
    }

    fn release(&mut self, slot: usize) {
        if let Some(cache_row) = self.cache_rows[slot].take() {
            self.n_tokens[cache_row] = 0;
            self.next_positions[cache_row] = 0;
        }
    }
}
