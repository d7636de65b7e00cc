//! What the answers of an output are like, by a sample of its parts.

use std::collections::HashMap;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Float32Type, UInt32Type},
};
use legenda_schemas::{
    ledger::{CommittedFile, LedgerEntry},
    table::{
        ANSWER_COLUMN, CODE_COLUMN, INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN, MESSAGE_COLUMN,
    },
};
use serde::{Deserialize, Serialize};

use crate::ledger::OutputFiles;

/// Parts that are read for a sample: a large output costs no more than a small one.
const PARTS_MAX: usize = 64;
/// Rejects of one code whose messages are shown.
const EXAMPLES_MAX: usize = 3;
/// Answers that are shown as the most frequent.
const COMMON_MAX: usize = 8;
/// Columns of a histogram.
const BINS: usize = 24;
/// An answer is repeated when words come again so often in a row.
const LOOP_TIMES: usize = 4;
/// The longest phrase that is looked for.
const LOOP_WORDS_MAX: usize = 6;

/// Counts in ranges of equal width.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Where the first range begins.
    pub start: f64,
    /// How wide each is.
    pub width: f64,
    /// How many values each has.
    pub counts: Vec<u64>,
}

impl Histogram {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the place of a value within a picture"
    )]
    fn of(values: &[f64]) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let start = finite().fold(f64::INFINITY, f64::min);
        let end = finite().fold(f64::NEG_INFINITY, f64::max);
        if start > end {
            return Self::default();
        }
        let width = ((end - start) / BINS as f64).max(1e-9);
        // Whole numbers have ranges of whole numbers.
        let whole = finite().all(|value| value.fract().abs() < f64::EPSILON);
        let width = if whole { width.ceil() } else { width };
        let mut counts = vec![0; BINS];
        for value in finite() {
            counts[(((value - start) / width) as usize).min(BINS - 1)] += 1;
        }
        while counts.len() > 1 && counts.last() == Some(&0) {
            counts.pop();
        }
        Self { start, width, counts }
    }
}

/// Rows that were rejected for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectReason {
    /// The code.
    pub code: String,
    /// How many rows, of all.
    pub rows: u64,
    /// What some of them were told.
    pub examples: Vec<String>,
}

/// What answers are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerSample {
    /// Answers that were looked at.
    pub rows: u64,
    /// Of these, answers that ended because they were as long as they may be.
    pub truncated: u64,
    /// Answers without a word.
    pub empty: u64,
    /// Answers in which the same words come again and again.
    pub repeating: u64,
    /// Tokens of an answer, on average.
    pub tokens_mean: f64,
    /// The mean log probability of the tokens of an answer, on average.
    pub logprob_mean: Option<f64>,
    /// Where answers begin to be less likely than the others can explain.
    #[serde(default)]
    pub logprob_low: Option<f64>,
    /// Tokens of the answers.
    pub tokens: Histogram,
    /// Characters of the answers.
    pub characters: Histogram,
    /// Mean log probabilities of the answers.
    pub logprobs: Histogram,
    /// The most frequent answers that more than one row has.
    pub common: Vec<(String, u64)>,
    /// Why rows were rejected, the most frequent reason first.
    pub rejects: Vec<RejectReason>,
}

