//! The page preprocessing of Donut: rotation, resize, and padding to one size.
//!
//! `DonutImageProcessorFast` of transformers 4.57: quotients are truncated.

use serde_json::Value;

use super::{
    Backend, Filter, center_crop::PadRounding, center_crop::center_crop, image_processor::no_crop,
    resize,
};
use crate::{
    config::{BundleError, ImageProcessorConfig, ImageSize},
    preprocess::{ProcessError, RgbImage},
};

/// The page settings of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRules {
    /// The width of the encoder input.
    pub(super) width: usize,
    /// The height of the encoder input.
    pub(super) height: usize,
    /// Whether a page is rotated clockwise by 90 degrees if its orientation differs.
    pub(super) turns: bool,
    /// Whether a page is shrunk to fit width and height.
    pub(super) shrinks: bool,
    /// Whether a page is padded with black to width and height.
    pub(super) pads: bool,
}

impl PageRules {
    /// Reads the config.
    pub(super) fn read(
        config: &ImageProcessorConfig,
        backend: Backend,
    ) -> Result<Self, BundleError> {
        no_crop(config)?;
        if !config.do_resize {
            return Err(config.origin.unsupported("do_resize", "false".to_owned(), "true"));
        }
        // Pillow's `thumbnail` reduces an image before it filters.
        if backend != Backend::Torchvision {
            return Err(config.origin.unsupported("backend", "pil".to_owned(), "torchvision"));
        }
        let is_on = |key: &str, default: bool| {
            config.rest.get(key).and_then(Value::as_bool).unwrap_or(default)
        };
        let (width, height) = match config.size {
            None => (1920, 2560),
            Some(ImageSize { height: Some(height), width: Some(width), .. }) => (width, height),
            // Older configs list the width first.
            Some(ImageSize { pair: Some([width, height]), .. }) => (width, height),
            Some(ImageSize { edge: Some(edge), .. }) => (edge, edge),
            other => return Err(config.origin.inconsistent(format!("invalid `size`: {other:?}"))),
        };
        if width == 0 || height == 0 {
            return Err(config.origin.inconsistent("`size` has an edge of 0".to_owned()));
        }
        let rules = Self {
            width,
            height,
            turns: is_on("do_align_long_axis", false),
            shrinks: is_on("do_thumbnail", true),
            pads: is_on("do_pad", true),
        };
        if rules.pads && !rules.shrinks {
            return Err(config.origin.unsupported(
                "do_thumbnail",
                "false".to_owned(),
                "true with `do_pad`",
            ));
        }
        Ok(rules)
    }

    /// Preprocesses a page.
    pub(super) fn lay_out(
        &self,
        image: &RgbImage,
        filter: Filter,
    ) -> Result<RgbImage, ProcessError> {
        let turned = self.is_turned(image.width, image.height).then(|| quarter_turn(image));
        let (width, height) = (image.width, image.height);
        let image = turned.as_ref().unwrap_or(image);
        let [first, second] = self.sizes(image.width, image.height);
        if second.0 == 0 || second.1 == 0 {
            let ratio_max = self.width.max(self.height);
            return Err(ProcessError::ImageTooNarrow { width, height, ratio_max });
        }
        let backend = Backend::Torchvision;
        let image = resize(image, first.0, first.1, filter, backend);
        // `thumbnail` always uses its own filter.
        let image = resize(&image, second.0, second.1, Filter::Bicubic, backend);
        // `pad_image` of both Donut processors rounds down.
        Ok(if self.pads {
            center_crop(&image, self.width, self.height, PadRounding::Down)
        } else {
            image
        })
    }

    /// Returns the maximum number of pixels of all copies of a page that are held at once.
    pub(super) fn n_pixels(&self, width: usize, height: usize) -> usize {
        let is_turned = self.is_turned(width, height);
        let (width, height) = if is_turned { (height, width) } else { (width, height) };
        let n_turned = if is_turned { width.saturating_mul(height) } else { 0 };
        let resized = self.sizes(width, height).map(|(width, height)| width.saturating_mul(height));
        let padded = self.width.saturating_mul(self.height);
        resized.into_iter().chain([padded]).fold(n_turned, usize::saturating_add)
    }

    /// Returns whether the orientation of a page differs from that of the encoder input.
    fn is_turned(&self, width: usize, height: usize) -> bool {
        let is_upright = self.width < self.height;
        let lies_across = if is_upright { width > height } else { width < height };
        self.turns && self.width != self.height && lies_across
    }

    /// Returns the width and height of the first and of the second resize of a page.
    fn sizes(&self, width: usize, height: usize) -> [(usize, usize); 2] {
        let edge = self.width.min(self.height);
        let first = if width <= height {
            (edge, edge.saturating_mul(height) / width.max(1))
        } else {
            (edge.saturating_mul(width) / height.max(1), edge)
        };
        if !self.shrinks {
            return [first, first];
        }
        let (width, height) = (first.0.min(self.width), first.1.min(self.height));
        let second = if (width, height) == first || first.0 == first.1 {
            (width, height)
        } else if first.1 > first.0 {
            (first.0 * height / first.1, height)
        } else {
            (width, first.1 * width / first.0)
        };
        [first, second]
    }
}

/// Rotates an image clockwise by 90 degrees.
fn quarter_turn(image: &RgbImage) -> RgbImage {
    let (width, height) = (image.height, image.width);
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let at = ((image.height - 1 - x) * image.width + y) * 3;
            pixels.extend_from_slice(&image.pixels[at..at + 3]);
        }
    }
    RgbImage { width, height, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landscape_page_is_rotated_clockwise() {
        let pixel = |value: u8| [value; 3];
        let image = RgbImage { width: 3, height: 2, pixels: (1..=6).flat_map(pixel).collect() };
        let turned = quarter_turn(&image);
        let values: Vec<u8> = turned.pixels.iter().step_by(3).copied().collect();
        assert_eq!((turned.width, turned.height, values), (2, 3, vec![4, 1, 5, 2, 6, 3]));
        let rules = PageRules { width: 48, height: 64, turns: true, shrinks: true, pads: true };
        assert!(rules.is_turned(3, 2) && !rules.is_turned(2, 3) && !rules.is_turned(2, 2));
        let lying = PageRules { width: 64, height: 48, ..rules };
        assert!(lying.is_turned(2, 3) && !lying.is_turned(3, 2));
        assert!(!PageRules { width: 48, height: 48, ..rules }.is_turned(3, 2));
    }

    #[test]
    fn a_page_of_any_shape_fits() {
        let rules = PageRules { width: 48, height: 64, turns: false, shrinks: true, pads: true };
        assert_eq!(rules.sizes(100, 100), [(48, 48); 2]);
        assert_eq!(rules.sizes(100, 200), [(48, 96), (32, 64)]);
        assert_eq!(rules.sizes(200, 100), [(96, 48), (48, 24)]);
        for (width, height) in [(1, 1), (7, 5), (30, 40), (500, 20), (20, 500)] {
            let [_, (width, height)] = rules.sizes(width, height);
            assert!(width <= 48 && height <= 64, "{width}x{height}");
        }
        let strip = RgbImage { width: 900, height: 1, pixels: vec![0; 2700] };
        let error = rules.lay_out(&strip, Filter::Bilinear).unwrap_err();
        assert_eq!(error.code(), "image_too_narrow");
    }
}
