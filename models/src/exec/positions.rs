//! The positions of prompt tokens, for models whose image tokens do not have consecutive positions.

use super::to_i64;
use crate::{
    arch::PositionScheme, bundle::Bundle, engine::Positions, preprocess::ImageLayout,
    tensors::Tensor,
};

/// The position scheme of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionRule {
    /// Consecutive positions from `first`.
    Sequential { first: i64 },
    /// Positions on axes of time, height and width (M-RoPE). An image spans as many positions as
    /// its longest side has features.
    Spatial {
        /// The placeholder token of image features.
        token_id: i64,
        /// The number of patches along an edge that merge into one feature.
        merge: usize,
    },
}

impl PositionRule {
    /// Returns the position scheme of a bundle.
    pub(super) fn new(bundle: &Bundle) -> Self {
        match (bundle.arch.positions, bundle.config.image_token_id) {
            (PositionScheme::MRope, Some(token_id)) => {
                Self::Spatial { token_id, merge: bundle.config.media.spatial_merge_size() }
            }
            (PositionScheme::MRope, None) => Self::Sequential { first: 0 },
            (PositionScheme::Sequential { first }, _) => Self::Sequential { first },
        }
    }

    /// Returns the positions of a prompt; `None` if they are the default.
    pub(super) fn positions(self, token_ids: &[i64], images: &[ImageLayout]) -> Option<Positions> {
        match self {
            Self::Sequential { first: 0 } => None,
            Self::Sequential { first } => Some(Positions::starting_at(first, token_ids.len())),
            Self::Spatial { token_id, merge } => {
                let grids: Vec<_> = images.iter().filter_map(ImageLayout::patches).collect();
                Some(spatial(token_ids, token_id, &grids, merge))
            }
        }
    }
}

/// `get_rope_index` of `Qwen2VLModel` (transformers 4.57), without videos.
fn spatial(token_ids: &[i64], token_id: i64, grids: &[[usize; 3]], merge: usize) -> Positions {
    let n_tokens = token_ids.len();
    let mut ids = Tensor::zeros([3, n_tokens]);
    let mut put = |token_idx: usize, at: [usize; 3]| {
        for (axis, position) in at.into_iter().enumerate() {
            ids.data_mut()[axis * n_tokens + token_idx] = to_i64(position);
        }
    };
    let mut grids = grids.iter();
    let (mut token_idx, mut next) = (0, 0);
    while token_idx < n_tokens {
        let grid = if token_ids[token_idx] == token_id { grids.next() } else { None };
        let Some([frames, rows, columns]) = grid.copied() else {
            put(token_idx, [next; 3]);
            (token_idx, next) = (token_idx + 1, next + 1);
            continue;
        };
        let (rows, columns) = (rows / merge, columns / merge);
        let cells = (0..frames).flat_map(|frame| {
            (0..rows).flat_map(move |row| (0..columns).map(move |column| [frame, row, column]))
        });
        for cell in cells.take(n_tokens - token_idx) {
            put(token_idx, cell.map(|place| next + place));
            token_idx += 1;
        }
        next += frames.max(rows).max(columns);
    }
    Positions::new(ids, to_i64(next))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn positions_on_three_axes_match_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/geometry.json");
        let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = all["mrope"].as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let token_ids: Vec<i64> = serde_json::from_value(case["token_ids"].clone()).unwrap();
            let grids: Vec<[usize; 3]> = serde_json::from_value(case["grids"].clone()).unwrap();
            let expected: Vec<Vec<i64>> = serde_json::from_value(case["ids"].clone()).unwrap();
            let rule = PositionRule::Spatial { token_id: 9, merge: 2 };
            let images: Vec<_> = grids.into_iter().map(ImageLayout::Patches).collect();
            let positions = rule.positions(&token_ids, &images).unwrap();
            assert_eq!(positions.ids().data(), expected.concat(), "{token_ids:?}");
            // The reference returns the next position relative to the number of tokens.
            let next = to_i64(token_ids.len()) + case["delta"].as_i64().unwrap();
            assert_eq!(positions.next(), next);
        }
    }
}
