//! The preprocessing of Idefics3 and SmolVLM: an image becomes tiles in rows and columns, then the
//! whole image.
//!
//! `Idefics3ImageProcessor` of transformers 4.57 with exactly its arithmetic: quotients are `f64`
//! and truncated.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes are positive and far below 2^52"
)]

use crate::preprocess::RgbImage;

/// The maximum length of an edge after any resize (`MAX_IMAGE_SIZE`).
const EDGE_MAX: usize = 4096;

/// The first resize of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSize {
    /// The longer edge; the other one in proportion and even.
    LongestEdge(usize),
    /// Width and height.
    Exact(usize, usize),
    /// No resize.
    AsItIs,
}

/// The tile settings of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileRules {
    pub(super) first: FirstSize,
    /// The edge of a tile in pixels.
    pub(super) tile: usize,
    /// Whether images are split at all.
    pub(super) splits: bool,
}

impl TileRules {
    /// Returns the width and height of the first resize.
    pub(super) fn first_size(&self, width: usize, height: usize) -> (usize, usize) {
        match self.first {
            FirstSize::LongestEdge(edge) => {
                let (width, height) = longest_edge(width, height, edge);
                within(width, height, EDGE_MAX)
            }
            FirstSize::Exact(width, height) => (width, height),
            FirstSize::AsItIs => (width, height),
        }
    }

    /// Returns the width and height of the second resize, to whole tiles.
    pub(super) fn whole_tiles(&self, width: usize, height: usize) -> (usize, usize) {
        if !self.splits {
            return (self.tile, self.tile);
        }
        let up = |edge: usize| edge.div_ceil(self.tile) * self.tile;
        let ratio = width as f64 / height as f64;
        if width >= height {
            let width = up(width);
            (width, up((width as f64 / ratio) as usize).max(self.tile))
        } else {
            let height = up(height);
            (up((height as f64 * ratio) as usize).max(self.tile), height)
        }
    }

    /// Returns the rows and columns of tiles of an image; `(0, 0)` if it is a single tile.
    pub(super) fn grid(&self, width: usize, height: usize) -> (usize, usize) {
        if width > self.tile || height > self.tile {
            (height.div_ceil(self.tile), width.div_ceil(self.tile))
        } else {
            (0, 0)
        }
    }

    /// Splits an image into tiles, row by row.
    pub(super) fn cut(&self, image: &RgbImage) -> Vec<RgbImage> {
        let (rows, columns) = self.grid(image.width, image.height);
        let (tile, row_len) = (self.tile, self.tile * 3);
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let cut = |(row, column): (usize, usize)| {
            let mut pixels = Vec::with_capacity(tile * row_len);
            for y in row * tile..(row + 1) * tile {
                let at = (y * image.width + column * tile) * 3;
                pixels.extend_from_slice(&image.pixels[at..at + row_len]);
            }
            RgbImage { width: tile, height: tile, pixels }
        };
        places.map(cut).collect()
    }
}

/// `_resize_output_size_rescale_to_max_len`.
fn longest_edge(width: usize, height: usize, edge: usize) -> (usize, usize) {
    let ratio = width as f64 / height as f64;
    let even = |edge: f64| (edge as usize).next_multiple_of(2).max(1);
    if width >= height {
        (edge, even(edge as f64 / ratio))
    } else {
        (even(edge as f64 * ratio), edge)
    }
}

/// `_resize_output_size_scale_below_upper_bound`.
fn within(width: usize, height: usize, edge: usize) -> (usize, usize) {
    let ratio = width as f64 / height as f64;
    if width >= height && width > edge {
        (edge, ((edge as f64 / ratio) as usize).max(1))
    } else if height > width && height > edge {
        (((edge as f64 * ratio) as usize).max(1), edge)
    } else {
        (width, height)
    }
}

#[cfg(test)]
mod tests {
    use super::{FirstSize, TileRules};
    use crate::preprocess::image::geometry::geometry_cases;

    #[test]
    fn sizes_and_grids_match_the_reference() {
        let cases = geometry_cases("idefics3");
        assert!(cases.len() > 500);
        for case in cases {
            let [width, height, edge, tile, new_width, new_height, rows, columns] =
                case.try_into().unwrap();
            let rules = TileRules { first: FirstSize::LongestEdge(edge), tile, splits: true };
            let (first_width, first_height) = rules.first_size(width, height);
            let whole = rules.whole_tiles(first_width, first_height);
            assert_eq!(whole, (new_width, new_height), "{width}x{height}, {edge}, {tile}");
            assert_eq!(rules.grid(whole.0, whole.1), (rows, columns), "{width}x{height}");
        }
    }
}
