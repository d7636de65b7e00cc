//! The scores of outputs, and their comparison.

use serde::Serialize;

use super::metric::{Metric, Pair};

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

    use super::*;

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
