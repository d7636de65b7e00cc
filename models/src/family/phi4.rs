//! The encoders of Phi-4-multimodal: what they take beside pixels and spectrograms.
//!
//! # Source
//!
//! `PhiMultiModalProcessor` of onnxruntime-genai 0.18 and `Phi4MultimodalImageEmbedding` of transformers
//! 4.57. Images go through one by one: no crop of one looks at those of another.

use super::{EncodeError, media::MediaLayout, to_i64};
use crate::{
    onnx::{Dtype, Feed, GraphSession, SessionError},
    processor::CropGrid,
    tensors::{ShapeError, Tensor},
};

const PATCH_MASK: &str = "image_attention_mask";
const IMAGE_SIZES: &str = "image_sizes";
const FRAME_MASK: &str = "audio_attention_mask";
const SOUND_SIZES: &str = "audio_sizes";
const SOUND_MODE: &str = "audio_projection_mode";

/// Which of two projections sounds go through: alone, and beside images.
const MODE_SOUNDS: i64 = 2;
const MODE_BOTH: i64 = 3;

/// Checks that an encoder takes the crops of an image, which of their patches are of the image, and its
/// size in pixels.
pub(super) fn expect_images(graph: &GraphSession, input: &str) -> Result<(), SessionError> {
    graph.expect_dims(input, &[-1, -1, 3, -1, -1])?;
    graph.expect_mask(PATCH_MASK)?;
    graph.expect_input(IMAGE_SIZES, Dtype::I64)?;
    graph.expect_no_inputs_but(&[input, PATCH_MASK, IMAGE_SIZES])
}

/// Checks that an encoder takes spectrograms, which of their frames count, how many features each
/// becomes, and what is beside them.
pub(super) fn expect_sounds(graph: &GraphSession, input: &str) -> Result<(), SessionError> {
    graph.expect_dims(input, &[-1, -1, -1])?;
    graph.expect_mask(FRAME_MASK)?;
    graph.expect_input(SOUND_SIZES, Dtype::I64)?;
    graph.expect_input(SOUND_MODE, Dtype::I64)?;
    graph.expect_no_inputs_but(&[input, FRAME_MASK, SOUND_SIZES, SOUND_MODE])
}

fn failed(graph: &GraphSession) -> impl Fn(ShapeError) -> EncodeError + use<> {
    let graph = graph.name().to_owned();
    move |error| EncodeError::Run { graph: graph.clone(), message: error.to_string() }
}

/// Encodes the images of one sample, whose crops `[crops, 3, S, S]` follow each other.
pub(super) fn see(
    graph: &mut GraphSession,
    [input, output]: [&str; 2],
    values: &Tensor<f32>,
    grids: &[CropGrid],
) -> Result<Vec<f32>, EncodeError> {
    let failed = failed(graph);
    let mut rest = values.data();
    let mut encoded = Vec::new();
    for grid in grids {
        let n_crops = grid.n_crops();
        let (own, after) = rest.split_at((n_crops * values.row_len()).min(rest.len()));
        rest = after;
        let shape = [&[1, n_crops], &values.shape()[1..]].concat();
        let crops = Tensor::new(shape, own.to_vec()).map_err(&failed)?;
        let side = grid.patches_per_crop;
        let mask = Tensor::new([1, n_crops, side, side], patch_mask(*grid)).map_err(&failed)?;
        let size = [grid.rows, grid.columns].map(|n| to_i64(n * grid.edge));
        let size = Tensor::new([1, 2], size.to_vec()).map_err(&failed)?;
        let feeds = [
            (input, Feed::F32(&crops)),
            (PATCH_MASK, Feed::Bool(&mask)),
            (IMAGE_SIZES, Feed::I64(&size)),
        ];
        encoded.extend(graph.run_on(&feeds, output)?.into_data());
    }
    Ok(encoded)
}

/// Returns which patches of the crops are of the image, crop by crop; those of the first, which is the
/// whole image, all are.
fn patch_mask(grid: CropGrid) -> Vec<bool> {
    let side = grid.patches_per_crop;
    let mut mask = vec![true; side * side];
    for crop in 0..grid.rows * grid.columns {
        let (first_row, first_column) = (crop / grid.columns * side, crop % grid.columns * side);
        for row in first_row..first_row + side {
            let columns = first_column..first_column + side;
            let is_seen = |column| row < grid.patch_rows && column < grid.patch_columns;
            mask.extend(columns.map(is_seen));
        }
    }
    mask
}

/// Encodes the sounds of one sample, `[sounds, frames, mels]`.
pub(super) fn hear(
    graph: &mut GraphSession,
    [input, output]: [&str; 2],
    values: &Tensor<f32>,
    layout: MediaLayout<'_>,
    frames_per_feature: usize,
) -> Result<Vec<f32>, EncodeError> {
    let failed = failed(graph);
    let (counts, with_images) = match layout {
        MediaLayout::Frames { counts, with_images } => (counts, with_images),
        _ => (&[][..], false),
    };
    let sizes = counts.iter().map(|n| to_i64(n.div_ceil(frames_per_feature)));
    let sizes = Tensor::new([counts.len()], sizes.collect()).map_err(&failed)?;
    let (n_sounds, n_frames) = (values.rows(), values.shape()[1]);
    let mask = layout.frames_mask(n_sounds, n_frames);
    let mask = Tensor::new([n_sounds, n_frames], mask).map_err(&failed)?;
    // A number by itself, or a list of one.
    let rank = graph.rank_of(SOUND_MODE).unwrap_or(1);
    let mode = if with_images { MODE_BOTH } else { MODE_SOUNDS };
    let mode = Tensor::new(vec![1; rank], vec![mode]).map_err(&failed)?;
    let feeds = [
        (input, Feed::F32(values)),
        (FRAME_MASK, Feed::Bool(&mask)),
        (SOUND_SIZES, Feed::I64(&sizes)),
        (SOUND_MODE, Feed::I64(&mode)),
    ];
    Ok(graph.run_on(&feeds, output)?.into_data())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_on_the_ground_are_masked() {
        let grid = CropGrid {
            rows: 2,
            columns: 1,
            edge: 6,
            patch_rows: 3,
            patch_columns: 1,
            patches_per_crop: 2,
        };
        let [seen, not] = [true, false];
        let whole = [seen; 4];
        let crops = [seen, not, seen, not, seen, not, not, not];
        assert_eq!(patch_mask(grid), [&whole[..], &crops].concat());
    }
}
