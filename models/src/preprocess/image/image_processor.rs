//! Pixel values of images, as in the image processors of transformers.

use serde_json::Value;

use super::{
    Backend, Filter, center_crop::PadRounding, center_crop::center_crop, crops::CropPlan,
    crops::CropRules, page::PageRules, patches::ASPECT_RATIO_MAX, patches::PatchRules, resize,
    tiles::FirstSize, tiles::TileRules,
};
use crate::{
    config::{
        BundleError, IMAGE_CLASSES, ImageClass, ImageLayoutKind, ImageProcessorConfig, ImageSize,
    },
    preprocess::{ImageLayout, ProcessError, RgbImage},
    tensors::Tensor,
};

/// Keys that do not affect pixels here: images arrive as RGB, one by one, on the host; images are
/// not padded to each other; crops are not created if `do_pan_and_scan` is off.
const HARMLESS_KEYS: [&str; 16] = [
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
    "_valid_processor_keys",
    "image_seq_length",
    "pan_and_scan_max_num_crops",
    "pan_and_scan_min_crop_size",
    "pan_and_scan_min_ratio_to_activate",
    "video_sampling",
];

/// The additional keys of specific classes.
const PAGE_KEYS: [&str; 4] = ["do_align_long_axis", "do_pad", "do_thumbnail", "random_padding"];
const TILE_KEYS: [&str; 4] =
    ["do_image_splitting", "max_image_size", "do_pad", "return_row_col_info"];
const PATCH_KEYS: [&str; 5] =
    ["min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"];
const CROP_KEYS: [&str; 2] = ["patch_size", "dynamic_hd"];

/// Returns whether a class has a key.
fn has_key(layout: ImageLayoutKind, key: &str) -> bool {
    HARMLESS_KEYS.contains(&key)
        || match layout {
            ImageLayoutKind::Whole => false,
            ImageLayoutKind::Page => PAGE_KEYS.contains(&key),
            ImageLayoutKind::Tiles => TILE_KEYS.contains(&key),
            ImageLayoutKind::Patches => PATCH_KEYS.contains(&key),
            ImageLayoutKind::Crops => CROP_KEYS.contains(&key),
        }
}

/// The target of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Exact { width: usize, height: usize },
    ShortestEdge { edge: usize },
}

/// The geometry of the preprocessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Geometry {
    Whole {
        target: Option<Target>,
        /// The height and width of the crop.
        crop: Option<(usize, usize)>,
    },
    Page(PageRules),
    Tiles(TileRules),
    Patches(PatchRules),
    Crops(CropRules),
}

/// An image as encoder input.
#[derive(Clone, Debug)]
pub(in crate::preprocess) struct Pixels {
    /// `[1, 3, H, W]`, `[tiles or crops, 3, S, S]` or `[patches, values]`.
    pub(in crate::preprocess) values: Tensor<f32>,
    pub(in crate::preprocess) layout: ImageLayout,
}

/// Computes the pixel values of one bundle.
///
/// The steps: resize in 8 bits; crop the centre or split into tiles; rescale and normalise with one
/// table per channel. The table uses torchvision's fused `(x - mean * 255) / (std * 255)` in `f32`,
/// or the two steps of transformers' code for Pillow.
#[derive(Debug)]
pub struct ImageProcessor {
    geometry: Geometry,
    filter: Filter,
    backend: Backend,
    /// The value of each of the 256 levels, per channel.
    levels: Box<[[f32; 256]; 3]>,
}

