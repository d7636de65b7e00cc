//! JPEG strips and tiles of a TIFF file.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageResult, codecs::jpeg::JpegDecoder};

use super::{
    damaged,
    layout::{Color, Layout},
    unsupported,
};

/// Adobe's marker up to its last byte, which says whether three components are RGB (0) or YCbCr (1).
const ADOBE: &[u8] = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0";

/// Decodes a strip or tile to grey or RGB.
pub(super) fn decode(
    encoded: &[u8],
    layout: &Layout<'_>,
    (width, height): (usize, usize),
) -> ImageResult<Vec<u8>> {
    let stream = stream(encoded, layout);
    let decoder = JpegDecoder::new(Cursor::new(&stream))?;
    let (jpeg_width, jpeg_height) = decoder.dimensions();
    // The last strip may have more rows than remain in the image.
    if jpeg_width as usize != width || (jpeg_height as usize) < height {
        return Err(damaged("a JPEG strip has the wrong size"));
    }
    let image = DynamicImage::from_decoder(decoder)?;
    let mut data = match layout.samples_together() {
        1 => image.into_luma8().into_raw(),
        3 => image.into_rgb8().into_raw(),
        other => return Err(unsupported(format!("JPEG compression of {other} samples"))),
    };
    data.truncate(width * height * layout.samples_together());
    Ok(data)
}

/// Assembles a JPEG file from a strip or tile. Common tables may be in the directory, stored as a file
/// without an image; the meaning of components always is.
fn stream(encoded: &[u8], layout: &Layout<'_>) -> Vec<u8> {
    let mut stream = b"\xff\xd8".to_vec();
    if let transform @ (Color::Rgb | Color::YCbCr) = layout.coded_color {
        stream.extend_from_slice(ADOBE);
        stream.push(u8::from(transform == Color::YCbCr));
    }
    let tables = layout.jpeg_tables.unwrap_or_default();
    let tables = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables);
    stream.extend_from_slice(tables.get(2..).unwrap_or_default());
    stream.extend_from_slice(encoded.get(2..).unwrap_or_default());
    stream
}
