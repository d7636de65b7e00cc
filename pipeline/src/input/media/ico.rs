//! The image of an ICO file, selected as in Pillow.

use std::io::Cursor;

use image::{
    ImageDecoder, ImageResult,
    codecs::{bmp::BmpDecoder, png::PngDecoder},
};

/// Opens the largest image; among several, the one with the fewest bits, and then the first.
///
/// An entry is a PNG file, or a BMP file without its file header and with a mask of the same number of rows
/// after the pixels, which is only counted in the height.
pub(super) fn decoder(bytes: &[u8]) -> Option<ImageResult<Box<dyn ImageDecoder + '_>>> {
    let n_entries = usize::from(u16::from_le_bytes(*bytes.get(4..)?.first_chunk()?));
    let entries = bytes.get(6..)?.chunks_exact(16).take(n_entries);
    let entry = entries.min_by_key(|entry| {
        let [width, height] = [entry[0], entry[1]].map(|edge| u32::from(edge.wrapping_sub(1)) + 1);
        (u32::MAX - width * height, color_depth(entry))
    })?;
    let [n_bytes, start] =
        [8, 12].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|idx| entry[at + idx])));
    // Sizes are often wrong and not needed.
    let image = bytes.get(start as usize..).filter(|_| n_bytes > 0)?;
    if image.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(PngDecoder::new(Cursor::new(image)).map(|decoder| Box::new(decoder) as _));
    }
    let height = i32::from_le_bytes(*image.get(8..)?.first_chunk()?);
    let mut bitmap = image.to_vec();
    bitmap[8..12].copy_from_slice(&(height / 2).to_le_bytes());
    let decoder = BmpDecoder::new_without_file_header(Cursor::new(bitmap));
    Some(decoder.map(|decoder| Box::new(decoder) as _))
}

/// Returns the bits per pixel, which may have to be derived from the number of colours.
fn color_depth(entry: &[u8]) -> u32 {
    match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
        (0, 0) => 256,
        (0, n_colors) => u32::from(n_colors).next_power_of_two().ilog2(),
        (bits, _) => u32::from(bits),
    }
}
