//! The preprocessing of Qwen2-VL: an image at about its own size, as patches in merge order.
//!
//! `Qwen2VLImageProcessor` of transformers 4.57.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes are positive and far below 2^52"
)]

/// The maximum aspect ratio (`smart_resize`).
pub(super) const ASPECT_RATIO_MAX: usize = 200;

/// The patch settings of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PatchRules {
    /// The minimum number of pixels of an image.
    pub(super) min_pixels: usize,
    /// The maximum number of pixels of an image.
    pub(super) max_pixels: usize,
    /// The edge of a patch in pixels.
    pub(super) patch: usize,
    /// The number of frames per patch; a still image is repeated.
    pub(super) frames: usize,
    /// The number of patches along an edge that merge into one feature.
    pub(super) merge: usize,
}

impl PatchRules {
    /// Returns the width and height in pixels, in whole merged patches; `None` if the aspect ratio
    /// is too large (`smart_resize`).
    pub(super) fn size(&self, width: usize, height: usize) -> Option<(usize, usize)> {
        let (longer, shorter) = (width.max(height) as f64, width.min(height) as f64);
        if longer / shorter > ASPECT_RATIO_MAX as f64 {
            return None;
        }
        let factor = (self.patch * self.merge) as f64;
        let (w, h) = (width as f64, height as f64);
        let (min, max) = (self.min_pixels as f64, self.max_pixels as f64);
        // Python's `round` rounds ties to even.
        let mut new_w = (w / factor).round_ties_even() * factor;
        let mut new_h = (h / factor).round_ties_even() * factor;
        if new_h * new_w > max {
            let beta = (h * w / max).sqrt();
            new_h = factor.max((h / beta / factor).floor() * factor);
            new_w = factor.max((w / beta / factor).floor() * factor);
        } else if new_h * new_w < min {
            let beta = (min / (h * w)).sqrt();
            new_h = (h * beta / factor).ceil() * factor;
            new_w = (w * beta / factor).ceil() * factor;
        }
        Some((new_w as usize, new_h as usize))
    }

    /// Returns the frames, rows and columns of patches of an image that consists of whole merged
    /// patches.
    pub(super) fn grid(&self, width: usize, height: usize) -> [usize; 3] {
        [1, height / self.patch, width / self.patch]
    }

    /// Returns the number of values per patch.
    pub(super) fn patch_len(&self) -> usize {
        3 * self.frames * self.patch * self.patch
    }

    /// Rearranges the values `[3, height, width]` of an image to patches `[rows * columns, 3 *
    /// frames * patch * patch]`. Patches that are merged are adjacent.
    pub(super) fn lay_out(&self, values: &[f32], width: usize, height: usize) -> Vec<f32> {
        let [_, rows, columns] = self.grid(width, height);
        let (patch, merge) = (self.patch, self.merge);
        let mut laid = Vec::with_capacity(rows * columns * self.patch_len());
        let blocks = (0..rows / merge)
            .flat_map(|row| (0..columns / merge).map(move |column| (row * merge, column * merge)));
        for (block_row, block_column) in blocks {
            let inner = (0..merge).flat_map(|row| (0..merge).map(move |column| (row, column)));
            for (row, column) in inner {
                let (top, left) = ((block_row + row) * patch, (block_column + column) * patch);
                for channel in 0..3 {
                    for _ in 0..self.frames {
                        for y in top..top + patch {
                            let at = (channel * height + y) * width + left;
                            laid.extend_from_slice(&values[at..at + patch]);
                        }
                    }
                }
            }
        }
        laid
    }
}

#[cfg(test)]
mod tests {
    use super::PatchRules;
    use crate::preprocess::image::geometry::geometry_cases;

    #[test]
    fn sizes_match_the_reference() {
        let cases = geometry_cases("qwen2_vl");
        assert!(cases.len() > 500);
        for case in cases {
            let [width, height, patch, min_pixels, max_pixels, new_width, new_height] =
                case.try_into().unwrap();
            let rules = PatchRules { min_pixels, max_pixels, patch, frames: 2, merge: 2 };
            // The reference rejects the cases stored as 0.
            let size = rules.size(width, height).unwrap_or((0, 0));
            assert_eq!(size, (new_width, new_height), "{width}x{height}, {rules:?}");
        }
    }

    #[test]
    fn merged_patches_are_adjacent() {
        let rules = PatchRules { min_pixels: 1, max_pixels: 99, patch: 1, frames: 2, merge: 2 };
        // The pixel in row y, column x of channel c is `c * 100 + y * 10 + x`.
        let pixel = |i: usize| (i / 8 * 100 + i % 8 / 4 * 10 + i % 4) as f32;
        let values: Vec<f32> = (0..24).map(pixel).collect();
        let laid = rules.lay_out(&values, 4, 2);
        assert_eq!(laid[..6], [0.0, 0.0, 100.0, 100.0, 200.0, 200.0]);
        let first: Vec<f32> = laid.chunks(6).map(|patch| patch[0]).collect();
        assert_eq!(first, [0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0]);
    }
}
