//! Images to pixel values, as transformers' image processors do it.

use super::{Backend, Filter, ProcessError, RgbImage, resize};
use crate::{
    bundle::{BundleError, ImageProcessorConfig, ImageSize},
    tensors::Tensor,
};

const FILE: &str = "processor_config.json";

/// Image processors whose pixels come from resize, crop, rescale and normalise alone.
const KNOWN_TYPES: [&str; 12] = [
    "SiglipImageProcessor",
    "SiglipImageProcessorFast",
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTFeatureExtractor",
    "DeiTImageProcessor",
    "DeiTImageProcessorFast",
    "DeiTFeatureExtractor",
    "CLIPFeatureExtractor",
    "",
];

/// Keys that do not change pixels here: images arrive as RGB, one by one, on the host.
const HARMLESS_KEYS: [&str; 10] = [
    "do_convert_rgb",
    "data_format",
    "input_data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "return_tensors",
    "processor_class",
    "feature_extractor_type",
    "auto_map",
];

/// The target of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Exact { width: usize, height: usize },
    ShortestEdge { edge: usize },
}

/// Turns images into pixel values for one bundle.
///
/// Order and arithmetic: resize in 8 bits, crop the centre, then one table per channel for rescale
/// and normalise, as torchvision's fused `(x - mean * 255) / (std * 255)` in `f32`.
#[derive(Debug)]
pub struct ImageProcessor {
    target: Option<Target>,
    filter: Filter,
    backend: Backend,
    /// Height and width.
    crop: Option<(usize, usize)>,
    /// The value of each of 256 levels, per channel.
    levels: Box<[[f32; 256]; 3]>,
}

impl ImageProcessor {
    /// Reads the config.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnsupportedOption`] for a key or value that would change pixels and is not
    /// known.
    pub fn open(config: &ImageProcessorConfig) -> Result<Self, BundleError> {
        let unsupported = |key: &str, value: String, supported: &str| {
            Err(BundleError::UnsupportedOption {
                file: FILE,
                key: format!("image_processor.{key}"),
                value,
                supported: supported.to_owned(),
            })
        };
        if !KNOWN_TYPES.contains(&config.image_processor_type.as_str()) {
            let value = config.image_processor_type.clone();
            return unsupported("image_processor_type", value, "SigLIP, CLIP, ViT and DeiT");
        }
        for (key, value) in &config.rest {
            let is_off = value.is_null() || value == &serde_json::Value::Bool(false);
            if !is_off && !HARMLESS_KEYS.contains(&key.as_str()) {
                return unsupported(key, value.to_string(), "this key is not known");
            }
        }
        let backend = match config.backend.as_deref() {
            None | Some("torchvision") => Backend::Torchvision,
            Some("pil") => Backend::Pil,
            Some(other) => {
                return unsupported("backend", other.to_owned(), "torchvision, pil");
            }
        };
        let Some(filter) = Filter::from_pil(config.resample) else {
            return unsupported("resample", config.resample.to_string(), "0, 1, 2, 3");
        };
        let target = config.do_resize.then(|| target(config.size)).transpose()?;
        let crop = config
            .do_center_crop
            .unwrap_or(false)
            .then(|| match config.crop_size {
                Some(ImageSize { height: Some(height), width: Some(width), .. }) => {
                    Ok((height, width))
                }
                other => Err(inconsistent(format!("`crop_size` is {other:?}"))),
            })
            .transpose()?;
        Ok(Self { target, filter, backend, crop, levels: levels(config) })
    }

