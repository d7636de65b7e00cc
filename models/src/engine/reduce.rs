//! Reductions over the scores of a row: the best token, and the sum of all exponentials.
//!
//! A vocabulary has up to 262,144 tokens, and each step reads all of them. The loops work in lanes, so
//! that the compiler vectorizes them, and `pulp` chooses the instruction set when the program runs.

use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

/// The number of lanes: four AVX2 registers.
const N_LANES: usize = 32;
/// The number of scores in a block, which is in the L1 cache when it is read again.
const BLOCK: usize = 2048;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// The result of one pass over the scores of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// The first token with the best score.
    pub(super) best_id: usize,
    /// Its score.
    pub(super) best: f32,
    /// The natural logarithm of the sum of all exponentials.
    pub(super) log_sum: f64,
}

/// Returns the first best score and the log-sum, or `None` if the best score is not finite or any score is
/// NaN.
pub(super) fn summary(scores: &[f32]) -> Option<Summary> {
    ARCH.dispatch(SummaryOf(scores))
}

/// Returns the first best score, or `None` as [`summary`] does.
pub(super) fn best(scores: &[f32]) -> Option<(usize, f32)> {
    ARCH.dispatch(BestOf(scores))
}

/// Returns the natural logarithm of the sum of all exponentials, given the best score.
pub(super) fn log_sum_exp(scores: &[f32], best: f32) -> f64 {
    f64::from(best) + exp_sum(scores, best, 1.0).ln()
}

/// Returns the sum of the exponentials of all scores, less the best one and divided by `temperature`.
pub(super) fn exp_sum(scores: &[f32], best: f32, temperature: f32) -> f64 {
    ARCH.dispatch(ExpSumOf { scores, best, scale: 1.0 / temperature })
}

struct SummaryOf<'a>(&'a [f32]);

impl WithSimd for SummaryOf<'_> {
    type Output = Option<Summary>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let scores = self.0;
        let mut best = f32::NEG_INFINITY;
        let mut best_block = 0;
        let mut sum = 0.0_f64;
        for (block_idx, block) in scores.chunks(BLOCK).enumerate() {
            let block_best = maximum(block)?;
            if block_best > best {
                sum *= f64::from(best - block_best).exp();
                (best, best_block) = (block_best, block_idx);
            }
            sum += block_sum(block, best, 1.0);
        }
        let best_id = first_equal(scores, best_block, best)?;
        Some(Summary { best_id, best, log_sum: f64::from(best) + sum.ln() })
    }
}

struct BestOf<'a>(&'a [f32]);

impl WithSimd for BestOf<'_> {
    type Output = Option<(usize, f32)>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut best = f32::NEG_INFINITY;
        let mut best_block = 0;
        for (block_idx, block) in self.0.chunks(BLOCK).enumerate() {
            let block_best = maximum(block)?;
            if block_best > best {
                (best, best_block) = (block_best, block_idx);
            }
        }
        Some((first_equal(self.0, best_block, best)?, best))
    }
}

struct ExpSumOf<'a> {
    scores: &'a [f32],
    best: f32,
    scale: f32,
}

impl WithSimd for ExpSumOf<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        self.scores.chunks(BLOCK).map(|block| block_sum(block, self.best, self.scale)).sum()
    }
}

#[inline(always)]
fn first_equal(scores: &[f32], best_block: usize, best: f32) -> Option<usize> {
    if !best.is_finite() {
        return None;
    }
    let start = best_block * BLOCK;
    let idx = scores.get(start..)?.iter().position(|score| *score >= best)?;
    Some(start + idx)
}

/// Returns the maximum of a block, or `None` if a score is NaN.
#[inline(always)]
fn maximum(block: &[f32]) -> Option<f32> {
    let mut lanes = [f32::NEG_INFINITY; N_LANES];
    let mut has_nan = [false; N_LANES];
    let (chunks, rest) = block.as_chunks::<N_LANES>();
    for chunk in chunks {
        for lane in 0..N_LANES {
            let score = chunk[lane];
            lanes[lane] = if score > lanes[lane] { score } else { lanes[lane] };
            has_nan[lane] |= score.is_nan();
        }
    }
    for (lane, score) in rest.iter().enumerate() {
        lanes[lane] = if *score > lanes[lane] { *score } else { lanes[lane] };
        has_nan[lane] |= score.is_nan();
    }
    if has_nan.contains(&true) {
        return None;
    }
    Some(lanes.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[inline(always)]
fn block_sum(block: &[f32], best: f32, scale: f32) -> f64 {
    let mut lanes = [0.0_f32; N_LANES];
    let (chunks, rest) = block.as_chunks::<N_LANES>();
    for chunk in chunks {
        for lane in 0..N_LANES {
            lanes[lane] += exp((chunk[lane] - best) * scale);
        }
    }
    for (lane, score) in rest.iter().enumerate() {
        lanes[lane] += exp((score - best) * scale);
    }
    lanes.into_iter().map(f64::from).sum()
}

/// Returns the exponential of `x` up to 0, with a relative error below 1e-7. Below -87 it returns the
/// exponential of -87, about 1.6e-38.
///
/// The reduction and the polynomial are those of `expf` in the Cephes library (Moshier, release 2.2).
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// `1.5 * 2^23`: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let y = p * r * r + r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain_best(scores: &[f32]) -> Option<(usize, f32)> {
        let is_better = |best: Option<(usize, f32)>, score: f32| {
            best.is_none_or(|(_, best_score)| score > best_score)
        };
        let best = scores.iter().copied().enumerate().fold(None, |best, (idx, score)| {
            if is_better(best, score) { Some((idx, score)) } else { best }
        });
        best.filter(|(_, score)| score.is_finite() && !scores.iter().any(|score| score.is_nan()))
    }

    fn plain_log_sum(scores: &[f32]) -> f64 {
        scores.iter().map(|score| f64::from(*score).exp()).sum::<f64>().ln()
    }

    /// Scores of any length, with ties, masked tokens and long rows.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let score = prop_oneof![
            8 => -30.0_f32..30.0,
            1 => Just(f32::NEG_INFINITY),
            1 => Just(3.0_f32),
        ];
        prop_oneof![
            prop::collection::vec(score.clone(), 1..100),
            prop::collection::vec(score, 2000..7000),
        ]
    }

    proptest! {
        #[test]
        fn a_row_is_summed_as_by_a_plain_loop(scores in rows()) {
            let summary = summary(&scores);
            prop_assert_eq!(summary.map(|row| (row.best_id, row.best)), plain_best(&scores));
            prop_assert_eq!(best(&scores), plain_best(&scores));
            if let Some(Summary { best, log_sum, .. }) = summary {
                prop_assert!((log_sum - plain_log_sum(&scores)).abs() < 1e-6);
                prop_assert!((log_sum - log_sum_exp(&scores, best)).abs() < 1e-6);
            }
        }

        #[test]
        fn a_row_with_nan_has_no_best_score(mut scores in rows(), at: prop::sample::Index) {
            let at = at.index(scores.len());
            scores[at] = f32::NAN;
            prop_assert_eq!(summary(&scores), None);
            prop_assert_eq!(best(&scores), None);
        }

        #[test]
        fn the_exponential_is_accurate(x in -87.0_f32..=0.0) {
            let expected = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) / expected - 1.0).abs() < 1e-7);
        }
    }
}
