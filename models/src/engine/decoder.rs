//! The one thing the engine asks of a model: prefill slots, step slots.

use super::Prompt;

/// A decoder call that failed as a whole.
///
/// The engine repeats it on halves of the batch, so one bad row does not take the others along.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The runtime refused or failed the call.
    #[error("failed to run `{graph}` on {n_rows} rows: {message}")]
    Run {
        /// The graph that was run.
        graph: String,
        /// The rows in the call.
        n_rows: usize,
        /// What the runtime said.
        message: String,
    },
}

impl DecodeError {
    /// Returns the label for metrics and rejects: few and stable.
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
    /// What to fill it with.
    pub prompt: &'a Prompt,
}

/// One row of a step: the token chosen last, to be appended to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// The slot, below [`Decoder::slots`].
    pub slot: usize,
    /// The token to append.
    pub token_id: i64,
}

/// A slot that takes over what another holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCopy {
    /// The slot to copy; it keeps what it holds unless it is copied to as well.
    pub from: usize,
    /// The slot that is filled with it.
    pub to: usize,
}

/// Scores of the next token, one row per row of the call that filled it: `f32 [N, V]`.
///
/// The buffer is kept between calls, so a step allocates nothing.
#[derive(Debug, Default)]
pub struct Logits {
    vocab_size: usize,
    data: Vec<f32>,
}

impl Logits {
    /// Makes room for `n_rows` rows of `vocab_size` scores and forgets the old ones.
    pub fn reset(&mut self, n_rows: usize, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.data.clear();
        self.data.resize(n_rows * vocab_size, 0.0);
    }

    /// Returns the scores of one row of the call.
    #[must_use]
    pub fn row(&self, row_idx: usize) -> &[f32] {
        &self.data[row_idx * self.vocab_size..(row_idx + 1) * self.vocab_size]
    }

    /// Returns the scores of one row of the call for writing.
    pub fn row_mut(&mut self, row_idx: usize) -> &mut [f32] {
        &mut self.data[row_idx * self.vocab_size..(row_idx + 1) * self.vocab_size]
    }
}

/// A fixed number of slots, each with its own past, that take steps together.
///
/// A failed call leaves every slot as it was before the call, so it may be repeated on fewer rows.
pub trait Decoder: Send {
    /// Returns the number of slots.
    fn slots(&self) -> usize;

    /// Returns the most tokens a slot can hold, prompt and answer together.
    fn context_tokens(&self) -> usize;

    /// Returns the most prompts that one [`prefill`](Self::prefill) may take.
    fn prefill_rows_max(&self) -> usize;

    /// Returns whether prompts that wait should join now that `n_live` slots are at work, rather than
    /// when more slots are free: where joining has a cost, several should share it.
    fn joins_now(&self, n_live: usize) -> bool {
        let _ = n_live;
        true
    }

    /// Fills free slots with prompts, and `logits` with the scores after each prompt's last token.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot is filled then.
    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError>;

    /// Fills the first row of `logits` with the scores after the first `n_tokens` of a prompt; no slot
    /// changes.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed, or if this decoder has no prompts that need it.
    fn peek(
        &mut self,
        prompt: &Prompt,
        n_tokens: usize,
        logits: &mut Logits,
    ) -> Result<(), DecodeError> {
        let _ = (prompt, n_tokens, logits);
        let message = "this decoder does not look into prompts".to_owned();
        Err(DecodeError::Run { graph: "decoder".to_owned(), n_rows: 1, message })
    }

    /// Appends one token to each slot named, and fills `logits` with the scores after it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot has grown then.
    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError>;

    /// Copies slots, all as they were before the call, to others.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the call failed as a whole; no slot has changed then.
    fn copy_slots(&mut self, copies: &[SlotCopy]) -> Result<(), DecodeError>;

    /// Forgets what a slot holds, if it holds anything.
    fn release(&mut self, slot: usize);
}

/// What an answer is about, where its tokens do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The task that the prompt names, such as `<OD>`; empty where it names none.
    pub task: String,
    /// Width and height of the picture, in pixels.
    pub image_size: [usize; 2],
}

/// What an answer answers.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The tokens before the answer.
    pub prompt_ids: &'a [i64],
    /// What it is about, for a model that has to be told.
    pub subject: Option<&'a Subject>,
}

/// Turns token ids back into text.
pub trait Detokenizer: Send + Sync {
    /// Returns the text of `token_ids`, without special tokens.
    fn text(&self, token_ids: &[i64]) -> String;

    /// Returns what a whole answer says: its text, unless the model writes something else in its tokens
    /// and those of its prompt, or about what it was asked.
    fn answer(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let _ = asked;
        self.text(token_ids)
    }

    /// Returns the text that an answer begins with though the model was given it.
    fn given(&self, asked: Asked<'_>) -> String {
        let _ = asked;
        String::new()
    }

    /// Returns the text of answers to consecutive parts of one input, which may overlap.
    fn joined(&self, parts: &[&[i64]]) -> String {
        parts.iter().map(|part| self.text(part)).collect()
    }
}
