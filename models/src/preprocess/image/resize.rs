//! Resizes 8-bit images bit-exactly like the references, in integer arithmetic.
//!
//! Both references filter in fixed point, first along one axis and then along the other, and round
//! to 8 bits in between. They differ in the width of the coefficients.
//!
//! - [`Backend::Torchvision`]: `torchvision` on `uint8` tensors with antialias (ATen, CPU).
//! - [`Backend::Pil`]: Pillow 13 (`Image.resize`).
//!
//! Bit-exactness is tested against stored results of both; see `models/tests/models/golden`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "fixed-point arithmetic as in the references; images have far fewer than 2^31 columns"
)]

use std::ops::Range;

use crate::preprocess::RgbImage;

/// The library whose arithmetic is reproduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// torchvision, the default of transformers 5.
    #[default]
    Torchvision,
    /// Pillow, the default of transformers 4.
    Pil,
}

/// The filters of `resample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Nearest neighbour.
    Nearest,
    /// Lanczos with three lobes.
    Lanczos,
    /// Triangle filter.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    /// Returns the filter with this number in PIL, which processor configs use.
    #[must_use]
    pub fn from_pil(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Nearest),
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    /// Returns half the width of the filter at scale 1, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Nearest => f64::from(u8::from(x < 0.5)),
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                if x < 3.0 {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        let x = x * std::f64::consts::PI;
        x.sin() / x
    }
}

/// Resizes an image to `width` x `height` pixels.
#[must_use]
pub fn resize(
    image: &RgbImage,
    width: usize,
    height: usize,
    filter: Filter,
    backend: Backend,
) -> RgbImage {
    if (image.width, image.height) == (width, height) {
        return image.clone();
    }
    if filter == Filter::Nearest {
        return nearest(image, width, height, backend);
    }
    // Pillow 13 filters vertically first if the height shrinks by much more than the width
    // (`ImagingResample`).
    let (rows_gone, columns_gone) =
        (image.height as i64 - height as i64, image.width as i64 - width as i64);
    let down_first = backend == Backend::Pil && rows_gone > 0 && rows_gone > columns_gone * 2;
    if down_first {
        across(&down(image, height, filter, backend), width, filter, backend)
    } else {
        down(&across(image, width, filter, backend), height, filter, backend)
    }
}

/// The input range of each output position and its integer coefficients.
struct Taps {
    ranges: Vec<Range<usize>>,
    coefficients: Vec<i32>,
    /// The number of coefficients per output position. Shorter ranges leave the rest unused.
    stride: usize,
    precision_bits: u32,
}

impl Taps {
    fn new(n_in: usize, n_out: usize, filter: Filter, backend: Backend) -> Self {
        let scale = n_in as f64 / n_out as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut ranges = Vec::with_capacity(n_out);
        let mut weights = vec![0.0; n_out * stride];
        for (out_idx, weights) in weights.chunks_exact_mut(stride).enumerate() {
            let center = (out_idx as f64 + 0.5) * scale;
            // Truncates first and clamps second, in this order.
            let low = ((center - support + 0.5) as i64).max(0) as usize;
            let high = ((center + support + 0.5) as i64).min(n_in as i64) as usize;
            let mut sum = 0.0;
            for (tap_idx, weight) in weights.iter_mut().enumerate().take(high - low) {
                *weight = filter.weight(((tap_idx + low) as f64 - center + 0.5) * inverse);
                sum += *weight;
            }
            if sum != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= sum);
            }
            ranges.push(low..high);
        }
        let precision_bits = match backend {
            Backend::Pil => PIL_PRECISION_BITS,
            Backend::Torchvision => torchvision_precision_bits(&weights),
        };
        let one = f64::from(1 << precision_bits);
        let coefficients = weights
            .iter()
            .map(|weight| (weight * one + if *weight < 0.0 { -0.5 } else { 0.5 }) as i32)
            .collect();
        Self { ranges, coefficients, stride, precision_bits }
    }

    fn iter(&self) -> impl Iterator<Item = (Range<usize>, &[i32])> {
        self.ranges
            .iter()
            .zip(self.coefficients.chunks_exact(self.stride))
            .map(|(range, coefficients)| (range.clone(), &coefficients[..range.len()]))
    }

    /// Returns the initial value of a sum, so that the shift rounds to nearest.
    fn half(&self) -> i32 {
        1 << (self.precision_bits - 1)
    }

    fn to_u8(&self, sum: i32) -> u8 {
        (sum >> self.precision_bits).clamp(0, 255) as u8
    }
}

