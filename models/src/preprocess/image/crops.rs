//! The preprocessing of Phi-4-multimodal: an image becomes crops of one size, in rows and columns
//! that follow its aspect ratio, after the whole image at the size of a crop.
//!
//! `Phi4MultimodalImageProcessorFast` of transformers 4.57.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "sizes are positive and far below 2^52"
)]

use crate::preprocess::{CropGrid, RgbImage};

/// The minimum length of an edge after resizing, in pixels.
const EDGE_MIN: usize = 10;

/// The crop settings of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CropRules {
    /// The edge of a crop in pixels.
    pub(super) edge: usize,
    /// The edge of a patch in pixels.
    pub(super) patch: usize,
    /// The maximum number of crops of an image, without the whole image.
    pub(super) n_max: usize,
}

/// The crops of an image of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CropPlan {
    /// The width and height to resize to.
    pub(super) size: (usize, usize),
    pub(super) grid: CropGrid,
}

impl CropRules {
    /// Returns the maximum aspect ratio.
    pub(super) fn ratio_max(&self) -> usize {
        self.edge * self.n_max / EDGE_MIN
    }

    /// Returns the crops of an image; `None` if its aspect ratio is too large
    /// (`dynamic_preprocess`).
    pub(super) fn plan(&self, width: usize, height: usize) -> Option<CropPlan> {
        let (mut columns, mut rows) = (width.div_ceil(self.edge), height.div_ceil(self.edge));
        if columns * rows > self.n_max {
            (columns, rows) = self.closest_ratio(width, height);
        }
        let (whole_width, whole_height) = (columns * self.edge, rows * self.edge);
        let by_width = whole_width as f64 / width as f64;
        let by_height = whole_height as f64 / height as f64;
        let size = if by_width < by_height {
            (whole_width, (height as f64 * by_width) as usize)
        } else {
            ((width as f64 * by_height) as usize, whole_height)
        };
        if size.0.min(size.1) < EDGE_MIN {
            return None;
        }
        // The number of patches that contain at least one image pixel.
        let patches = |whole: usize, own: usize| whole / self.patch - (whole - own) / self.patch;
        let grid = CropGrid {
            rows,
            columns,
            edge: self.edge,
            patch_rows: patches(whole_height, size.1),
            patch_columns: patches(whole_width, size.0),
            patches_per_crop: self.edge / self.patch,
        };
        Some(CropPlan { size, grid })
    }

    /// Returns the columns and rows whose ratio is closest to that of the image. Among equally
    /// close ones, more crops are used if the image is large enough (`find_closest_aspect_ratio`).
    #[expect(clippy::float_cmp, reason = "equally close ratios are exactly equal")]
    fn closest_ratio(&self, width: usize, height: usize) -> (usize, usize) {
        let aspect = width as f64 / height as f64;
        let mut ratios: Vec<(usize, usize)> = (1..=self.n_max)
            .flat_map(|columns| (1..=self.n_max / columns).map(move |rows| (columns, rows)))
            .collect();
        ratios.sort_by_key(|(columns, rows)| columns * rows);
        let (mut best, mut nearest) = ((1, 1), f64::INFINITY);
        for (columns, rows) in ratios {
            let distance = (aspect - columns as f64 / rows as f64).abs();
            let is_large =
                (width * height) as f64 > 0.5 * (self.edge * self.edge * columns * rows) as f64;
            if distance < nearest || (distance == nearest && is_large) {
                (best, nearest) = ((columns, rows), distance);
            }
        }
        best
    }

    /// Pads a resized image with white to whole crops.
    pub(super) fn pad(&self, image: &RgbImage, grid: CropGrid) -> RgbImage {
        let (width, height) = (grid.columns * self.edge, grid.rows * self.edge);
        let mut pixels = vec![255; width * height * 3];
        for (row, source) in image.pixels.chunks_exact(image.width * 3).enumerate() {
            let at = row * width * 3;
            pixels[at..at + source.len()].copy_from_slice(source);
        }
        RgbImage { width, height, pixels }
    }

    /// Rearranges the values `[3, rows * edge, columns * edge]` of an image to `[1 + crops, 3,
    /// edge, edge]`, with the whole image first.
    pub(super) fn lay_out(&self, planes: &[f32], grid: CropGrid) -> Vec<f32> {
        let (width, height) = (grid.columns * self.edge, grid.rows * self.edge);
        let mut values = Vec::with_capacity(planes.len() + 3 * self.edge * self.edge);
        for plane in planes.chunks_exact(width * height) {
            values.extend(self.whole(plane, width, height));
        }
        for row in 0..grid.rows {
            for column in 0..grid.columns {
                for plane in planes.chunks_exact(width * height) {
                    for line in row * self.edge..(row + 1) * self.edge {
                        let at = line * width + column * self.edge;
                        values.extend_from_slice(&plane[at..at + self.edge]);
                    }
                }
            }
        }
        values
    }

    /// Resizes a plane to a crop like `torch.nn.functional.interpolate` with `mode="bicubic"` and
    /// without antialiasing: four pixels along each axis at any scale.
    fn whole(&self, plane: &[f32], width: usize, height: usize) -> Vec<f32> {
        let [across, down] = [width, height].map(|length| taps(length, self.edge));
        let mut values = Vec::with_capacity(self.edge * self.edge);
        for (rows, row_weights) in &down {
            for (columns, column_weights) in &across {
                let mut sum = 0.0;
                for (row, row_weight) in rows.iter().zip(row_weights) {
                    let line = &plane[row * width..(row + 1) * width];
                    let along = columns.iter().zip(column_weights);
                    let along: f32 = along.map(|(column, weight)| line[*column] * weight).sum();
                    sum += along * row_weight;
                }
                values.push(sum);
            }
        }
        values
    }
}

/// The source pixels of an output pixel, and their weights.
type Taps = ([usize; 4], [f32; 4]);

/// Returns the taps of each of `n` output pixels over `length` source pixels: Keys' cubic with a =
/// -0.75.
fn taps(length: usize, n: usize) -> Vec<Taps> {
    const A: f32 = -0.75;
    let scale = length as f32 / n as f32;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    (0..n)
        .map(|i| {
            let place = scale * (i as f32 + 0.5) - 0.5;
            let floor = place.floor();
            let t = place - floor;
            let at = |offset: i64| (floor as i64 + offset).clamp(0, length as i64 - 1) as usize;
            ([at(-1), at(0), at(1), at(2)], [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_match_the_reference() {
        for case in crate::preprocess::image::geometry::geometry_cases("phi4") {
            let [width, height, n_max] = [case[0], case[1], case[2]];
            let rules = CropRules { edge: 448, patch: 14, n_max };
            let found = rules.plan(width, height).map_or(vec![0; 3], |plan| {
                vec![plan.grid.columns, plan.grid.rows, plan.grid.n_tokens()]
            });
            assert_eq!(found, case[3..], "{width}x{height}, {n_max} crops");
        }
    }

    #[test]
    fn a_constant_plane_stays_constant() {
        let rules = CropRules { edge: 8, patch: 2, n_max: 4 };
        let whole = rules.whole(&[0.5; 16 * 24], 16, 24);
        assert!(whole.iter().all(|value| (value - 0.5).abs() < 1e-6));
    }
}
