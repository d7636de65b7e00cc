//! Answer quality against references.
//!
//! A metric turns each row into a few sums, and the sums of all rows into a score. The score of any resample
//! of rows then only needs additions, as required by bootstrap intervals.

mod errors;
mod overlap;
mod read;
mod words;

use serde::Serialize;

pub use self::read::{EvalError, Key, rows};

/// The answer to a row with its references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The answer; `None` for a rejected row, which counts as empty.
    pub answer: Option<String>,
    /// The references, at least one.
    pub references: Vec<String>,
}

impl Pair {
    fn answer(&self) -> &str {
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
    fn rows(self, pairs: &[Pair]) -> Vec<Vec<f64>> {
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
    fn score(self, sums: &[f64]) -> f64 {
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

/// The score of an output for one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The metric.
    pub metric: Metric,
    /// The score.
    pub score: f64,
}

/// Scores rows with every metric.
#[must_use]
pub fn scores(pairs: &[Pair]) -> Vec<Score> {
    Metric::ALL
        .into_iter()
        .map(|metric| Score {
            metric,
            score: metric.score(&add(&metric.rows(pairs), 0..pairs.len())),
        })
        .collect()
}

/// The scores of two outputs for one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The metric.
    pub metric: Metric,
    /// The score of the first.
    pub first: f64,
    /// The score of the second.
    pub second: f64,
    /// The 95 % confidence interval of second minus first.
    pub interval: (f64, f64),
}

/// The number of bootstrap resamples.
const DRAWS: usize = 1000;

/// Scores two outputs of the same rows with every metric, with paired bootstrap intervals (Koehn 2004,
/// "Statistical Significance Tests for Machine Translation Evaluation"): both use the same resamples, which
/// are deterministic.
///
/// # Panics
///
/// If the outputs have different numbers of rows.
#[must_use]
pub fn compare(first: &[Pair], second: &[Pair]) -> Vec<Comparison> {
    assert_eq!(first.len(), second.len(), "the outputs are of the same rows");
    let n_rows = first.len();
    let metric_result = |metric: Metric| {
        let (a, b) = (metric.rows(first), metric.rows(second));
        let score = |rows: &[Vec<f64>], of: &[usize]| metric.score(&add(rows, of.iter().copied()));
        let all: Vec<usize> = (0..n_rows).collect();
        // One resample is in memory at a time, because a thousand of many rows would not fit.
        let mut draws = Draws { state: 1 };
        let mut draw = Vec::with_capacity(n_rows);
        let mut differences: Vec<f64> = Vec::with_capacity(DRAWS);
        for _ in 0..DRAWS {
            draws.next(n_rows, &mut draw);
            differences.push(score(&b, &draw) - score(&a, &draw));
        }
        differences.sort_by(f64::total_cmp);
        let at = |percent: usize| differences[(DRAWS * percent / 1000).min(DRAWS - 1)];
        Comparison {
            metric,
            first: score(&a, &all),
            second: score(&b, &all),
            interval: (at(25), at(975)),
        }
    };
    Metric::ALL.into_iter().map(metric_result).collect()
}

fn add(rows: &[Vec<f64>], of: impl IntoIterator<Item = usize>) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    for row in of {
        sums.resize(rows[row].len(), 0.0);
        for (sum, value) in sums.iter_mut().zip(&rows[row]) {
            *sum += value;
        }
    }
    sums
}

/// A deterministic resampler with replacement (Knuth's MMIX sequence).
struct Draws {
    state: u64,
}

impl Draws {
    fn next(&mut self, n_rows: usize, draw: &mut Vec<usize>) {
        draw.clear();
        draw.extend((0..n_rows).map(|_| {
            let state = self.state.wrapping_mul(6_364_136_223_846_793_005);
            self.state = state.wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((u128::from(self.state) * n_rows as u128) >> 64).unwrap_or(0)
        }));
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{Metric, Pair, compare, scores};

    #[derive(Deserialize)]
    struct Golden {
        pairs: Vec<(String, Vec<String>)>,
        scores: Vec<f64>,
    }

    fn golden() -> Vec<Golden> {
        let text = include_str!("../../../../tests/references/eval.json");
        serde_json::from_str(text).unwrap()
    }

    fn pairs(golden: &Golden) -> Vec<Pair> {
        let pair = |(answer, references): &(String, Vec<String>)| Pair {
            answer: Some(answer.clone()),
            references: references.clone(),
        };
        golden.pairs.iter().map(pair).collect()
    }

    #[test]
    fn scores_are_those_of_the_references() {
        for (idx, set) in golden().iter().enumerate() {
            for (score, expected) in scores(&pairs(set)).iter().zip(&set.scores) {
                let name = score.metric.name();
                assert!(
                    (score.score - expected).abs() < 1e-6,
                    "set {idx}, {name}: {} {expected}",
                    score.score
                );
            }
            assert_eq!(set.scores.len(), Metric::ALL.len());
        }
    }

    #[test]
    fn words_where_none_is_right_are_mistakes() {
        let row = |answer: &str| Pair {
            answer: Some(answer.to_owned()),
            references: vec![String::new()],
        };
        // jiwer 4.0.0: `wer("", "x y")` is 2, `cer("", "x y")` is 3.
        let of = |answer: &str| -> Vec<f64> {
            scores(&[row(answer)]).iter().take(2).map(|one| one.score).collect()
        };
        assert_eq!((of("x y"), of("")), (vec![2.0, 3.0], vec![0.0, 0.0]));
    }

    #[test]
    fn outputs_without_a_row_are_compared_without_a_fault() {
        assert!(compare(&[], &[]).iter().all(|one| one.interval == (0.0, 0.0)));
    }

    #[test]
    fn a_comparison_distinguishes_better_from_equal() {
        let mut good = pairs(&golden()[0]);
        for pair in &mut good {
            pair.answer = pair.references.first().cloned();
        }
        let mut bad = good.clone();
        for pair in &mut bad {
            pair.answer = None;
        }
        for one in compare(&good, &good) {
            let (low, high) = one.interval;
            assert!((one.first - one.second).abs() < 1e-9, "{one:?}");
            assert!(low.abs() < 1e-9 && high.abs() < 1e-9, "{one:?}");
        }
        for one in compare(&bad, &good) {
            let (low, high) = one.interval;
            let is_error = matches!(one.metric, Metric::WordErrorRate | Metric::CharacterErrorRate);
            assert!(if is_error { high < 0.0 } else { low > 0.0 }, "{one:?}");
        }
    }
}