impl ImageProcessor {
    /// Reads the config.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnsupportedOption`] for an unknown key or value that would change pixels.
    pub fn open(config: &ImageProcessorConfig) -> Result<Self, BundleError> {
        let name = config.class();
        let Some(class) = ImageClass::find(name) else {
            let known = IMAGE_CLASSES.iter().map(|class| class.name);
            let known: Vec<&str> = known.filter(|name| !name.is_empty()).collect();
            return Err(config.origin.unsupported(
                "image_processor_type",
                name.to_owned(),
                known.join(", "),
            ));
        };
        for (key, value) in &config.rest {
            let is_off = value.is_null() || value == &Value::Bool(false);
            if !is_off && !has_key(class.layout, key) {
                return Err(config.origin.unsupported(key, value.to_string(), "none, unknown key"));
            }
        }
        let number = config.resample.unwrap_or(class.resample);
        let Some(filter) = Filter::from_pil(number) else {
            return Err(config.origin.unsupported("resample", number.to_string(), "0, 1, 2, 3"));
        };
        let backend = match config.backend.as_deref() {
            // torchvision lacks this filter in the versions that models were published with.
            None if filter == Filter::Lanczos => Backend::Pil,
            None | Some("torchvision") => Backend::Torchvision,
            Some("pil") => Backend::Pil,
            Some(other) => {
                return Err(config.origin.unsupported(
                    "backend",
                    other.to_owned(),
                    "torchvision, pil",
                ));
            }
        };
        let geometry = match class.layout {
            ImageLayoutKind::Whole => whole(config, class)?,
            ImageLayoutKind::Page => Geometry::Page(PageRules::read(config, backend)?),
            ImageLayoutKind::Tiles => Geometry::Tiles(tile_rules(config)?),
            ImageLayoutKind::Patches => Geometry::Patches(patch_rules(config)?),
            ImageLayoutKind::Crops => Geometry::Crops(crop_rules(config)?),
        };
        Ok(Self { geometry, filter, backend, levels: levels(config, class, backend) })
    }

    /// Returns the layout of its output.
    pub(in crate::preprocess) fn layout(&self) -> ImageLayoutKind {
        match self.geometry {
            Geometry::Whole { .. } => ImageLayoutKind::Whole,
            Geometry::Page(_) => ImageLayoutKind::Page,
            Geometry::Tiles(_) => ImageLayoutKind::Tiles,
            Geometry::Patches(_) => ImageLayoutKind::Patches,
            Geometry::Crops(_) => ImageLayoutKind::Crops,
        }
    }

    /// Returns the peak memory in bytes of [`pixels`](Self::pixels) for an image of this size: the
    /// resized copies and the values.
    pub(in crate::preprocess) fn bytes(&self, width: usize, height: usize) -> usize {
        let pixels = |(width, height): (usize, usize)| width.saturating_mul(height);
        let float = size_of::<f32>();
        // Per channel: the bytes of each resized copy, the values, and their rearranged copy.
        let per_channel = match self.geometry {
            Geometry::Whole { target, crop } => {
                let resized = target.map_or((width, height), |target| target.of(width, height));
                let cropped = crop.map_or(pixels(resized), pixels);
                pixels(resized).saturating_add(cropped.saturating_mul(1 + float))
            }
            Geometry::Page(rules) => {
                let n_pixels = rules.n_pixels(width, height);
                n_pixels.saturating_add((rules.width * rules.height).saturating_mul(float))
            }
            Geometry::Tiles(rules) => {
                let first = rules.first_size(width, height);
                let whole = rules.whole_tiles(first.0, first.1);
                let tiles = pixels(whole).saturating_add(rules.tile * rules.tile);
                pixels(first).saturating_add(tiles.saturating_mul(2 + float))
            }
            Geometry::Patches(rules) => {
                let size = rules.size(width, height).map_or(0, pixels);
                size.saturating_mul(1 + float * (1 + rules.frames))
            }
            Geometry::Crops(rules) => {
                let crop = rules.edge * rules.edge;
                let plan = rules.plan(width, height);
                let crops = plan.map_or(0, |plan| plan.grid.n_crops().saturating_mul(crop));
                crops.saturating_mul(2 * (1 + float))
            }
        };
        per_channel.saturating_mul(3)
    }

