//! Extrapolation from a sample to the whole run, with intervals.

use crate::run::prediction::Estimate;

/// The confidence of statistical intervals: those of time, tokens and rejects.
pub const CONFIDENCE: f64 = 0.9;

/// The quantile 0.95 of the standard normal distribution.
const NORMAL: f64 = 1.644_854;

/// The quantiles 0.95 of Student's t with 1, 2, … degrees of freedom (Fisher and Yates, "Statistical
/// Tables", table III).
const STUDENT: [f64; 30] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771,
    1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706,
    1.703, 1.701, 1.699, 1.697,
];

/// Adjacent rows of the sample with their total.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Block {
    pub(super) rows: f64,
    pub(super) value: f64,
}

/// Estimates the total of `rest` rows like those of `blocks`: the ratio estimator of a cluster sample
/// (Cochran, "Sampling Techniques", 3rd edition, chapter 9) with Student's prediction interval for the mean
/// of future blocks (Hahn and Meeker, "Statistical Intervals", section 4.7), never below 0.
pub(super) fn rest(blocks: &[Block], rest: f64) -> Estimate {
    let rows: f64 = blocks.iter().map(|block| block.rows).sum();
    if rest <= 0.0 || rows <= 0.0 {
        return Estimate::known(0.0);
    }
    let per_row = blocks.iter().map(|block| block.value).sum::<f64>() / rows;
    #[expect(clippy::cast_precision_loss, reason = "there are few blocks")]
    let n_blocks = blocks.len() as f64;
    if blocks.len() < 2 {
        // One block says nothing about the variance.
        return Estimate { low: 0.0, value: per_row * rest, high: 2.0 * per_row * rest };
    }
    let block_rows = rows / n_blocks;
    let squares = blocks.iter().map(|block| (block.value - per_row * block.rows).powi(2));
    let variance = squares.sum::<f64>() / (n_blocks - 1.0);
    let deviation = variance.sqrt() / block_rows;
    let quantile = STUDENT.get(blocks.len() - 2).copied().unwrap_or(NORMAL + 1.6 / n_blocks);
    let half = quantile * deviation * (1.0 / n_blocks + block_rows / rest).sqrt();
    let value = per_row * rest;
    Estimate { low: (value - half * rest).max(0.0), value, high: value + half * rest }
}

/// Estimates the number of `rest_rows` rows of the kind counted in `blocks`: the Wilson interval for the
/// share ("Probable Inference", 1927), which is meaningful even if none was found, or the interval of the
/// `blocks`, whose rows may be similar, whichever is wider.
pub(super) fn rest_of_kind(blocks: &[Block], rest_rows: f64) -> Estimate {
    let rows: f64 = blocks.iter().map(|block| block.rows).sum();
    if rest_rows <= 0.0 || rows <= 0.0 {
        return Estimate::known(0.0);
    }
    let share = blocks.iter().map(|block| block.value).sum::<f64>() / rows;
    let square = NORMAL * NORMAL;
    let middle = (share + square / (2.0 * rows)) / (1.0 + square / rows);
    let spread = (share * (1.0 - share) / rows + square / (4.0 * rows * rows)).sqrt();
    let half = NORMAL * spread / (1.0 + square / rows);
    let by_blocks = rest(blocks, rest_rows);
    let wide = by_blocks
        .widened((middle - half).max(0.0) * rest_rows, (middle + half).min(1.0) * rest_rows);
    Estimate { high: wide.high.min(rest_rows), ..wide }
}

/// The number of batches of settled rows for the pace.
const BATCHES: usize = 8;

