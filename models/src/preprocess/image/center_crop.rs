//! The centre of an image, with black around it where the image is smaller.

use super::Backend;
use crate::preprocess::RgbImage;

/// Which side of an image gets the odd row or column of black.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PadRounding {
    /// The right or the lower side.
    Down,
    /// The left or the upper side.
    Up,
}

impl PadRounding {
    /// Returns the rounding of transformers 5.24: its code for torchvision rounds down, its code for
    /// Pillow and NumPy (`image_transforms.center_crop`, of the slow processors too) rounds up.
    pub(super) fn of(backend: Backend) -> Self {
        match backend {
            Backend::Torchvision => Self::Down,
            Backend::Pil => Self::Up,
        }
    }

    fn half(self, difference: usize) -> usize {
        match self {
            Self::Down => difference / 2,
            Self::Up => difference.div_ceil(2),
        }
    }
}

/// Returns the centre of an image in `width` and `height`. Where the image is larger, the odd row or
/// column is cut off at the right or the lower side by either rounding.
pub(super) fn center_crop(
    image: &RgbImage,
    width: usize,
    height: usize,
    rounding: PadRounding,
) -> RgbImage {
    let mut pixels = vec![0; width * height * 3];
    // Where to start in the source, where in the target, and how much: per axis.
    let axis = |source: usize, target: usize| {
        let padding = rounding.half(target.saturating_sub(source));
        (source.saturating_sub(target) / 2, padding, source.min(target))
    };
    let (source_x, target_x, n_columns) = axis(image.width, width);
    let (source_y, target_y, n_rows) = axis(image.height, height);
    for row_idx in 0..n_rows {
        let source = ((source_y + row_idx) * image.width + source_x) * 3;
        let target = ((target_y + row_idx) * width + target_x) * 3;
        pixels[target..target + n_columns * 3]
            .copy_from_slice(&image.pixels[source..source + n_columns * 3]);
    }
    RgbImage { width, height, pixels }
}

#[cfg(test)]
mod tests {
    use super::{PadRounding, RgbImage, center_crop};

    /// Returns the crop of an image whose pixels are 1, 2, 3, ... as one channel of it.
    fn cropped(
        (width, height): (usize, usize),
        (crop_width, crop_height): (usize, usize),
        rounding: PadRounding,
    ) -> Vec<u8> {
        let levels = (1..).take(width * height).flat_map(|level| [level; 3]);
        let image = RgbImage { width, height, pixels: levels.collect() };
        let crop = center_crop(&image, crop_width, crop_height, rounding);
        assert_eq!((crop.width, crop.height), (crop_width, crop_height));
        crop.pixels.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn images_smaller_than_the_crop_stand_where_each_back_end_puts_them() {
        // Made by `image_transforms.center_crop` of transformers 5.24.
        type Size = (usize, usize);
        let expected: [(Size, Size, &[u8]); 7] = [
            ((2, 3), (5, 4), &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 4, 0, 0, 0, 5, 6, 0]),
            ((5, 2), (2, 5), &[0, 0, 0, 0, 2, 3, 7, 8, 0, 0]),
            ((4, 5), (7, 2), &[0, 0, 5, 6, 7, 8, 0, 0, 0, 9, 10, 11, 12, 0]),
            ((5, 5), (2, 2), &[7, 8, 12, 13]),
            ((3, 4), (4, 3), &[0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]),
            ((6, 1), (3, 4), &[0, 0, 0, 0, 0, 0, 2, 3, 4, 0, 0, 0]),
            ((2, 1), (5, 2), &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]),
        ];
        for (size, crop, pixels) in expected {
            assert_eq!(cropped(size, crop, PadRounding::Up), pixels, "{size:?} to {crop:?}");
        }
        // The padding of `TorchvisionBackend.center_crop`: `(crop - size) // 2` on the left and above.
        assert_eq!(
            cropped((2, 3), (5, 4), PadRounding::Down),
            [0, 1, 2, 0, 0, 0, 3, 4, 0, 0, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(cropped((5, 2), (2, 5), PadRounding::Down), [0, 0, 2, 3, 7, 8, 0, 0, 0, 0]);
    }
}
