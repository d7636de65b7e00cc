//! JPEG decoding, bit-identical to Pillow with the cargo feature `mozjpeg` (libjpeg-turbo's code with its
//! defaults); without it, the `image` crate decodes pixels that differ by up to 4/255.
//!
//! A damaged file is an error, not an image with grey or smeared parts.

#[cfg(feature = "mozjpeg")]
mod libjpeg;
mod markers;
#[cfg(not(feature = "mozjpeg"))]
mod pure;

use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult,
    error::{DecodingError, ImageFormatHint, UnsupportedError, UnsupportedErrorKind},
};

#[cfg(feature = "mozjpeg")]
use self::libjpeg as backend;
use self::markers::{Fault, Header};
#[cfg(not(feature = "mozjpeg"))]
use self::pure as backend;
use super::damaged::Damage;

/// The maximum number of scans. Each costs time for every pixel, but may be a few bytes long. Encoders write
/// up to about 70; the limit is that of libjpeg-turbo's own fuzzers.
const SCANS_MAX: usize = 500;

/// Bytes per pixel of a decoder's coefficients and rows: 16 bits for each of four components, and the four
/// CMYK components.
const WORK_BYTES_PER_PIXEL: u64 = 2 * 4 + 4;

/// The maximum padding in width and height: blocks are whole, and components have whole units of up to 4 x 4
/// blocks.
const PADDING: u64 = 32;

/// A JPEG file with a parsed header.
pub(super) struct JpegDecoder<'a> {
    bytes: &'a [u8],
    header: Header,
    damage: Damage,
}

impl<'a> JpegDecoder<'a> {
    /// Parses the header of the file `bytes`.
    pub(super) fn new(bytes: &'a [u8], damage: Damage) -> ImageResult<Self> {
        let header = Header::read(bytes).map_err(image_error)?;
        Ok(Self { bytes, header, damage })
    }

    /// Returns the decoding memory besides pixels, in bytes.
    pub(super) fn work_bytes(&self) -> u64 {
        let padded = |side: u16| u64::from(side) + PADDING;
        padded(self.header.width) * padded(self.header.height) * WORK_BYTES_PER_PIXEL
    }
}

impl ImageDecoder for JpegDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.header.width.into(), self.header.height.into())
    }

    fn color_type(&self) -> ColorType {
        if self.header.sampling.len() == 1 { ColorType::L8 } else { ColorType::Rgb8 }
    }

    fn exif_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        Ok(self.header.exif.clone())
    }

    fn xmp_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        Ok(self.header.xmp.clone())
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let scans = self.header.scans(self.bytes);
        if scans.n_scans > SCANS_MAX {
            let kind = if self.header.is_progressive { "progressive" } else { "sequential" };
            let variant = format!("{kind} JPEG with {} scans (at most {SCANS_MAX})", scans.n_scans);
            return Err(image_error(Fault::Unsupported(variant)));
        }
        if !scans.has_data {
            return Err(image_error(Fault::Damaged(
                "unexpected end of file before the pixels".to_owned(),
            )));
        }
        if !scans.has_end && self.damage == Damage::Refused {
            let problem = "unexpected end of file: the marker EOI is missing";
            return Err(image_error(Fault::Damaged(problem.to_owned())));
        }
        backend::decode(self.bytes, &self.header, scans, self.damage, pixels).map_err(image_error)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

fn image_error(fault: Fault) -> ImageError {
    let format = ImageFormatHint::Exact(ImageFormat::Jpeg);
    match fault {
        Fault::Damaged(problem) => ImageError::Decoding(DecodingError::new(format, problem)),
        Fault::Unsupported(variant) => {
            ImageError::Unsupported(UnsupportedError::from_format_and_kind(
                format,
                UnsupportedErrorKind::GenericFeature(variant),
            ))
        }
    }
}