    /// Computes the pixel values of one image.
    ///
    /// | class | shape of the values |
    /// |---|---|
    /// | resized whole, or a page | `f32 [1, 3, H, W]` |
    /// | tiles | `f32 [tiles, 3, S, S]`, row by row, the whole image last |
    /// | patches | `f32 [patches, 3 * frames * patch * patch]` |
    /// | crops | `f32 [1 + crops, 3, S, S]`, the whole image first, then row by row |
    ///
    /// # Errors
    ///
    /// [`ProcessError::ImageShape`] if the image is empty or its buffer is not `3 * width * height`
    /// bytes, [`ProcessError::ImageTooNarrow`] if its aspect ratio is too large for patches.
    pub(in crate::preprocess) fn pixels(&self, image: &RgbImage) -> Result<Pixels, ProcessError> {
        let (width, height, n_bytes) = (image.width, image.height, image.pixels.len());
        if n_bytes == 0 || width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(n_bytes)
        {
            return Err(ProcessError::ImageShape { width, height, n_bytes });
        }
        let to = |image: &RgbImage, (width, height): (usize, usize)| {
            resize(image, width, height, self.filter, self.backend)
        };
        match self.geometry {
            Geometry::Whole { target, crop } => {
                let resized = target.map(|target| to(image, target.of(width, height)));
                let cropped = crop.map(|(height, width)| {
                    let image = resized.as_ref().unwrap_or(image);
                    center_crop(image, width, height, PadRounding::of(self.backend))
                });
                self.whole(cropped.as_ref().or(resized.as_ref()).unwrap_or(image))
            }
            Geometry::Page(rules) => self.whole(&rules.lay_out(image, self.filter)?),
            Geometry::Tiles(rules) => {
                let first = to(image, rules.first_size(width, height));
                let whole = to(&first, rules.whole_tiles(first.width, first.height));
                let (rows, columns) = rules.grid(whole.width, whole.height);
                let mut values = Vec::new();
                for tile in rules.cut(&whole) {
                    values.extend(self.planes(&tile));
                }
                values.extend(self.planes(&to(&whole, (rules.tile, rules.tile))));
                let shape = [rows * columns + 1, 3, rules.tile, rules.tile];
                let values = Tensor::new(shape, values)?;
                Ok(Pixels { values, layout: ImageLayout::Tiles { rows, columns } })
            }
            Geometry::Patches(rules) => {
                let Some((new_width, new_height)) = rules.size(width, height) else {
                    let ratio_max = ASPECT_RATIO_MAX;
                    return Err(ProcessError::ImageTooNarrow { width, height, ratio_max });
                };
                let planes = self.planes(&to(image, (new_width, new_height)));
                let grid = rules.grid(new_width, new_height);
                let shape = [grid.iter().product(), rules.patch_len()];
                let values = Tensor::new(shape, rules.lay_out(&planes, new_width, new_height))?;
                Ok(Pixels { values, layout: ImageLayout::Patches(grid) })
            }
            Geometry::Crops(rules) => {
                let Some(CropPlan { size, grid }) = rules.plan(width, height) else {
                    let ratio_max = rules.ratio_max();
                    return Err(ProcessError::ImageTooNarrow { width, height, ratio_max });
                };
                // The filter of the config applies only to the whole image.
                let resized = resize(image, size.0, size.1, Filter::Bilinear, self.backend);
                let planes = self.planes(&rules.pad(&resized, grid));
                let shape = [grid.n_crops(), 3, rules.edge, rules.edge];
                let values = Tensor::new(shape, rules.lay_out(&planes, grid))?;
                Ok(Pixels { values, layout: ImageLayout::Crops(grid) })
            }
        }
    }

    /// Returns the pixel values of an image without resizing.
    fn whole(&self, image: &RgbImage) -> Result<Pixels, ProcessError> {
        let (height, width) = (image.height, image.width);
        let values = Tensor::new([1, 3, height, width], self.planes(image))?;
        Ok(Pixels { values, layout: ImageLayout::Whole { height, width } })
    }

    /// Returns the normalised values of an image, channels first.
    fn planes(&self, image: &RgbImage) -> Vec<f32> {
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
        values
    }
}

