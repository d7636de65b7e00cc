//! The decoder of TIFF files.

use image::{ColorType, ImageDecoder, ImageResult};

use super::{codec, directory::Directory, error::damaged, layout::Layout, pixels::Samples};

/// A TIFF file with a parsed first directory.
pub(in crate::input::media) struct TiffDecoder<'a> {
    bytes: &'a [u8],
    layout: Layout<'a>,
}

impl<'a> TiffDecoder<'a> {
    /// Parses the first directory.
    pub(in crate::input::media) fn new(bytes: &'a [u8]) -> ImageResult<Self> {
        let tags = Directory::first(bytes).ok_or_else(|| damaged("invalid header"))?;
        Ok(Self { bytes, layout: Layout::read(&tags)? })
    }

    /// Returns the decoding memory besides pixels in bytes: all samples in 8 bits, and one decompressed strip
    /// or tile.
    pub(in crate::input::media) fn work_bytes(&self) -> u64 {
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
