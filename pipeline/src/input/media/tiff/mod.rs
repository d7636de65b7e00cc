//! TIFF decoding like Pillow, including pixel formats and compressions that the `image` crate does not
//! support.

mod codec;
mod directory;
mod fax;
mod jpeg;
mod layout;
mod pixels;

use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult,
    error::{DecodingError, ImageFormatHint, UnsupportedError, UnsupportedErrorKind},
};

pub(super) use self::directory::Directory;
use self::{layout::Layout, pixels::Samples};

const HINT: ImageFormatHint = ImageFormatHint::Exact(ImageFormat::Tiff);

/// A TIFF file with a parsed first directory.
pub(super) struct TiffDecoder<'a> {
    bytes: &'a [u8],
    layout: Layout<'a>,
}

impl<'a> TiffDecoder<'a> {
    /// Parses the first directory.
    pub(super) fn new(bytes: &'a [u8]) -> ImageResult<Self> {
        let tags = Directory::first(bytes).ok_or_else(|| damaged("invalid header"))?;
        Ok(Self { bytes, layout: Layout::read(&tags)? })
    }

    /// Returns the decoding memory besides pixels in bytes: all samples in 8 bits, and one decompressed strip
    /// or tile.
    pub(super) fn work_bytes(&self) -> u64 {
        let layout = &self.layout;
        let n_pixels = u64::from(layout.width) * u64::from(layout.height);
        n_pixels
            .saturating_mul(layout.kept_samples() as u64)
            .saturating_add((layout.chunk_bytes() as u64).saturating_mul(4))
    }
}

impl ImageDecoder for TiffDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.layout.width, self.layout.height)
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let mut samples = Samples::new(&self.layout);
        let result = self.layout.chunks().try_for_each(|chunk| {
            let (data, order) = codec::decode(self.bytes, &self.layout, &chunk)?;
            samples.put(&chunk, &data, order);
            Ok(())
        });
        samples.write_rgb(pixels);
        result
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

fn damaged(problem: impl ToString) -> ImageError {
    ImageError::Decoding(DecodingError::new(HINT, problem.to_string()))
}

/// Returns the error for an unsupported kind of TIFF.
fn unsupported(with: impl std::fmt::Display) -> ImageError {
    let variant = UnsupportedErrorKind::GenericFeature(format!("TIFF with {with}"));
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(HINT, variant))
}