/// `PRECISION_BITS` of Pillow: 8 bits of pixel and 2 of overshoot leave 22 of 32.
const PIL_PRECISION_BITS: u32 = 32 - 8 - 2;

/// Returns the largest precision at which every coefficient fits 16 bits (ATen).
fn torchvision_precision_bits(weights: &[f64]) -> u32 {
    let max = weights.iter().copied().fold(0.0, f64::max);
    let fits = |bits: u32| ((0.5 + max * f64::from(1 << (bits + 1))) as i32) < (1 << 15);
    (0..22).find(|bits| !fits(*bits)).unwrap_or(22)
}

/// Filters each row to `width` pixels.
fn across(image: &RgbImage, width: usize, filter: Filter, backend: Backend) -> RgbImage {
    if image.width == width {
        return image.clone();
    }
    let taps = Taps::new(image.width, width, filter, backend);
    let mut pixels = vec![0; width * image.height * 3];
    let rows = image.pixels.chunks_exact(image.width * 3);
    for (source, target) in rows.zip(pixels.chunks_exact_mut(width * 3)) {
        // Arrays of three make each pixel one short vector.
        let (source, _) = source.as_chunks::<3>();
        let (target, _) = target.as_chunks_mut::<3>();
        for ((range, coefficients), pixel) in taps.iter().zip(target) {
            let [mut red, mut green, mut blue] = [taps.half(); 3];
            for ([r, g, b], coefficient) in source[range].iter().zip(coefficients) {
                red += coefficient * i32::from(*r);
                green += coefficient * i32::from(*g);
                blue += coefficient * i32::from(*b);
            }
            *pixel = [taps.to_u8(red), taps.to_u8(green), taps.to_u8(blue)];
        }
    }
    RgbImage { width, height: image.height, pixels }
}

/// Filters each column to `height` pixels, processing whole rows at a time.
fn down(image: &RgbImage, height: usize, filter: Filter, backend: Backend) -> RgbImage {
    if image.height == height {
        return image.clone();
    }
    let taps = Taps::new(image.height, height, filter, backend);
    let row_len = image.width * 3;
    let mut pixels = vec![0; row_len * height];
    let mut sums = vec![0_i32; row_len];
    for ((range, coefficients), target) in taps.iter().zip(pixels.chunks_exact_mut(row_len)) {
        sums.fill(taps.half());
        for (row_idx, coefficient) in range.zip(coefficients) {
            let source = &image.pixels[row_idx * row_len..(row_idx + 1) * row_len];
            for (sum, value) in sums.iter_mut().zip(source) {
                *sum += coefficient * i32::from(*value);
            }
        }
        for (value, sum) in target.iter_mut().zip(&sums) {
            *value = taps.to_u8(*sum);
        }
    }
    RgbImage { width: image.width, height, pixels }
}

fn nearest(image: &RgbImage, width: usize, height: usize, backend: Backend) -> RgbImage {
    let columns = nearest_indices(image.width, width, backend);
    let rows = nearest_indices(image.height, height, backend);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row_idx in rows {
        for column_idx in &columns {
            let at = (row_idx * image.width + column_idx) * 3;
            pixels.extend_from_slice(&image.pixels[at..at + 3]);
        }
    }
    RgbImage { width, height, pixels }
}

fn nearest_indices(n_in: usize, n_out: usize, backend: Backend) -> Vec<usize> {
    match backend {
        Backend::Torchvision => {
            let scale = n_in as f32 / n_out as f32;
            (0..n_out).map(|i| ((i as f32 * scale).floor() as usize).min(n_in - 1)).collect()
        }
        Backend::Pil => {
            // Pillow accumulates the step, including its rounding errors.
            let scale = n_in as f64 / n_out as f64;
            let positions = std::iter::successors(Some(scale * 0.5), |at| Some(at + scale));
            positions.take(n_out).map(|at| (at as usize).min(n_in - 1)).collect()
        }
    }
}