impl Target {
    /// Returns the output width and height for an input of this size.
    fn of(self, width: usize, height: usize) -> (usize, usize) {
        match self {
            Self::Exact { width, height } => (width, height),
            // `get_resize_output_image_size` rounds the longer edge down.
            Self::ShortestEdge { edge } if width <= height => (edge, edge * height / width),
            Self::ShortestEdge { edge } => (edge * width / height, edge),
        }
    }
}

fn whole(config: &ImageProcessorConfig, class: &ImageClass) -> Result<Geometry, BundleError> {
    let target = config.do_resize.then(|| target(config, class)).transpose()?;
    let crop = config
        .do_center_crop
        .unwrap_or(false)
        .then(|| match config.crop_size {
            Some(ImageSize { height: Some(height), width: Some(width), .. }) => Ok((height, width)),
            Some(ImageSize { edge: Some(edge), .. }) => Ok((edge, edge)),
            other => Err(config.origin.inconsistent(format!("invalid `crop_size`: {other:?}"))),
        })
        .transpose()?;
    Ok(Geometry::Whole { target, crop })
}

/// Returns an integer of a class-specific key.
fn number(config: &ImageProcessorConfig, key: &str) -> Result<Option<usize>, BundleError> {
    match config.rest.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(config.origin.unsupported(key, value.to_string(), "an integer above 0")),
        },
    }
}

/// `Idefics3ImageProcessor`.
fn tile_rules(config: &ImageProcessorConfig) -> Result<TileRules, BundleError> {
    no_crop(config)?;
    // The default is `{"longest_edge": 4 * 364}`.
    let first = match config.size {
        _ if !config.do_resize => FirstSize::AsItIs,
        None => FirstSize::LongestEdge(4 * 364),
        Some(ImageSize { longest_edge: Some(edge), .. }) if edge > 0 => {
            FirstSize::LongestEdge(edge)
        }
        Some(ImageSize { height: Some(height), width: Some(width), .. })
            if height > 0 && width > 0 =>
        {
            FirstSize::Exact(width, height)
        }
        other => return Err(config.origin.inconsistent(format!("invalid `size`: {other:?}"))),
    };
    let tile = match config.rest.get("max_image_size") {
        None | Some(Value::Null) => 364,
        Some(size) => {
            let edge = size["longest_edge"].as_u64().and_then(|edge| usize::try_from(edge).ok());
            edge.filter(|edge| *edge > 0).ok_or_else(|| {
                config.origin.inconsistent(format!("invalid `max_image_size`: {size}"))
            })?
        }
    };
    let splits = config.rest.get("do_image_splitting").and_then(Value::as_bool).unwrap_or(true);
    Ok(TileRules { first, tile, splits })
}

/// `Qwen2VLImageProcessor`.
fn patch_rules(config: &ImageProcessorConfig) -> Result<PatchRules, BundleError> {
    no_crop(config)?;
    if !config.do_resize {
        return Err(config.origin.unsupported("do_resize", "false".to_owned(), "true"));
    }
    let size = config.size.unwrap_or_default();
    // Separate keys take precedence over those of `size`, which default to those of the class.
    let pixels = |key: &str, in_size: [Option<usize>; 2], default: usize| {
        Ok::<_, BundleError>(number(config, key)?.or(in_size[0]).or(in_size[1]).unwrap_or(default))
    };
    Ok(PatchRules {
        min_pixels: pixels("min_pixels", [size.min_pixels, size.shortest_edge], 56 * 56)?,
        max_pixels: pixels("max_pixels", [size.max_pixels, size.longest_edge], 28 * 28 * 1280)?,
        patch: number(config, "patch_size")?.unwrap_or(14),
        frames: number(config, "temporal_patch_size")?.unwrap_or(2),
        merge: number(config, "merge_size")?.unwrap_or(2),
    })
}

/// The maximum edge and number of crops. Larger values are not plausible.
const CROP_EDGE_MAX: usize = 1 << 14;
const CROPS_MAX: usize = 1 << 12;

