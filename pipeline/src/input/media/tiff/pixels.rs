//! Conversion of TIFF samples to RGB, like Pillow's `convert("RGB")`.

use half::f16;

use super::layout::{Chunk, Color, Layout, SampleKind};
use crate::input::media::{
    cmyk,
    number::{self, ByteOrder},
};

/// The samples of an image that affect its RGB values, in 8 bits.
pub(super) struct Samples<'a> {
    layout: &'a Layout<'a>,
    values: Vec<u8>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(layout: &'a Layout<'a>) -> Self {
        let n_values = layout.width as usize * layout.height as usize * layout.kept_samples();
        Self { layout, values: vec![0; n_values] }
    }

    /// Stores the samples of a decompressed strip or tile; samples beyond the image are dropped.
    pub(super) fn put(&mut self, chunk: &Chunk, data: &[u8], order: ByteOrder) {
        let layout = self.layout;
        let (image_width, kept) = (layout.width as usize, layout.kept_samples());
        let together = layout.samples_together();
        let n_columns = chunk.width.min(image_width - chunk.left);
        let n_rows = chunk.height.min(layout.height as usize - chunk.top);
        let n_taken = if layout.is_planar { 1 } else { kept };
        let row_bytes = layout.row_bytes(chunk.width);
        let is_copied = layout.bits == 8 && layout.color != Color::WhiteIsZero;
        for (row_idx, row) in data.chunks_exact(row_bytes).take(n_rows).enumerate() {
            let start = ((chunk.top + row_idx) * image_width + chunk.left) * kept;
            let target = &mut self.values[start..start + n_columns * kept];
            for (pixel_idx, pixel) in target.chunks_exact_mut(kept).enumerate() {
                let first_idx = pixel_idx * together;
                let pixel = &mut pixel[chunk.plane..][..n_taken];
                if is_copied {
                    pixel.copy_from_slice(&row[first_idx..first_idx + n_taken]);
                    continue;
                }
                for (sample_idx, value) in (first_idx..).zip(pixel) {
                    *value = level(layout, order, row, sample_idx);
                }
            }
        }
    }

    /// Writes the samples as RGB.
    pub(super) fn write_rgb(&self, pixels: &mut [u8]) {
        let Layout { color, is_premultiplied, .. } = *self.layout;
        let kept = self.layout.kept_samples();
        let palette = palette(&self.layout.palette);
        let samples = self.values.chunks_exact(kept);
        for (pixel, samples) in pixels.chunks_exact_mut(3).zip(samples) {
            pixel.copy_from_slice(&match (color, samples) {
                (Color::Palette, [index, ..]) => palette[usize::from(*index)],
                (Color::Rgb, [red, green, blue, alpha]) if is_premultiplied => {
                    [*red, *green, *blue].map(|value| divide(value, *alpha, 0))
                }
                (Color::Rgb, [red, green, blue, ..]) => [*red, *green, *blue],
                (Color::YCbCr, [luma, blue, red, ..]) => from_ycbcr([*luma, *blue, *red]),
                (Color::Cmyk, [cyan, magenta, yellow, key, ..]) => {
                    cmyk::to_rgb([*cyan, *magenta, *yellow, *key])
                }
                // Pillow leaves grey unchanged if alpha is 0.
                (_, [grey, alpha]) if is_premultiplied => [divide(*grey, *alpha, *grey); 3],
                (_, samples) => [samples[0]; 3],
            });
        }
    }
}

/// Returns a sample of a row in 8 bits.
///
/// | samples | here | Pillow 13 |
/// |---|---|---|
/// | grey of 1 to 8 bits | scaled | scaled |
/// | grey of 9 to 16 bits | scaled | clipped at 255 |
/// | grey of more bits, signed, or float | clipped at 0 and 255 | the same |
/// | colours of 16 bits | the high byte | the same |
/// | float colours | scaled from 0 to 1 | not supported |
fn level(layout: &Layout<'_>, order: ByteOrder, row: &[u8], idx: usize) -> u8 {
    let bits = layout.bits;
    let is_grey = matches!(layout.color, Color::WhiteIsZero | Color::BlackIsZero);
    let bytes = || &row[idx * bits / 8..(idx + 1) * bits / 8];
    let value = match (layout.kind, bits) {
        (SampleKind::Float, _) => {
            let value = float(order, bytes());
            return if is_grey { clip_float(value) } else { clip_float(255.0 * value + 0.5) };
        }
        (SampleKind::Signed, 16 | 32 | 64) => return clip(order.signed(bytes())),
        (_, 8) => u64::from(row[idx]),
        (_, 16 | 24 | 32 | 64) => order.unsigned(bytes()),
        _ => number::bits(row, idx * bits, bits),
    };
    let value = match (layout.color, bits) {
        (Color::Palette, _) | (_, 8) => value,
        (Color::WhiteIsZero | Color::BlackIsZero, 17..) => return clip(value.cast_signed()),
        (Color::Rgb | Color::Cmyk | Color::YCbCr, 16..) => value >> (bits - 8),
        _ => {
            let largest = (1 << bits) - 1;
            (value * 255 + largest / 2) / largest
        }
    };
    let value = u8::try_from(value).unwrap_or(u8::MAX);
    if layout.color == Color::WhiteIsZero { 255 - value } else { value }
}

fn float(order: ByteOrder, bytes: &[u8]) -> f64 {
    let number = order.unsigned(bytes);
    match bytes.len() {
        2 => f16::from_bits(u16::try_from(number).unwrap_or_default()).to_f64(),
        4 => f64::from(f32::from_bits(u32::try_from(number).unwrap_or_default())),
        _ => f64::from_bits(number),
    }
}

fn clip(value: i64) -> u8 {
    u8::try_from(value.clamp(0, 255)).unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates")]
fn clip_float(value: f64) -> u8 {
    value as u8
}

/// Divides a premultiplied colour by its alpha; returns `at_zero` if alpha is 0.
fn divide(value: u8, alpha: u8, at_zero: u8) -> u8 {
    match alpha {
        0 => at_zero,
        255 => value,
        _ => u8::try_from(u16::from(value) * 255 / u16::from(alpha)).unwrap_or(u8::MAX),
    }
}

/// Converts a full-range ITU-R BT.601 colour to RGB with rounding.
fn from_ycbcr([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    let [luma, blue, red] = [f64::from(luma), f64::from(blue) - 128.0, f64::from(red) - 128.0];
    let rgb = [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue];
    rgb.map(|value| clip_float(value + 0.5))
}

/// Returns the colours of indices; black beyond the last.
fn palette(entries: &[u64]) -> [[u8; 3]; 256] {
    let n_colors = entries.len() / 3;
    let mut colors = [[0; 3]; 256];
    for (idx, color) in colors.iter_mut().enumerate().take(n_colors) {
        // The high byte of 16 bits, as Pillow.
        *color =
            [0, 1, 2].map(|channel| clip((entries[channel * n_colors + idx] / 256).cast_signed()));
    }
    colors
}