    /// Turns one image into pixel values.
    ///
    /// | name | dtype | shape | meaning |
    /// |---|---|---|---|
    /// | `image` | `u8` | `[height, width, 3]` | RGB |
    /// | returned | `f32` | `[3, H, W]` | normalised, channels first |
    ///
    /// # Errors
    ///
    /// [`ProcessError::ImageShape`] if the image has no pixel or not `3 * width * height` bytes.
    pub fn pixel_values(&self, image: &RgbImage) -> Result<Tensor<f32>, ProcessError> {
        let (width, height, n_bytes) = (image.width, image.height, image.pixels.len());
        if n_bytes == 0 || width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(n_bytes)
        {
            return Err(ProcessError::ImageShape { width, height, n_bytes });
        }
        let resized = self.target.map(|target| {
            let (width, height) = target.of(width, height);
            resize(image, width, height, self.filter, self.backend)
        });
        let cropped = self
            .crop
            .map(|(height, width)| center_crop(resized.as_ref().unwrap_or(image), width, height));
        let image = cropped.as_ref().or(resized.as_ref()).unwrap_or(image);
        let n_pixels = image.width * image.height;
        let mut values = vec![0.0; 3 * n_pixels];
        let (red, rest) = values.split_at_mut(n_pixels);
        let (green, blue) = rest.split_at_mut(n_pixels);
        let [red_levels, green_levels, blue_levels] = &*self.levels;
        let planes = red.iter_mut().zip(green.iter_mut().zip(blue.iter_mut()));
        for (pixel, (red, (green, blue))) in image.pixels.chunks_exact(3).zip(planes) {
            *red = red_levels[usize::from(pixel[0])];
            *green = green_levels[usize::from(pixel[1])];
            *blue = blue_levels[usize::from(pixel[2])];
        }
        Ok(Tensor::new([3, image.height, image.width], values)?)
    }
}

impl Target {
    /// Returns width and height for an input of this size.
    fn of(self, width: usize, height: usize) -> (usize, usize) {
        match self {
            Self::Exact { width, height } => (width, height),
            // `get_resize_output_image_size`: the longer edge is rounded down.
            Self::ShortestEdge { edge } if width <= height => (edge, edge * height / width),
            Self::ShortestEdge { edge } => (edge * width / height, edge),
        }
    }
}

fn target(size: Option<ImageSize>) -> Result<Target, BundleError> {
    match size {
        Some(ImageSize { height: Some(height), width: Some(width), .. })
            if height > 0 && width > 0 =>
        {
            Ok(Target::Exact { width, height })
        }
        Some(ImageSize { shortest_edge: Some(edge), longest_edge: None, .. }) if edge > 0 => {
            Ok(Target::ShortestEdge { edge })
        }
        other => Err(inconsistent(format!("`size` is {other:?}"))),
    }
}

fn inconsistent(message: String) -> BundleError {
    BundleError::Inconsistent { file: FILE, message }
}

/// Returns the centre, with black where the image is smaller (`center_crop` of transformers).
fn center_crop(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let mut pixels = vec![0; width * height * 3];
    // Where to start in the source, where in the target, and how much: per axis.
    let axis = |source: usize, target: usize| {
        (source.saturating_sub(target) / 2, target.saturating_sub(source) / 2, source.min(target))
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

/// Computes the value of each level, in `f32` as torchvision does.
#[expect(clippy::cast_possible_truncation, reason = "torch computes these in f32")]
fn levels(config: &ImageProcessorConfig) -> Box<[[f32; 256]; 3]> {
    let mean = config.image_mean.unwrap_or([0.5; 3]);
    let std = config.image_std.unwrap_or([0.5; 3]);
    let factor = config.rescale_factor;
    let mut levels = Box::new([[0.0; 256]; 3]);
    for (channel_idx, channel) in levels.iter_mut().enumerate() {
        let (mean, std) = (mean[channel_idx] as f32, std[channel_idx] as f32);
        for (level, value) in (0_u8..=255).zip(channel.iter_mut()) {
            let x = f32::from(level);
            *value = match (config.do_rescale, config.do_normalize) {
                (true, true) => {
                    let unscale = (1.0 / factor) as f32;
                    (x - mean * unscale) / (std * unscale)
                }
                (true, false) => x * factor as f32,
                (false, true) => (x - mean) / std,
                (false, false) => x,
            };
        }
    }
    levels
}
