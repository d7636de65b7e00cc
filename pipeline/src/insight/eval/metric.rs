//! The metrics, each with the sums of a row and the score of sums.

use serde::Serialize;

use super::{errors, overlap};

/// The answer to a row with its references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The answer; `None` for a rejected row, which counts as empty.
    pub answer: Option<String>,
    /// The references, at least one.
    pub references: Vec<String>,
}

impl Pair {
    pub(super) fn answer(&self) -> &str {
        self.answer.as_deref().unwrap_or_default()
    }
}

/// A quality metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Word insertions, deletions and substitutions per reference word.
    WordErrorRate,
    /// Character insertions, deletions and substitutions per reference character.
    CharacterErrorRate,
    /// Exact matches without case, punctuation and articles (SQuAD).
    ExactMatch,
    /// The harmonic mean of word precision and recall, normalised likewise (SQuAD).
    TokenF1,
    /// BLEU with the tokenizer 13a and exponential smoothing (sacreBLEU's defaults).
    Bleu,
    /// chrF2: character 6-grams, recall weighted twice (sacreBLEU's defaults).
    Chrf,
    /// The longest common subsequence of words (rouge-score's `rougeL`).
    RougeL,
    /// CIDEr-D: word 4-grams, weighted by inverse document frequency in the references.
    Cider,
}

impl Metric {
    /// All metrics in display order.
    pub const ALL: [Self; 8] = [
        Self::WordErrorRate,
        Self::CharacterErrorRate,
        Self::ExactMatch,
        Self::TokenF1,
        Self::Bleu,
        Self::Chrf,
        Self::RougeL,
        Self::Cider,
    ];

    /// Returns its name and the range of its values.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WordErrorRate => "word error rate (0 is best)",
            Self::CharacterErrorRate => "character error rate (0 is best)",
            Self::ExactMatch => "exact match (of 1)",
            Self::TokenF1 => "token F1 (of 1)",
            Self::Bleu => "BLEU (of 100)",
            Self::Chrf => "chrF2 (of 100)",
            Self::RougeL => "ROUGE-L (of 1)",
            Self::Cider => "CIDEr-D (of 10)",
        }
    }

    /// Returns the sums of each row.
    pub(super) fn rows(self, pairs: &[Pair]) -> Vec<Vec<f64>> {
        let each = |row: fn(&Pair) -> Vec<f64>| pairs.iter().map(row).collect();
        match self {
            Self::WordErrorRate => each(errors::words),
            Self::CharacterErrorRate => each(errors::characters),
            Self::ExactMatch => each(errors::exact),
            Self::TokenF1 => each(errors::token_f1),
            Self::Bleu => each(overlap::bleu),
            Self::Chrf => each(overlap::chrf),
            Self::RougeL => each(overlap::rouge_l),
            Self::Cider => overlap::cider(pairs),
        }
    }

    /// Returns the score of some rows from their sums.
    pub(super) fn score(self, sums: &[f64]) -> f64 {
        match self {
            Self::Bleu => overlap::bleu_score(sums),
            Self::Chrf => overlap::chrf_score(sums),
            // The others are a sum over a count. Words without any reference word are errors (as in jiwer),
            // even though the references have no length.
            _ => match sums {
                [sum, count] => sum / count.max(1.0),
                _ => 0.0,
            },
        }
    }
}
