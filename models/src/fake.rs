//! A deterministic fake encoder and decoder, for tests of the layers above a model without ONNX
//! Runtime. Requires the feature `test-support`.
//!
//! An answer is a function of the prompt's token ids alone. Failures are scripted by token id: a
//! call fails as a whole while its batch has a row with such an id, like a real batch.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    engine::{
        Beams, Constraints, DecodeError, Decoder, Detokenizer, Engine, EngineOptions, Guard, Join,
        LengthLimit, Logits, Prompt, Sampling, SlotCopy, StepRow,
    },
    exec::{EncodeError, Encoder},
    preprocess::Sample,
    tensors::Tensor,
};

/// The options of the fake.
#[derive(Clone, Debug)]
pub struct FakeOptions {
    /// The number of rows generated together.
    pub slots: usize,
    /// The maximum number of tokens of a row, prompt and answer together.
    pub context_tokens: usize,
    /// The number of cache positions that all live rows share.
    pub cache_tokens_max: usize,
    /// The maximum number of prompts prefilled together.
    pub prefill_rows_max: usize,
    /// The vocabulary size; the ids of answers are below it.
    pub vocab_size: usize,
    /// The end token.
    pub eos_token_id: i64,
    /// The minimum length of an answer in tokens, without the end token.
    pub answer_tokens_min: usize,
    /// The maximum length of an answer in tokens, without the end token.
    pub answer_tokens_max: usize,
    /// The ids that fail the encoding of a sample.
    pub encode_fails_on: BTreeSet<i64>,
    /// The ids that fail the prefill of a batch.
    pub prefill_fails_on: BTreeSet<i64>,
    /// The ids that fail a decode step while the prompt of a row in the batch contains them.
    pub step_fails_on: BTreeSet<i64>,
    /// Whether scripted failures panic instead.
    pub panics: bool,
    /// The time that a batch of samples takes to encode.
    pub encode_takes: Duration,
    /// Counts the decode steps.
    pub n_steps: Arc<AtomicUsize>,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            slots: 4,
            context_tokens: 256,
            cache_tokens_max: usize::MAX,
            prefill_rows_max: 4,
            vocab_size: 64,
            eos_token_id: 0,
            answer_tokens_min: 1,
            answer_tokens_max: 20,
            encode_fails_on: BTreeSet::new(),
            prefill_fails_on: BTreeSet::new(),
            step_fails_on: BTreeSet::new(),
            panics: false,
            encode_takes: Duration::ZERO,
            n_steps: Arc::default(),
        }
    }
}

impl FakeOptions {
    /// Returns the answer to a prompt as token ids, without the end token.
    #[must_use]
    pub fn answer(&self, prompt_ids: &[i64]) -> Vec<i64> {
        let span = (self.answer_tokens_max - self.answer_tokens_min + 1) as u64;
        let seed = hash(prompt_ids);
        let extra = usize::try_from(seed % span).unwrap_or(0);
        (0..self.answer_tokens_min + extra).map(|idx| self.token(seed, idx)).collect()
    }

    /// Returns the text of the answer, as written by [`FakeDetokenizer`].
    #[must_use]
    pub fn answer_text(&self, prompt_ids: &[i64]) -> String {
        FakeDetokenizer { eos_token_id: self.eos_token_id }.text(&self.answer(prompt_ids))
    }

    fn token(&self, seed: u64, idx: usize) -> i64 {
        let choices = self.vocab_size.saturating_sub(1).max(1) as u64;
        let mixed = hash(&[seed.cast_signed(), i64::try_from(idx).unwrap_or(0)]);
        // 1 to vocab_size - 1, but never the end token.
        let token_id = 1 + (mixed % choices).cast_signed();
        if token_id == self.eos_token_id { 0 } else { token_id }
    }

    /// Creates an engine over a [`FakeDecoder`]: greedy, with this limit of new tokens.
    #[must_use]
    pub fn engine(&self, max_new_tokens: usize) -> Engine {
        let options = EngineOptions {
            eos_token_ids: vec![self.eos_token_id],
            length: LengthLimit::NewTokens(max_new_tokens),
            stop_strings: Vec::new(),
            constraints: Constraints::default(),
            sampling: Sampling::GREEDY,
            beams: Beams::OFF,
            guard: Guard::default(),
            fallback: None,
            grammar: None,
        };
        let detokenizer = FakeDetokenizer { eos_token_id: self.eos_token_id };
        Engine::new(Box::new(FakeDecoder::new(self.clone())), Arc::new(detokenizer), options)
    }
}

/// Computes FNV-1a over the ids: stable across platforms and versions.
fn hash(ids: &[i64]) -> u64 {
    ids.iter().flat_map(|id| id.to_le_bytes()).fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Writes token ids as words: `t7 t12`.
#[derive(Clone, Copy, Debug)]
pub struct FakeDetokenizer {
    /// The token that has no text.
    pub eos_token_id: i64,
}

impl Detokenizer for FakeDetokenizer {
    fn text(&self, token_ids: &[i64]) -> String {
        let words = token_ids.iter().filter(|id| **id != self.eos_token_id);
        words.map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ")
    }
}

/// Turns a sample into a prompt with one-dimensional embeddings equal to its token ids.
#[derive(Debug)]
pub struct FakeEncoder {
    options: FakeOptions,
    /// The number of attempted batches.
    pub n_calls: usize,
}

impl FakeEncoder {
    /// Creates an encoder.
    #[must_use]
    pub fn new(options: FakeOptions) -> Self {
        Self { options, n_calls: 0 }
    }
}

impl Encoder for FakeEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        self.n_calls += 1;
        std::thread::sleep(self.options.encode_takes);
        let fails_on = &self.options.encode_fails_on;
        if self.options.panics {
            let id = samples.iter().flat_map(|sample| &sample.token_ids);
            let id = id.into_iter().find(|id| fails_on.contains(id));
            assert!(id.is_none(), "scripted panic on token {id:?}");
        }
        let encode = |sample: Sample| match sample.token_ids.iter().find(|id| fails_on.contains(id))
        {
            Some(id) => Err(EncodeError::Run {
                graph: "fake_encoder".to_owned(),
                source: format!("scripted failure on token {id}").into(),
            }),
            None => Ok(fake_prompt(sample.token_ids)),
        };
        samples.into_iter().map(encode).collect()
    }
}

