//! Slots over a decoder whose KV cache grows by concatenation: the growing, shifted and cohort
//! dialects.
//!
//! Rows that are computed together form a *batch*: left-padded to one length. If each row has its
//! own positions (growing), all rows are in one batch, and prompts that were prefilled separately
//! are merged into it. If a position is a column (shifted), a running row cannot move to other
//! columns: prompts that enter together stay one batch, which others join only if they happen to
//! have as many columns. If there is no mask either (cohort), prompts of different lengths cannot
//! enter together, and rows share a batch only if their encoder states have the same length or the
//! graph takes a mask for them.
//!
//! Rebuilding a batch copies its cache once, as much as the graph itself copies in each step. So
//! prompts join when a share of the slots is free rather than one at a time, and a finished row is
//! computed along with the others until more rows have finished.
//!
//! The answer of a row depends on the other rows only through rounding: matrix kernels may order
//! sums over more columns or rows differently. `models/tests/models/families.rs` checks that the
//! tokens are equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{
    engine::{DecodeError, Decoder, Join, Logits, Prompt, SlotCopy, StepRow},
    graph::Dialect,
    runtime::{Embeds, GrowingGraph, GrowingInputs, Past, PastRow, RunError, Tokens},
    tensors::Tensor,
};

use super::{
    decode_error,
    decoder::DecoderSlots,
    slot_size::SharedMemory,
    tokens::{Padding, TokenInput},
};

/// The maximum number of prompts prefilled together.
const PREFILL_ROWS_MAX: usize = 8;

/// The same for an encoder-decoder: its rows begin with few tokens, and those that begin together are
/// computed together to the end.
const PREFILL_ROWS_MAX_CROSS: usize = 16;

/// The maximum size of a prefill's logits in bytes if the graph returns them for every position:
/// longer prompts are prefilled in chunks.
const PREFILL_LOGITS_BYTES_MAX: usize = 64 << 20;

/// The fraction of slots, as a divisor, that must be free before prompts join.
const JOIN_SHARE_GROWING: usize = 4;
const JOIN_SHARE_SHIFTED: usize = 2;

/// The fraction of finished rows, as a divisor, above which a batch is rebuilt without them.
const RELEASED_SHARE: usize = 4;

/// A row of a batch.
#[derive(Clone, Copy, Debug)]
struct BatchRow {
    slot: usize,
    /// The number of tokens; the columns before them are padding.
    n_tokens: usize,
    /// The position of the next token.
    next_position: i64,
}

/// Rows that are computed together.
#[derive(Debug)]
struct Batch {
    rows: Vec<BatchRow>,
    past: Past,
}

/// The properties of the graph that constrain batching.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowRules {
    /// Whether rows have their own positions, so that all batches can be merged.
    pub(super) merges: bool,
    /// Whether prompt tokens depend on later ones, so that a prompt cannot be prefilled in chunks.
    pub(super) whole_prompts: bool,
}

/// A decoder of the growing, shifted or cohort dialect.
#[derive(Debug)]
pub(super) struct GrowingDecoder {
    graph: GrowingGraph,
    tokens: TokenInput,
    slots: usize,
    limit: Option<SharedMemory>,
    context_tokens: usize,
    vocab_size: usize,
    rules: RowRules,
    /// The maximum size of a prefill's logits in bytes.
    prefill_bytes_max: usize,
    batches: Vec<Batch>,
}

impl GrowingDecoder {
    pub(super) fn new(
        graph: GrowingGraph,
        tokens: TokenInput,
        slots: DecoderSlots,
        limit: Option<SharedMemory>,
        rules: RowRules,
    ) -> Self {
        let DecoderSlots { slots, context_tokens, vocab_size } = slots;
        let prefill_bytes_max = PREFILL_LOGITS_BYTES_MAX;
        let batches = Vec::new();
        Self {
            graph,
            tokens,
            slots,
            limit,
            context_tokens,
            vocab_size,
            rules,
            prefill_bytes_max,
            batches,
        }
    }

