//! The inputs of image and audio encoders in addition to pixels and spectrograms.

use super::{media::MediaLayout, to_i64};
use crate::{
    arch::{ExtraInput, ExtraValue},
    config::ProcessorConfig,
    preprocess::{CropGrid, ImageLayout},
    runtime::{Dtype, Feed, GraphSession, SessionError},
    tensors::{ShapeError, Tensor},
};

/// A graph input in addition to the values.
#[derive(Debug)]
pub(super) struct ExtraPort {
    pub(super) name: &'static str,
    value: ExtraValue,
    /// The number of frames per feature, if features are counted.
    frames_per_feature: usize,
    /// The rank that the graph declares: a scalar may be a list of one.
    rank: usize,
}

/// The media of one run: the rows and layout of each sample.
pub(super) type Run<'a> = [(usize, MediaLayout<'a>)];

/// The value of an input.
pub(super) enum ExtraTensor {
    Bool(Tensor<bool>),
    I64(Tensor<i64>),
}

impl ExtraTensor {
    pub(super) fn feed(&self) -> Feed<'_> {
        match self {
            Self::Bool(tensor) => Feed::Bool(tensor),
            Self::I64(tensor) => Feed::I64(tensor),
        }
    }
}

impl ExtraPort {
    /// Checks that the graph has such an input; `None` if it does not and need not.
    pub(super) fn open(
        graph: &GraphSession,
        input: &ExtraInput,
        processor: &ProcessorConfig,
    ) -> Result<Option<Self>, SessionError> {
        let has = |name: &str| graph.input_names().any(|own| own == name);
        let found = input.names.iter().find(|name| has(name));
        if found.is_none() && input.is_optional {
            return Ok(None);
        }
        let Some(name) = found.or(input.names.first()).copied() else { return Ok(None) };
        let mut frames_per_feature = 1;
        match input.value {
            ExtraValue::PixelMask | ExtraValue::CropMask | ExtraValue::FrameMask => {
                graph.expect_mask(name)?;
            }
            ExtraValue::PatchGrids | ExtraValue::CropSizes | ExtraValue::Projection { .. } => {
                graph.expect_input(name, Dtype::I64)?;
            }
            ExtraValue::FeatureCounts { frames_per_feature: of } => {
                graph.expect_input(name, Dtype::I64)?;
                frames_per_feature = of(processor);
            }
        }
        let rank = graph.rank_of(name).unwrap_or(1);
        Ok(Some(Self { name, value: input.value, frames_per_feature, rank }))
    }

    /// Returns the value for a run. `values` has the rows of its media.
    pub(super) fn tensor(
        &self,
        values: &Tensor<f32>,
        run: &Run<'_>,
    ) -> Result<ExtraTensor, ShapeError> {
        let layouts = || run.iter().map(|(_, layout)| *layout);
        let images = || layouts().flat_map(MediaLayout::images);
        let crops = || images().find_map(crop_grid);
        Ok(match self.value {
            ExtraValue::PixelMask => {
                let shape = [&[1, values.rows()], &values.shape()[2..]].concat();
                ExtraTensor::Bool(Tensor::filled(shape, true))
            }
            ExtraValue::PatchGrids => {
                let grids = images().filter_map(ImageLayout::patches).flatten().map(to_i64);
                let grids: Vec<i64> = grids.collect();
                ExtraTensor::I64(Tensor::new([grids.len() / 3, 3], grids)?)
            }
            ExtraValue::CropMask => {
                let side = crops().map_or(0, |grid| grid.patches_per_crop);
                let mask = crops().map(patch_mask).unwrap_or_default();
                ExtraTensor::Bool(Tensor::new([1, values.rows(), side, side], mask)?)
            }
            ExtraValue::CropSizes => {
                let size = crops().map(|grid| [grid.rows, grid.columns].map(|n| n * grid.edge));
                let size = size.unwrap_or_default().map(to_i64);
                ExtraTensor::I64(Tensor::new([1, 2], size.to_vec())?)
            }
            ExtraValue::FrameMask => {
                let (n_rows, n_frames) = (values.rows(), values.shape()[1]);
                let masks =
                    run.iter().flat_map(|(n_own, layout)| frame_mask(*layout, *n_own, n_frames));
                ExtraTensor::Bool(Tensor::new([n_rows, n_frames], masks.collect())?)
            }
            ExtraValue::FeatureCounts { .. } => {
                let frames = layouts().flat_map(MediaLayout::frames);
                let counts = frames.map(|n| to_i64(n.div_ceil(self.frames_per_feature)));
                let counts: Vec<i64> = counts.collect();
                ExtraTensor::I64(Tensor::new([counts.len()], counts)?)
            }
            ExtraValue::Projection { audio_alone, with_images } => {
                let has_images = layouts().any(MediaLayout::is_with_images);
                let mode = if has_images { with_images } else { audio_alone };
                ExtraTensor::I64(Tensor::new(vec![1; self.rank], vec![mode])?)
            }
        })
    }
}

fn crop_grid(layout: &ImageLayout) -> Option<CropGrid> {
    match layout {
        ImageLayout::Crops(grid) => Some(*grid),
        _ => None,
    }
}

/// Returns the mask of valid patches, crop by crop. All patches of the first crop, the whole image,
/// are valid.
fn patch_mask(grid: CropGrid) -> Vec<bool> {
    let side = grid.patches_per_crop;
    let mut mask = vec![true; side * side];
    for crop in 0..grid.rows * grid.columns {
        let (first_row, first_column) = (crop / grid.columns * side, crop % grid.columns * side);
        for row in first_row..first_row + side {
            let columns = first_column..first_column + side;
            let is_inside = |column| row < grid.patch_rows && column < grid.patch_columns;
            mask.extend(columns.map(is_inside));
        }
    }
    mask
}

/// Returns a mask `[rows, frames]` that is true for valid frames.
fn frame_mask(layout: MediaLayout<'_>, n_rows: usize, n_frames: usize) -> Vec<bool> {
    let mut mask = vec![true; n_rows * n_frames];
    for (row, n_own) in mask.chunks_exact_mut(n_frames.max(1)).zip(layout.frames()) {
        row[*n_own..].fill(false);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_outside_the_image_are_masked() {
        let grid = CropGrid {
            rows: 2,
            columns: 1,
            edge: 6,
            patch_rows: 3,
            patch_columns: 1,
            patches_per_crop: 2,
        };
        let [inside, outside] = [true, false];
        let whole = [inside; 4];
        let crops = [inside, outside, inside, outside, inside, outside, outside, outside];
        assert_eq!(patch_mask(grid), [&whole[..], &crops].concat());
    }
}
