//! The interface between the engine and a model: prefill slots, step slots.

use legenda_schemas::cause::Cause;

use super::Prompt;

/// A decoder call that failed as a whole.
///
/// The engine retries it on halves of the batch, so that one bad row does not fail the others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The runtime rejected or failed the call.
    #[error("failed to run `{graph}` on {n_rows} rows")]
    Run {
        /// The graph.
        graph: String,
        /// The number of rows in the call.
        n_rows: usize,
        /// The error of the runtime.
        source: Cause,
    },
}

impl DecodeError {
    /// Returns a stable error code for metrics and rejects.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Run { .. } => "runtime",
        }
    }
}

/// A prompt that enters a slot.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// The slot, below [`Decoder::slots`].
    pub slot: usize,
    /// The prompt to prefill.
    pub prompt: &'a Prompt,
}

/// One row of a decode step: the last chosen token, to append to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// The slot, below [`Decoder::slots`].
    pub slot: usize,
    /// The token to append.
    pub token_id: i64,
}

/// A copy of the KV cache of one slot to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCopy {
    /// The source slot. It is unchanged unless it is also the target of a copy.
    pub from: usize,
    /// The target slot.
    pub to: usize,
}

/// The logits of the next token, one row per row of the call: `f32 [N, V]`.
///
/// The buffer is reused between calls, so a step does not allocate.
#[derive(Debug, Default)]
pub struct Logits {
    vocab_size: usize,
    data: Vec<f32>,
}

impl Logits {
    /// Resizes the buffer to `n_rows` rows of `vocab_size` logits. The rows are to be overwritten: they
    /// may hold logits of earlier calls.
    pub fn reset(&mut self, n_rows: usize, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.data.resize(n_rows * vocab_size, 0.0);
    }

    /// Returns the logits of one row of the call.
    #[must_use]
    pub fn row(&self, row_idx: usize) -> &[f32] {
        &self.data[row_idx * self.vocab_size..(row_idx + 1) * self.vocab_size]
    }

    /// Returns the logits of one row of the call, mutably.
    pub fn row_mut(&mut self, row_idx: usize) -> &mut [f32] {
        &mut self.data[row_idx * self.vocab_size..(row_idx + 1) * self.vocab_size]
    }
}

/// A fixed number of slots, each with its own KV cache, that are stepped as a batch.
///
/// A failed call leaves all slots unchanged, so it can be retried on fewer rows.
pub trait Decoder: Send {
    /// Returns the number of slots.
    fn slots(&self) -> usize;

    /// Returns the capacity of a slot in tokens, prompt and answer together.
    fn context_tokens(&self) -> usize;

    /// Returns the number of slots that may be live together while one of them has `n_tokens`, prompt
    /// and answer together; at least 1. Slots share a memory limit, so fewer long rows fit.
    fn slots_for(&self, n_tokens: usize) -> usize {
        let _ = n_tokens;
        self.slots()
    }

    /// Returns the maximum number of prompts in one [`prefill`](Self::prefill).
    fn prefill_rows_max(&self) -> usize;

    /// Returns whether waiting prompts should join while `n_live` slots are live, rather than wait
    /// for more free slots: if joining is expensive, several prompts should share the cost.
    fn joins_now(&self, n_live: usize) -> bool {
        let _ = n_live;
        true
    }

    /// Prefills free slots and fills `logits` with the logits after the last token of each prompt.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot is filled then.
    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError>;

    /// Runs a prompt prefix of `n_tokens` and discards its KV cache; fills the first row of
    /// `logits` with the logits after it. It is used for language and no-speech detection.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed, or if this decoder does not support it.
    fn peek(
        &mut self,
        prompt: &Prompt,
        n_tokens: usize,
        logits: &mut Logits,
    ) -> Result<(), DecodeError> {
        let _ = (prompt, n_tokens, logits);
        let source = "this decoder does not support prompt prefixes".into();
        Err(DecodeError::Run { graph: "decoder".to_owned(), n_rows: 1, source })
    }

    /// Appends one token to each slot in `rows` and fills `logits` with the logits after it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot has changed then.
    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError>;

    /// Copies slots; all sources are read before any target is written.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot has changed then.
    fn copy_slots(&mut self, copies: &[SlotCopy]) -> Result<(), DecodeError>;

    /// Frees a slot and discards its KV cache.
    fn release(&mut self, slot: usize);
}

/// The context of an answer that its tokens do not contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The task token of the prompt, such as `<OD>`; empty if there is none.
    pub task: String,
    /// The width and height of the image in pixels.
    pub image_size: [usize; 2],
}

/// The request that an answer belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The prompt tokens.
    pub prompt_ids: &'a [i64],
    /// The context, for models whose answers need it.
    pub subject: Option<&'a Subject>,
}

/// Decodes token IDs to text.
pub trait Detokenizer: Send + Sync {
    /// Returns the text of `token_ids` without special tokens.
    fn text(&self, token_ids: &[i64]) -> String;

    /// Returns the text of a whole answer. By default this is the text of its tokens; a model whose
    /// answer also depends on the prompt tokens or the subject overrides it.
    fn answer(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let _ = asked;
        self.text(token_ids)
    }

    /// Returns the text that an answer starts with because it was given in the prompt.
    fn given(&self, asked: Asked<'_>) -> String {
        let _ = asked;
        String::new()
    }

    /// Returns the text of the answers to consecutive chunks of one input, which may overlap.
    fn joined(&self, chunks: &[&[i64]]) -> String {
        chunks.iter().map(|chunk| self.text(chunk)).collect()
    }
}