    /// Returns the maximum number of positions of one row whose logits fit the size limit; `None`
    /// if the graph returns only those of the last position.
    fn scored_positions_max(&self) -> Option<usize> {
        let bytes = (self.vocab_size * size_of::<f32>()).max(1);
        (!self.graph.ports().takes_logits_to_keep).then(|| self.prefill_bytes_max / bytes)
    }

    /// Prefills prompts and merges them with the batches that they can join.
    fn prefill_joins(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), RunError> {
        logits.reset(joins.len(), self.vocab_size);
        let n_batches = self.batches.len();
        let mut prefill = || {
            for places in self.groups(joins) {
                let group: Vec<Join<'_>> = places.iter().map(|place| joins[*place]).collect();
                let batch = self.prefill_batch(&group, |row_idx, scores| {
                    logits.row_mut(places[row_idx]).copy_from_slice(scores);
                })?;
                self.batches.push(batch);
            }
            self.merge()
        };
        // The existing batches have not changed: remove the new ones.
        prefill().inspect_err(|_| self.batches.truncate(n_batches))
    }

    /// Returns the groups of prompts that enter together, as indices.
    fn groups(&self, joins: &[Join<'_>]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (place, join) in joins.iter().enumerate() {
            let is_cohort = self.graph.ports().dialect == Dialect::Cohort;
            let n_tokens = if is_cohort { join.prompt.n_tokens() } else { 0 };
            let n_positions = join.prompt.n_positions();
            groups.entry((n_tokens, self.unmasked(n_positions))).or_default().push(place);
        }
        groups.into_values().collect()
    }

    /// Returns the encoder state length that rows of one batch must share.
    fn unmasked(&self, n_positions: usize) -> usize {
        if self.graph.masks_states() { 0 } else { n_positions }
    }

    /// Computes the logits after a prompt prefix and discards its KV cache.
    fn run_peek(
        &mut self,
        prompt: &Prompt,
        n_tokens: usize,
        logits: &mut Logits,
    ) -> Result<(), RunError> {
        let token_ids: Vec<i64> = prompt.token_ids().iter().copied().take(n_tokens).collect();
        let n_tokens = token_ids.len();
        let tokens = self.step_input([1, n_tokens], token_ids)?;
        let states: Vec<&Tensor<f32>> = prompt.states().into_iter().collect();
        let past = self.graph.empty_past(1, &states)?;
        let position = |axis, _, token_idx| prompt.position(axis, token_idx);
        let inputs = self.inputs(tokens, (&[n_tokens], n_tokens), 0..n_tokens, position);
        logits.reset(1, self.vocab_size);
        let read = |_, scores: &[f32]| logits.row_mut(0).copy_from_slice(scores);
        self.graph.run(&past, inputs, read).map(drop)
    }

