//! Statistics of the answers of an output, from a sample of its parts.

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

use crate::output::ledger::OutputFiles;

/// The maximum number of parts to read, so that a large output costs no more than a small one.
const PARTS_MAX: usize = 64;
/// The maximum number of example messages per reject code.
const EXAMPLES_MAX: usize = 3;
/// The number of most frequent answers to show.
const COMMON_MAX: usize = 8;
/// The number of histogram bins.
const BINS: usize = 24;
/// The number of consecutive repetitions of a phrase in a repetitive answer.
const LOOP_TIMES: usize = 4;
/// The maximum words of a repeated phrase.
const LOOP_WORDS_MAX: usize = 6;

/// Counts in bins of equal width.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The start of the first bin.
    pub start: f64,
    /// The width of a bin.
    pub width: f64,
    /// The count of each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the position of a bar in a chart"
    )]
    fn from_values(values: &[f64]) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let start = finite().fold(f64::INFINITY, f64::min);
        let end = finite().fold(f64::NEG_INFINITY, f64::max);
        if start > end {
            return Self::default();
        }
        let width = ((end - start) / BINS as f64).max(1e-9);
        // Integers have bins of integer width.
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

/// Rows rejected for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectReason {
    /// The reject code.
    pub code: String,
    /// The number of rows in the whole output.
    pub rows: u64,
    /// Example messages.
    pub examples: Vec<String>,
}

/// Statistics of answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerSample {
    /// The number of sampled answers.
    pub rows: u64,
    /// Answers truncated at the maximum length.
    pub truncated: u64,
    /// Empty answers.
    pub empty: u64,
    /// Repetitive answers.
    pub repeating: u64,
    /// The mean number of tokens.
    pub tokens_mean: f64,
    /// The mean of the mean log probabilities.
    pub logprob_mean: Option<f64>,
    /// The threshold below which a log probability is an outlier.
    #[serde(default)]
    pub logprob_low: Option<f64>,
    /// The distribution of token counts.
    pub tokens: Histogram,
    /// The distribution of character counts.
    pub characters: Histogram,
    /// The distribution of mean log probabilities.
    pub logprobs: Histogram,
    /// The most frequent answers of more than one row.
    pub common: Vec<(String, u64)>,
    /// The reject reasons, most frequent first.
    pub rejects: Vec<RejectReason>,
}

impl AnswerSample {
    /// Samples parts and rejects evenly; unreadable ones are omitted.
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
        this.tokens = Histogram::from_values(&tokens);
        this.characters = Histogram::from_values(&characters);
        this.logprobs = Histogram::from_values(&logprobs);
        let mut common: Vec<(String, u64)> =
            texts.into_iter().filter(|(_, rows)| *rows > 1).collect();
        common.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        common.truncate(COMMON_MAX);
        this.common = common;
        this.rejects = reject_reasons(output, entries);
        this
    }
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the lower fence: the first quartile minus 1.5 times the interquartile range (Tukey, "Exploratory
/// Data Analysis", 1977, section 2D).
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
                && !reason.examples.iter().any(|shown| shown == message)
            {
                reason.examples.push(message.to_owned());
            }
        }
    }
    let mut reasons: Vec<RejectReason> = reasons.into_values().collect();
    reasons.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.code.cmp(&b.code)));
    reasons
}

/// Returns at most [`PARTS_MAX`] of `files`, spread evenly.
fn some_of<'a>(files: &[&'a CommittedFile]) -> Vec<&'a CommittedFile> {
    let step = files.len().div_ceil(PARTS_MAX).max(1);
    files.iter().step_by(step).copied().collect()
}

/// Reads a file of the output; returns no batches if it is unreadable.
pub(super) fn read(output: &OutputFiles, file: &CommittedFile) -> Vec<RecordBatch> {
    let bytes = output.folder.read(&file.name).ok().flatten();
    bytes.and_then(|bytes| output.decode(file, bytes).ok()).unwrap_or_default()
}

/// Returns whether a phrase occurs [`LOOP_TIMES`] times in a row.
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
            assert_eq!(
                Histogram::from_values(&values).counts.iter().sum::<u64>(),
                finite,
                "{values:?}"
            );
        }
    }
}