impl AnswerSample {
    /// Reads some of the parts and rejects, evenly spread; what cannot be read is left out.
    pub(crate) fn take(output: &OutputFiles, entries: &[LedgerEntry]) -> Self {
        let mut this = Self::default();
        let parts: Vec<&CommittedFile> = entries.iter().flat_map(|entry| &entry.parts).collect();
        let (mut tokens, mut characters, mut logprobs) = (Vec::new(), Vec::new(), Vec::new());
        let mut texts: HashMap<String, u64> = HashMap::new();
        for batch in some_of(&parts).into_iter().flat_map(|file| read(output, file)) {
            let text = batch.column_by_name(ANSWER_COLUMN);
            if let Some(column) = text.and_then(|column| column.as_string_opt::<i32>()) {
                for text in column.iter().flatten() {
                    this.rows += 1;
                    this.empty += u64::from(text.trim().is_empty());
                    this.repeating += u64::from(repeats(text));
                    characters.push(text.chars().count());
                    *texts.entry(text.to_owned()).or_default() += 1;
                }
            }
            let reason = batch.column_by_name("legenda_finish_reason");
            if let Some(column) = reason.and_then(|column| column.as_string_opt::<i32>()) {
                let long = column.iter().flatten().filter(|reason| *reason == "length").count();
                this.truncated += long as u64;
            }
            let counts = batch.column_by_name("legenda_tokens_generated");
            if let Some(column) = counts.and_then(|column| column.as_primitive_opt::<UInt32Type>())
            {
                tokens.extend(column.iter().flatten().map(f64::from));
            }
            let means = batch.column_by_name("legenda_logprob_mean");
            if let Some(column) = means.and_then(|column| column.as_primitive_opt::<Float32Type>())
            {
                logprobs.extend(column.iter().flatten().map(f64::from));
            }
        }
        let characters: Vec<f64> =
            characters.into_iter().filter_map(|n| u32::try_from(n).ok()).map(f64::from).collect();
        this.tokens_mean = mean(&tokens).unwrap_or_default();
        this.logprob_mean = mean(&logprobs);
        this.logprob_low = lower_fence(&logprobs);
        this.tokens = Histogram::of(&tokens);
        this.characters = Histogram::of(&characters);
        this.logprobs = Histogram::of(&logprobs);
        let mut common: Vec<(String, u64)> =
            texts.into_iter().filter(|(_, rows)| *rows > 1).collect();
        common.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        common.truncate(COMMON_MAX);
        this.common = common;
        this.rejects = reject_reasons(output, entries);
        this
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the lower fence of values: the first quartile less one and a half times what lies between it
/// and the third (Tukey, "Exploratory Data Analysis", 1977, section 2D).
fn lower_fence(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let quartile = |quarters: usize| sorted.get(sorted.len() * quarters / 4).copied();
    let (first, third) = (quartile(1)?, quartile(3)?);
    Some(first - 1.5 * (third - first))
}

fn reject_reasons(output: &OutputFiles, entries: &[LedgerEntry]) -> Vec<RejectReason> {
    let mut reasons: HashMap<&str, RejectReason> = HashMap::new();
    for (code, rows) in entries.iter().flat_map(|entry| &entry.rejects) {
        let reason = reasons.entry(code).or_default();
        reason.code.clone_from(code);
        reason.rows += rows;
    }
    let separate = entries.iter().filter_map(|entry| entry.rejects_file.as_ref());
    let inline =
        entries.iter().filter(|entry| entry.n_rejects() > 0 && entry.rejects_file.is_none());
    let files: Vec<&CommittedFile> =
        separate.chain(inline.flat_map(|entry| &entry.parts)).collect();
    for batch in some_of(&files).into_iter().flat_map(|file| read(output, file)) {
        let column = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let reasons_of = |code: &str, message: &str| column(code).zip(column(message));
        let Some((codes, messages)) = reasons_of(CODE_COLUMN, MESSAGE_COLUMN)
            .or_else(|| reasons_of(INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN))
        else {
            continue;
        };
        for (code, message) in codes.iter().zip(messages) {
            let (Some(code), Some(message)) = (code, message) else { continue };
            let Some(reason) = reasons.get_mut(code) else { continue };
            if reason.examples.len() < EXAMPLES_MAX
                && !reason.examples.iter().any(|told| told == message)
            {
                reason.examples.push(message.to_owned());
            }
        }
    }
    let mut reasons: Vec<RejectReason> = reasons.into_values().collect();
    reasons.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.code.cmp(&b.code)));
    reasons
}

/// Returns at most [`PARTS_MAX`] of `files`, evenly spread.
fn some_of<'a>(files: &[&'a CommittedFile]) -> Vec<&'a CommittedFile> {
    let step = files.len().div_ceil(PARTS_MAX).max(1);
    files.iter().step_by(step).copied().collect()
}

/// Reads a file of the output; nothing where it cannot be read.
pub(super) fn read(output: &OutputFiles, file: &CommittedFile) -> Vec<RecordBatch> {
    let bytes = output.folder.read(&file.name).ok().flatten();
    bytes.and_then(|bytes| output.decode(file, bytes).ok()).unwrap_or_default()
}

/// Returns whether a phrase comes [`LOOP_TIMES`] times in a row.
pub(super) fn repeats(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    (1..=LOOP_WORDS_MAX).any(|n_words| {
        let mut in_a_row = 0;
        (n_words..words.len()).any(|at| {
            in_a_row = if words[at] == words[at - n_words] { in_a_row + 1 } else { 0 };
            in_a_row >= n_words * (LOOP_TIMES - 1)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Histogram, lower_fence, repeats};

    #[test]
    fn what_lies_below_the_fence_is_unlike_the_others() {
        let values: Vec<f64> = (0..100).map(|n| -1.0 - f64::from(n) / 100.0).collect();
        let fence = lower_fence(&values).unwrap();
        assert!(fence < -2.0 && fence > -3.0, "{fence}");
        assert_eq!(lower_fence(&[]), None);
    }

    #[test]
    fn phrases_that_come_again_are_found() {
        for text in
            ["a a a a", "so it goes on and on and on and on and on", "x y z x y z x y z x y z"]
        {
            assert!(repeats(text), "{text}");
        }
        for text in ["", "a a a", "a cat and a dog and a bird and a fish", "one two three four"] {
            assert!(!repeats(text), "{text}");
        }
    }

    #[test]
    fn a_histogram_holds_every_value_once() {
        for values in [vec![], vec![3.0], vec![1.0, 1.0, 50.0, 51.0], vec![-0.5, -0.25, f64::NAN]] {
            let finite = values.iter().filter(|value: &&f64| value.is_finite()).count() as u64;
            assert_eq!(Histogram::of(&values).counts.iter().sum::<u64>(), finite, "{values:?}");
        }
    }
}