    /// Prefills prompts in a batch of their own.
    fn prefill_batch(
        &mut self,
        joins: &[Join<'_>],
        mut read: impl FnMut(usize, &[f32]),
    ) -> Result<Batch, RunError> {
        let lengths: Vec<usize> = joins.iter().map(|join| join.prompt.n_tokens()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let tokens = self.tokens.prompts(joins, joins.len(), longest, Padding::Left)?;
        // The first run of an encoder-decoder uses another branch, and its prompts are a few
        // tokens.
        let is_encoded = self.graph.ports().cross.is_some();
        let piece = match self.scored_positions_max() {
            Some(max) if !self.rules.whole_prompts && !is_encoded => {
                (max / joins.len().max(1)).clamp(16, longest.max(16))
            }
            _ => longest,
        };
        let states: Vec<&Tensor<f32>> =
            joins.iter().filter_map(|join| join.prompt.states()).collect();
        let mut past = self.graph.empty_past(joins.len(), &states)?;
        for start in (0..longest).step_by(piece) {
            let end = (start + piece).min(longest);
            let inputs = self.inputs(
                columns(&tokens, start, end),
                (&lengths, longest),
                start..end,
                |axis, row_idx, token_idx| joins[row_idx].prompt.position(axis, token_idx),
            );
            past = self.graph.run(&past, inputs, &mut read)?;
        }
        let rows = joins
            .iter()
            .zip(lengths)
            .map(|(join, n_tokens)| {
                let next_position = join.prompt.next_position();
                BatchRow { slot: join.slot, n_tokens, next_position }
            })
            .collect();
        Ok(Batch { rows, past })
    }

    /// Creates the input of tokens without a prompt.
    fn step_input(&self, shape: [usize; 2], token_ids: Vec<i64>) -> Result<Tokens, RunError> {
        let ids = Tensor::new(shape, token_ids)
            .map_err(|error| RunError::new(self.graph.name(), error))?;
        self.tokens.step(ids)
    }

    /// Gathers rows of several batches into one. Rows that cannot move keep all their columns.
    fn gather(&self, rows: &[(usize, usize)]) -> Result<Batch, RunError> {
        let of = |(batch_idx, row_idx): (usize, usize)| &self.batches[batch_idx].rows[row_idx];
        let taken: Vec<BatchRow> = rows.iter().map(|place| *of(*place)).collect();
        let n_columns = if self.rules.merges {
            taken.iter().map(|row| row.n_tokens).max().unwrap_or(0)
        } else {
            let past = rows.first().map(|(batch_idx, _)| &self.batches[*batch_idx].past);
            past.map_or(0, Past::n_columns)
        };
        let sources: Vec<PastRow<'_>> = rows
            .iter()
            .zip(&taken)
            .map(|((batch_idx, row_idx), row)| PastRow {
                past: &self.batches[*batch_idx].past,
                row_idx: *row_idx,
                n_columns: if self.rules.merges { row.n_tokens } else { n_columns },
            })
            .collect();
        Ok(Batch { past: self.graph.gather(&sources, n_columns)?, rows: taken })
    }

    /// Merges compatible batches. On failure, none has changed.
    fn merge(&mut self) -> Result<(), RunError> {
        let mut alike: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (batch_idx, Batch { past, .. }) in self.batches.iter().enumerate() {
            let n_columns = if self.rules.merges { 0 } else { past.n_columns() };
            alike
                .entry((n_columns, self.unmasked(past.n_positions())))
                .or_default()
                .push(batch_idx);
        }
        let mut merged = Vec::new();
        let mut gone = BTreeSet::new();
        for batch_idxs in alike.into_values().filter(|batch_idxs| batch_idxs.len() > 1) {
            let rows: Vec<(usize, usize)> =
                batch_idxs.iter().flat_map(|batch_idx| self.live_rows(*batch_idx)).collect();
            merged.push(self.gather(&rows)?);
            gone.extend(batch_idxs);
        }
        let mut batch_idx = 0..;
        self.batches.retain(|_| batch_idx.next().is_some_and(|idx| !gone.contains(&idx)));
        self.batches.extend(merged);
        Ok(())
    }

    /// Returns the live rows of a batch.
    fn live_rows(&self, batch_idx: usize) -> Vec<(usize, usize)> {
        let rows = self.batches[batch_idx].rows.iter().enumerate();
        rows.filter(|(_, row)| row.slot != RELEASED)
            .map(|(row_idx, _)| (batch_idx, row_idx))
            .collect()
    }

    /// Reduces a batch to those of its live rows for which `keep` is true.
    fn split(&mut self, batch_idx: usize, keep: impl Fn(usize) -> bool) -> Result<(), RunError> {
        let rows = &self.batches[batch_idx].rows;
        let (kept, others): (Vec<_>, Vec<_>) = self
            .live_rows(batch_idx)
            .into_iter()
            .partition(|(_, row_idx)| keep(rows[*row_idx].slot));
        if kept.is_empty() || others.is_empty() {
            return Ok(());
        }
        let (kept, others) = (self.gather(&kept)?, self.gather(&others)?);
        self.batches[batch_idx] = kept;
        self.batches.push(others);
        Ok(())
    }

    /// Runs one step of every batch with live rows. Either all of them grow, or none.
    fn run_step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), RunError> {
        let taking = |slot: usize| rows.iter().position(|row| row.slot == slot);
        self.merge()?;
        for batch_idx in 0..self.batches.len() {
            self.split(batch_idx, |slot| taking(slot).is_some())?;
        }
        logits.reset(rows.len(), self.vocab_size);
        let mut grown: Vec<(usize, Past)> = Vec::new();
        for (batch_idx, batch) in self.batches.iter().enumerate() {
            let places: Vec<Option<usize>> =
                batch.rows.iter().map(|row| taking(row.slot)).collect();
            if places.iter().all(Option::is_none) {
                continue;
            }
            let n_columns = batch.past.n_columns();
            let ids = places.iter().map(|place| place.map_or(0, |place| rows[place].token_id));
            let tokens = self.step_input([places.len(), 1], ids.collect())?;
            let lengths: Vec<usize> = batch.rows.iter().map(|row| row.n_tokens + 1).collect();
            let inputs = self.inputs(
                tokens,
                (&lengths, n_columns + 1),
                n_columns..n_columns + 1,
                |_, row_idx, _| batch.rows[row_idx].next_position,
            );
            let past = self.graph.run(&batch.past, inputs, |row_idx, scores| {
                if let Some(place) = places[row_idx] {
                    logits.row_mut(place).copy_from_slice(scores);
                }
            })?;
            grown.push((batch_idx, past));
        }
        for (batch_idx, past) in grown {
            let batch = &mut self.batches[batch_idx];
            batch.past = past;
            for row in batch.rows.iter_mut().filter(|row| row.slot != RELEASED) {
                row.n_tokens += 1;
                row.next_position += 1;
            }
        }
        Ok(())
    }

    /// Creates the inputs for some columns of rows that hold `lengths` tokens once they have
    /// `n_columns`. `position` returns the position of a row's token on an axis.
    fn inputs(
        &self,
        tokens: Tokens,
        (lengths, n_columns): (&[usize], usize),
        columns: Range<usize>,
        position: impl Fn(usize, usize, usize) -> i64,
    ) -> GrowingInputs {
        let (n_rows, end, n_new) = (lengths.len(), columns.end, columns.len());
        let n_axes = self.graph.ports().position_axes;
        let mut attention_mask = Tensor::zeros([n_rows, end]);
        let mut position_ids = if n_axes == 1 {
            Tensor::zeros([n_rows, n_new])
        } else {
            Tensor::zeros([n_axes, n_rows, n_new])
        };
        for (row_idx, length) in lengths.iter().enumerate() {
            let pads = n_columns - length;
            for column in pads..end {
                attention_mask.data_mut()[row_idx * end + column] = 1;
            }
            // Padding stays at position 0 (1 in transformers). Any value works, as it is never
            // read.
            for column in columns.start.max(pads)..end {
                for axis in 0..n_axes {
                    let at = (axis * n_rows + row_idx) * n_new + column - columns.start;
                    position_ids.data_mut()[at] = position(axis, row_idx, column - pads);
                }
            }
        }
        GrowingInputs { tokens, attention_mask, position_ids }
    }

    /// Drops finished rows if there are many, or if other rows need their columns.
    fn drop_released(&mut self) -> Result<(), RunError> {
        for batch_idx in 0..self.batches.len() {
            let live = self.live_rows(batch_idx);
            let Batch { rows, past } = &self.batches[batch_idx];
            let n_released = rows.len() - live.len();
            let is_full = past.n_columns() >= self.context_tokens;
            if live.is_empty() {
                self.batches[batch_idx].rows.clear();
            } else if n_released * RELEASED_SHARE >= rows.len() || (n_released > 0 && is_full) {
                self.batches[batch_idx] = self.gather(&live)?;
            }
        }
        self.batches.retain(|batch| !batch.rows.is_empty());
        Ok(())
    }
}

/// The slot of a finished row that is still in its batch.
const RELEASED: usize = usize::MAX;

impl Decoder for GrowingDecoder {
    fn slots(&self) -> usize {
        self.slots
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn slots_for(&self, n_tokens: usize) -> usize {
        self.limit.map_or(self.slots, |limit| limit.rows(n_tokens, self.slots))
    }

    fn prefill_rows_max(&self) -> usize {
        match self.scored_positions_max() {
            // Such prompts contain at least one image. Prompts that cannot be split get fewer rows.
            Some(max) if self.rules.whole_prompts => (max / 256).clamp(1, PREFILL_ROWS_MAX),
            _ if self.graph.ports().cross.is_some() => PREFILL_ROWS_MAX_CROSS,
            _ => PREFILL_ROWS_MAX,
        }
    }

    fn joins_now(&self, n_live: usize) -> bool {
        let share = if self.rules.merges { JOIN_SHARE_GROWING } else { JOIN_SHARE_SHIFTED };
        (self.slots - n_live.min(self.slots)) * share >= self.slots
    }

    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError> {
        self.prefill_joins(joins, logits).map_err(|error| decode_error(error, joins.len()))
    }

    fn peek(
        &mut self,
        prompt: &Prompt,
        n_tokens: usize,
        logits: &mut Logits,
    ) -> Result<(), DecodeError> {
        self.run_peek(prompt, n_tokens, logits).map_err(|error| decode_error(error, 1))
    }

    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError> {
        let mut step = || {
            self.drop_released()?;
            self.run_step(rows, logits)
        };
        step().map_err(|error| decode_error(error, rows.len()))
    }

    fn copy_slots(&mut self, copies: &[SlotCopy]) -> Result<(), DecodeError> {
        let mut rebuilt = Vec::with_capacity(self.batches.len());
        for (batch_idx, batch) in self.batches.iter().enumerate() {
            let place = |slot: usize| batch.rows.iter().position(|row| row.slot == slot);
            let is_filled = |slot: usize| copies.iter().any(|copy| copy.to == slot);
            let stay = batch.rows.iter().enumerate();
            let stay = stay.filter(|(_, row)| row.slot != RELEASED && !is_filled(row.slot));
            let mut taken: Vec<_> = stay.map(|(row_idx, row)| (row_idx, row.slot)).collect();
            taken.extend(copies.iter().filter_map(|copy| Some((place(copy.from)?, copy.to))));
            if taken.is_empty() {
                continue;
            }
            let places: Vec<_> = taken.iter().map(|(row_idx, _)| (batch_idx, *row_idx)).collect();
            let mut batch =
                self.gather(&places).map_err(|error| decode_error(error, copies.len()))?;
            for (row, (_, slot)) in batch.rows.iter_mut().zip(taken) {
                row.slot = slot;
            }
            rebuilt.push(batch);
        }
        self.batches = rebuilt;
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        let mut rows = self.batches.iter_mut().flat_map(|batch| &mut batch.rows);
        if let Some(row) = rows.find(|row| row.slot == slot) {
            // The row may still be computed, so its token needs some valid position.
            *row = BatchRow { slot: RELEASED, next_position: 0, ..*row };
        }
    }
}

/// Returns columns `start..end` of `[B, S]` ids or `[B, S, C]` embeddings.
fn columns(tokens: &Tokens, start: usize, end: usize) -> Tokens {
    fn cut<T: Clone + Default>(tensor: &Tensor<T>, start: usize, end: usize) -> Tensor<T> {
        let mut shape = tensor.shape().to_vec();
        let inner: usize = shape.iter().skip(2).product();
        if let Some(columns) = shape.get_mut(1) {
            *columns = end - start;
        }
        let rows = (0..tensor.rows())
            .flat_map(|row_idx| tensor.row(row_idx)[start * inner..end * inner].to_vec())
            .collect();
        Tensor::new(shape.clone(), rows).unwrap_or_else(|_| Tensor::zeros(shape))
    }
    match tokens {
        Tokens::Ids(ids) => Tokens::Ids(cut(ids, start, end)),
        Tokens::Embeds(Embeds { values, per_layer }) => Tokens::Embeds(Embeds {
            values: cut(values, start, end),
            per_layer: per_layer.as_ref().map(|values| cut(values, start, end)),
        }),
    }
}

#[cfg(test)]
mod tests;