/// `Phi4MultimodalImageProcessorFast`.
fn crop_rules(config: &ImageProcessorConfig) -> Result<CropRules, BundleError> {
    no_crop(config)?;
    let edge = match config.size {
        None => 448,
        Some(ImageSize { height: Some(height), width: Some(width), .. }) if height == width => {
            width
        }
        other => return Err(config.origin.inconsistent(format!("invalid `size`: {other:?}"))),
    };
    let rules = CropRules {
        edge,
        patch: number(config, "patch_size")?.unwrap_or(14),
        n_max: number(config, "dynamic_hd")?.unwrap_or(36),
    };
    let resample = config.resample.unwrap_or(3);
    if !config.do_resize || resample != 3 {
        return Err(config.origin.unsupported(
            "resample",
            resample.to_string(),
            "3 with `do_resize`",
        ));
    }
    if rules.edge == 0 || !rules.edge.is_multiple_of(rules.patch) {
        return Err(config
            .origin
            .inconsistent(format!("`size` {edge} is not a multiple of `patch_size`")));
    }
    // Prevents overflow in products of sizes.
    if edge > CROP_EDGE_MAX || rules.n_max > CROPS_MAX {
        let message = format!("`size` {edge} or `dynamic_hd` {} is too large", rules.n_max);
        return Err(config.origin.inconsistent(message));
    }
    Ok(rules)
}

pub(super) fn no_crop(config: &ImageProcessorConfig) -> Result<(), BundleError> {
    match config.do_center_crop {
        Some(true) => Err(config.origin.unsupported("do_center_crop", "true".to_owned(), "false")),
        _ => Ok(()),
    }
}

fn target(config: &ImageProcessorConfig, class: &ImageClass) -> Result<Target, BundleError> {
    match config.size {
        Some(ImageSize { height: Some(height), width: Some(width), .. })
            if height > 0 && width > 0 =>
        {
            Ok(Target::Exact { width, height })
        }
        Some(ImageSize { shortest_edge: Some(edge), longest_edge: None, .. }) if edge > 0 => {
            Ok(Target::ShortestEdge { edge })
        }
        // Older configs: `get_size_dict` converts a single number to a square, except for CLIP.
        Some(ImageSize { edge: Some(edge), .. }) if edge > 0 => Ok(if class.sizes_shorter_edge {
            Target::ShortestEdge { edge }
        } else {
            Target::Exact { width: edge, height: edge }
        }),
        Some(ImageSize { pair: Some([height, width]), .. }) if height > 0 && width > 0 => {
            Ok(Target::Exact { width, height })
        }
        other => Err(config.origin.inconsistent(format!("invalid `size`: {other:?}"))),
    }
}

/// Computes the value of each level in `f32`, as transformers does with either back end.
#[expect(clippy::cast_possible_truncation, reason = "the references compute these in f32")]
fn levels(
    config: &ImageProcessorConfig,
    class: &ImageClass,
    backend: Backend,
) -> Box<[[f32; 256]; 3]> {
    let [default_mean, default_std] = class.normalization;
    let mean = config.image_mean.unwrap_or(default_mean);
    let std = config.image_std.unwrap_or(default_std);
    let factor = config.rescale_factor;
    let mut levels = Box::new([[0.0; 256]; 3]);
    for (channel_idx, channel) in levels.iter_mut().enumerate() {
        let (mean, std) = (mean[channel_idx] as f32, std[channel_idx] as f32);
        for (level, value) in (0_u8..=255).zip(channel.iter_mut()) {
            let x = f32::from(level);
            *value = match (config.do_rescale, config.do_normalize, backend) {
                (true, true, Backend::Torchvision) => {
                    let unscale = (1.0 / factor) as f32;
                    (x - mean * unscale) / (std * unscale)
                }
                (true, true, Backend::Pil) => ((f64::from(level) * factor) as f32 - mean) / std,
                (true, false, Backend::Torchvision) => x * factor as f32,
                (true, false, Backend::Pil) => (f64::from(level) * factor) as f32,
                (false, true, _) => (x - mean) / std,
                (false, false, _) => x,
            };
        }
    }
    levels
}
