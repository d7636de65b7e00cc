//! The first frame of a GIF file on its canvas, as in Pillow.

use std::io;

use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};
use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult,
    error::{DecodingError as ImageDecodingError, ImageFormatHint},
};

/// A GIF decoder positioned before the pixels of the first frame.
pub(super) struct GifDecoder<'a> {
    decoder: Decoder<&'a [u8]>,
    width: u32,
    height: u32,
}

impl<'a> GifDecoder<'a> {
    /// Reads up to the pixels of the first frame.
    pub(super) fn new(bytes: &'a [u8]) -> ImageResult<Self> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::Indexed);
        options.set_memory_limit(MemoryLimit::Unlimited);
        let mut decoder = options.read_info(bytes).map_err(damaged)?;
        let canvas = [decoder.width(), decoder.height()].map(u32::from);
        let Some(frame) = decoder.next_frame_info().map_err(damaged)? else {
            return Err(ImageError::IoError(io::ErrorKind::UnexpectedEof.into()));
        };
        // A frame may exceed the canvas, which then grows.
        let [left, top, width, height] =
            [frame.left, frame.top, frame.width, frame.height].map(u32::from);
        Ok(Self {
            decoder,
            width: canvas[0].max(left + width),
            height: canvas[1].max(top + height),
        })
    }
}

impl ImageDecoder for GifDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    /// Writes the frame; the canvas around it has the colour of the transparent index, or of index 0.
    fn read_image(mut self, pixels: &mut [u8]) -> ImageResult<()> {
        // Indices without a colour, and all indices without a palette, are shades of grey.
        let mut palette = [0_u8; 256 * 3];
        for (shade, color) in (0..=255).zip(palette.chunks_exact_mut(3)) {
            color.fill(shade);
        }
        let frame = self.decoder.current_frame_info().cloned().unwrap_or_default();
        let colors = frame.palette.as_deref().or_else(|| self.decoder.global_palette());
        let colors = colors.unwrap_or_default();
        palette[..colors.len()].copy_from_slice(colors);
        let color = |index: u8| &palette[usize::from(index) * 3..][..3];

        let around = color(frame.transparent.unwrap_or(0));
        let mut indices = vec![frame.transparent.unwrap_or(0); self.decoder.buffer_size()];
        let result = self.decoder.read_into_buffer(&mut indices);
        for pixel in pixels.chunks_exact_mut(3) {
            pixel.copy_from_slice(around);
        }
        let [left, top, width] = [frame.left, frame.top, frame.width].map(usize::from);
        for (row_idx, row) in indices.chunks_exact(width.max(1)).enumerate() {
            let start = ((top + row_idx) * self.width as usize + left) * 3;
            for (pixel, index) in pixels[start..].chunks_exact_mut(3).zip(row) {
                pixel.copy_from_slice(color(*index));
            }
        }
        result.map_err(damaged)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

fn damaged(error: DecodingError) -> ImageError {
    let hint = ImageFormatHint::Exact(ImageFormat::Gif);
    ImageError::Decoding(ImageDecodingError::new(hint, error))
}