/// Returns a prompt of these token ids with zero embeddings, for engines over a fake decoder.
#[must_use]
pub fn fake_prompt(token_ids: Vec<i64>) -> Prompt {
    let n_tokens = token_ids.len();
    Prompt::new(token_ids, Tensor::zeros([n_tokens, 1]))
}

/// A slot of the fake: the prompt and the number of requested answer tokens.
#[derive(Clone, Debug)]
struct FakeSlot {
    prompt_ids: Vec<i64>,
    answer: Vec<i64>,
    n_given: usize,
}

/// Answers with scripted tokens, and checks that callers follow the contract.
#[derive(Debug)]
pub struct FakeDecoder {
    options: FakeOptions,
    slots: Vec<Option<FakeSlot>>,
}

impl FakeDecoder {
    /// Creates a decoder with free slots.
    #[must_use]
    pub fn new(options: FakeOptions) -> Self {
        Self { slots: vec![None; options.slots], options }
    }

    /// Gives the next token of a slot's answer the highest score.
    /// Checks that the live slots fit into the cache, or that one row is alone.
    fn expect_room(&self) {
        let live = self.slots.iter().flatten();
        let longest = live.clone().map(|slot| slot.prompt_ids.len() + slot.n_given).max();
        let n_tokens = longest.unwrap_or(0).saturating_mul(live.clone().count());
        let fits = n_tokens <= self.options.cache_tokens_max || live.count() == 1;
        assert!(fits, "{n_tokens} cache positions are in use");
    }

    fn score(&self, slot: &FakeSlot, scores: &mut [f32]) {
        scores.fill(0.0);
        let next = slot.answer.get(slot.n_given).copied().unwrap_or(self.options.eos_token_id);
        if let Some(score) = usize::try_from(next).ok().and_then(|id| scores.get_mut(id)) {
            *score = 10.0;
        }
    }
}

fn scripted(graph: &str, n_rows: usize, id: i64) -> DecodeError {
    let source = format!("scripted failure on token {id}").into();
    DecodeError::Run { graph: graph.to_owned(), n_rows, source }
}

impl Decoder for FakeDecoder {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn context_tokens(&self) -> usize {
        self.options.context_tokens
    }

    fn slots_for(&self, n_tokens: usize) -> usize {
        (self.options.cache_tokens_max / n_tokens.max(1)).clamp(1, self.slots())
    }

    fn prefill_rows_max(&self) -> usize {
        self.options.prefill_rows_max
    }

    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError> {
        assert!((1..=self.prefill_rows_max()).contains(&joins.len()), "number of prefill rows");
        let mut ids = joins.iter().flat_map(|join| join.prompt.token_ids());
        if let Some(id) = ids.find(|id| self.options.prefill_fails_on.contains(id)) {
            assert!(!self.options.panics, "scripted panic on token {id}");
            return Err(scripted("fake_prefill", joins.len(), *id));
        }
        logits.reset(joins.len(), self.options.vocab_size);
        for (row_idx, join) in joins.iter().enumerate() {
            assert!(self.slots[join.slot].is_none(), "slot {} is taken", join.slot);
            let prompt_ids = join.prompt.token_ids().to_vec();
            let answer = self.options.answer(&prompt_ids);
            let slot = FakeSlot { prompt_ids, answer, n_given: 0 };
            self.score(&slot, logits.row_mut(row_idx));
            self.slots[join.slot] = Some(slot);
        }
        self.expect_room();
        Ok(())
    }

    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError> {
        self.options.n_steps.fetch_add(1, Relaxed);
        let mut ids = rows
            .iter()
            .filter_map(|row| self.slots[row.slot].as_ref())
            .flat_map(|slot| &slot.prompt_ids);
        if let Some(id) = ids.find(|id| self.options.step_fails_on.contains(id)) {
            assert!(!self.options.panics, "scripted panic on token {id}");
            return Err(scripted("fake_step", rows.len(), *id));
        }
        logits.reset(rows.len(), self.options.vocab_size);
        for (row_idx, row) in rows.iter().enumerate() {
            let Some(slot) = &mut self.slots[row.slot] else {
                panic!("slot {} was stepped while free", row.slot);
            };
            slot.n_given += 1;
            let n_tokens = slot.prompt_ids.len() + slot.n_given;
            assert!(n_tokens <= self.options.context_tokens, "slot {} overflows", row.slot);
            let slot = slot.clone();
            self.score(&slot, logits.row_mut(row_idx));
        }
        self.expect_room();
        Ok(())
    }

    fn copy_slots(&mut self, copies: &[SlotCopy]) -> Result<(), DecodeError> {
        let copied: Vec<_> = copies.iter().map(|copy| self.slots[copy.from].clone()).collect();
        for (copy, held) in copies.iter().zip(copied) {
            self.slots[copy.to] = held;
        }
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = None;
    }
}
