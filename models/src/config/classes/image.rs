//! The published classes of image processors (transformers 4.57), one per line.

/// The output layouts of image processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageLayoutKind {
    /// One image, resized and cropped.
    Whole,
    /// One page, rotated, resized and padded.
    Page,
    /// Tiles, and the whole image resized to one tile.
    Tiles,
    /// Patches, in merge order.
    Patches,
    /// The whole image, then crops in rows and columns.
    Crops,
}

/// An image processor. Its name excludes the suffix `Fast` of the torchvision variant.
#[derive(Debug)]
pub(crate) struct ImageClass {
    pub(crate) name: &'static str,
    pub(crate) layout: ImageLayoutKind,
    /// PIL's number of the default filter.
    pub(crate) resample: u8,
    /// The default mean and standard deviation of each channel.
    pub(crate) normalization: [[f64; 3]; 2],
    /// Whether a single number for a size is the shorter edge; otherwise it is both edges.
    pub(crate) sizes_shorter_edge: bool,
}

const LANCZOS: u8 = 1;
const BILINEAR: u8 = 2;
const BICUBIC: u8 = 3;

/// A mean and a standard deviation of 0.5.
const HALVES: [[f64; 3]; 2] = [[0.5; 3]; 2];

/// OpenAI's mean and standard deviation, the default of CLIP's vision encoders.
const OPENAI: [[f64; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]];

const fn class(name: &'static str, layout: ImageLayoutKind, resample: u8) -> ImageClass {
    ImageClass { name, layout, resample, normalization: HALVES, sizes_shorter_edge: false }
}

const fn clip(name: &'static str) -> ImageClass {
    let class = class(name, ImageLayoutKind::Whole, BICUBIC);
    ImageClass { normalization: OPENAI, sizes_shorter_edge: true, ..class }
}

/// The known classes, in the order of error messages. Older configs do not name a class.
pub(crate) static IMAGE_CLASSES: [ImageClass; 16] = [
    class("SiglipImageProcessor", ImageLayoutKind::Whole, BICUBIC),
    clip("CLIPImageProcessor"),
    clip("CLIPFeatureExtractor"),
    class("ViTImageProcessor", ImageLayoutKind::Whole, BILINEAR),
    class("ViTFeatureExtractor", ImageLayoutKind::Whole, BILINEAR),
    class("DeiTImageProcessor", ImageLayoutKind::Whole, BICUBIC),
    class("DeiTFeatureExtractor", ImageLayoutKind::Whole, BICUBIC),
    class("BlipImageProcessor", ImageLayoutKind::Whole, BICUBIC),
    class("Gemma3ImageProcessor", ImageLayoutKind::Whole, BILINEAR),
    class("", ImageLayoutKind::Whole, BICUBIC),
    class("DonutImageProcessor", ImageLayoutKind::Page, BILINEAR),
    class("DonutFeatureExtractor", ImageLayoutKind::Page, BILINEAR),
    class("Idefics3ImageProcessor", ImageLayoutKind::Tiles, LANCZOS),
    class("SmolVLMImageProcessor", ImageLayoutKind::Tiles, LANCZOS),
    ImageClass {
        normalization: OPENAI,
        ..class("Qwen2VLImageProcessor", ImageLayoutKind::Patches, BICUBIC)
    },
    class("Phi4MultimodalImageProcessor", ImageLayoutKind::Crops, BICUBIC),
];

impl ImageClass {
    /// Returns the class with this name, with or without `Fast`.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        let name = name.strip_suffix("Fast").unwrap_or(name);
        IMAGE_CLASSES.iter().find(|class| class.name == name)
    }

    /// Returns the name of the first class with this layout.
    pub(crate) fn of_layout(layout: ImageLayoutKind) -> &'static str {
        IMAGE_CLASSES.iter().find(|class| class.layout == layout).map_or("", |class| class.name)
    }
}