/// Splits the ascending times at which rows were settled, in seconds, into batches of the steady state:
/// without the first `warm_up` rows, while slots fill, and the last, while they drain. This is the method of
/// batch means with the initial transient deleted (Law, "Simulation Modeling and Analysis", 5th edition,
/// section 9.5).
pub(super) fn batches(settled: &[f64], warm_up: usize) -> Vec<Block> {
    let warm_up = warm_up.min(settled.len() / 4);
    let Some(window) = settled.get(warm_up..settled.len() - warm_up).filter(|it| it.len() > 1)
    else {
        return Vec::new();
    };
    let n_rows = window.len() - 1;
    let n_batches = BATCHES.min(n_rows);
    let edges: Vec<usize> = (0..=n_batches).map(|idx| n_rows * idx / n_batches).collect();
    #[expect(clippy::cast_precision_loss, reason = "there are few rows")]
    let batch = |pair: &[usize]| Block {
        rows: (pair[1] - pair[0]) as f64,
        value: window[pair[1]] - window[pair[0]],
    };
    edges.windows(2).map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::{Block, Estimate, batches, rest, rest_of_kind};

    #[test]
    fn alike_blocks_leave_no_doubt_and_others_do() {
        let alike = [Block { rows: 4.0, value: 8.0 }; 16];
        assert_eq!(rest(&alike, 100.0), Estimate::known(200.0));
        assert_eq!(rest(&alike, 0.0), Estimate::known(0.0));
        let blocks: Vec<Block> =
            (0..16).map(|idx| Block { rows: 4.0, value: f64::from(idx % 4) }).collect();
        let found = rest(&blocks, 1e6);
        assert!((found.value - 375_000.0).abs() < 1e-6, "{found:?}");
        // s = 1.1547 of a block, so 1.753 · 1.1547 / 4 / √16 for a row.
        assert!((found.high - found.value - 126_500.0).abs() < 1000.0, "{found:?}");
        assert!(found.holds(400_000.0) && !found.holds(600_000.0));
    }

    #[test]
    fn intervals_hold_what_they_say() {
        // Of many samples of a known population, about 90 % must contain the truth.
        let mut state = 7_u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(state >> 40).unwrap()) / f64::from(1_u32 << 24)
        };
        let (mut held, mut held_kind) = (0, 0);
        for _ in 0..400 {
            let mut block = |_: usize| {
                let rows: Vec<f64> = (0..4).map(|_| (draw() * 20.0).floor()).collect();
                (rows.iter().sum::<f64>(), rows.iter().filter(|row| **row < 2.0).count())
            };
            let sample: Vec<_> = (0..16).map(&mut block).collect();
            let others: Vec<_> = (0..64).map(&mut block).collect();
            let of = |value: f64| Block { rows: 4.0, value };
            let sums: Vec<Block> = sample.iter().map(|(sum, _)| of(*sum)).collect();
            let kinds: Vec<Block> =
                sample.iter().map(|(_, n)| of(f64::from(u32::try_from(*n).unwrap()))).collect();
            let truth: f64 = others.iter().map(|(sum, _)| sum).sum();
            let kind: usize = others.iter().map(|(_, n)| n).sum();
            held += u32::from(rest(&sums, 256.0).holds(truth));
            let kind = f64::from(u32::try_from(kind).unwrap());
            held_kind += u32::from(rest_of_kind(&kinds, 256.0).holds(kind));
        }
        assert!((340..=380).contains(&held), "{held} of 400");
        assert!(held_kind >= 340, "{held_kind} of 400");
    }

    #[test]
    fn what_was_not_seen_may_still_be() {
        let none = [Block { rows: 4.0, value: 0.0 }; 16];
        let found = rest_of_kind(&none, 1000.0);
        assert_eq!((found.low, found.value), (0.0, 0.0));
        assert!((35.0..45.0).contains(&found.high), "{found:?}");
    }

    #[test]
    fn the_pace_is_that_of_the_middle() {
        // Ten seconds of startup, a row each tenth of a second, a slow end.
        let mut settled: Vec<f64> = (0..100).map(|row| 10.0 + f64::from(row) / 10.0).collect();
        settled.extend([30.0, 40.0, 50.0]);
        let blocks = batches(&settled, 16);
        assert_eq!(blocks.len(), 8);
        let found = rest(&blocks, 1000.0);
        assert!(
            (found.value - 100.0).abs() < 1e-6 && (found.high - 100.0).abs() < 1e-6,
            "{found:?}"
        );
        assert!(batches(&[1.0], 16).is_empty());
    }
}
