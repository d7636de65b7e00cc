//! Pools the token states of a text into one embedding, like the modules of sentence-transformers
//! 5.1.

use legenda_schemas::job::Pooling;

use crate::bundle::{Dense, Step};

/// The minimum divisor of a normalisation (`torch.nn.functional.normalize`).
const NORM_MIN: f64 = 1e-12;

/// Pools the token states of one text, `f32 [S, C]` without padding, S at least 1. The results of
/// several modes are concatenated.
pub(super) fn pool(states: &[f32], width: usize, modes: &[Pooling]) -> Vec<f32> {
    modes.iter().flat_map(|mode| pool_one(states, width, *mode)).collect()
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "means are summed in f64 and are f32 like the states"
)]
fn pool_one(states: &[f32], width: usize, mode: Pooling) -> Vec<f32> {
    let tokens = || states.chunks_exact(width);
    let n_tokens = tokens().len() as f64;
    let weighted = |weight: &dyn Fn(usize) -> f64, divisor: f64| {
        let mut sums = vec![0.0_f64; width];
        for (token_idx, token) in tokens().enumerate() {
            let weight = weight(token_idx);
            for (sum, value) in sums.iter_mut().zip(token) {
                *sum += weight * f64::from(*value);
            }
        }
        sums.into_iter().map(|sum| (sum / divisor) as f32).collect()
    };
    match mode {
        Pooling::Cls => states[..width].to_vec(),
        Pooling::LastToken => states[states.len() - width..].to_vec(),
        Pooling::Max => tokens().fold(vec![f32::NEG_INFINITY; width], |mut max, token| {
            max.iter_mut().zip(token).for_each(|(max, value)| *max = max.max(*value));
            max
        }),
        Pooling::Mean => weighted(&|_| 1.0, n_tokens),
        Pooling::MeanSqrtLen => weighted(&|_| 1.0, n_tokens.sqrt()),
        Pooling::WeightedMean => {
            weighted(&|token_idx| (token_idx + 1) as f64, n_tokens * (n_tokens + 1.0) / 2.0)
        }
    }
}

/// Applies the steps after the pooling; `None` if a layer has another width.
pub(super) fn finish(mut embedding: Vec<f32>, steps: &[Step]) -> Option<Vec<f32>> {
    for step in steps {
        match step {
            Step::Normalize => normalize(&mut embedding),
            Step::Dense(dense) => embedding = apply(dense, &embedding)?,
        }
    }
    Some(embedding)
}

/// Normalises a vector to length 1.
#[expect(clippy::cast_possible_truncation, reason = "the length is summed in f64")]
pub(super) fn normalize(embedding: &mut [f32]) {
    let norm = embedding.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    for value in embedding {
        *value = (f64::from(*value) / norm.max(NORM_MIN)) as f32;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "products are summed in f64")]
fn apply(dense: &Dense, input: &[f32]) -> Option<Vec<f32>> {
    if dense.weight.len() != dense.bias.len() * input.len() {
        return None;
    }
    let rows = dense.weight.chunks_exact(input.len().max(1));
    let row = |(row, bias): (&[f32], &f32)| {
        let products = row.iter().zip(input).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let sum = products.sum::<f64>() + f64::from(*bias);
        (if dense.is_tanh { sum.tanh() } else { sum }) as f32
    };
    Some(rows.zip(&dense.bias).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tokens of two dimensions.
    const STATES: [f32; 6] = [1.0, -4.0, 3.0, 0.0, 8.0, -2.0];

    #[test]
    fn each_mode_pools_as_named() {
        for (mode, expected) in [
            (Pooling::Cls, [1.0, -4.0]),
            (Pooling::Max, [8.0, 0.0]),
            (Pooling::Mean, [4.0, -2.0]),
            (Pooling::MeanSqrtLen, [12.0 / 3_f32.sqrt(), -6.0 / 3_f32.sqrt()]),
            (Pooling::WeightedMean, [31.0 / 6.0, -10.0 / 6.0]),
            (Pooling::LastToken, [8.0, -2.0]),
        ] {
            for (value, expected) in pool(&STATES, 2, &[mode]).iter().zip(expected) {
                assert!((value - expected).abs() < 1e-5, "{mode:?}: {value}, expected {expected}");
            }
        }
        let joined = pool(&STATES, 2, &[Pooling::Cls, Pooling::Mean]);
        assert_eq!(joined, [1.0, -4.0, 4.0, -2.0]);
    }

    #[test]
    fn layers_are_applied_in_order() {
        let dense =
            Dense { weight: vec![0.0, 1.0, 2.0, 0.0], bias: vec![0.0, 2.0], is_tanh: false };
        let steps = [Step::Dense(dense), Step::Normalize];
        assert_eq!(finish(vec![1.0, 3.0], &steps).unwrap(), [0.6, 0.8]);
        assert_eq!(finish(vec![1.0; 3], &steps), None, "a layer of another width");
        assert_eq!(finish(vec![0.0; 2], &[Step::Normalize]).unwrap(), [0.0, 0.0]);
    }
}
