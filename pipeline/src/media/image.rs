//! Image bytes to RGB pixels.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    error::UnsupportedErrorKind, metadata::Orientation,
};
use legenda_models::RgbImage;

use super::{
    MediaError,
    damaged::{self, Damage},
    jpeg::JpegDecoder,
    shown_start,
};

const KNOWN: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF";

/// An image whose header was read; its pixels come with [`PendingImage::decode`].
pub struct PendingImage<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    format: String,
    width: u32,
    height: u32,
    decode_bytes: u64,
}

/// What a decoder may take beside pixels: tables, colour profiles, texts. The library's own limit is
/// none for PNG and GIF (image-rs/image#3081), and a text of 4.7 MB can become 1 GiB
/// (image-rs/image-png#696).
const SIDE_BYTES_MAX: u64 = 8 << 20;

/// Bytes per pixel beside the decoded picture itself: its RGB copy, and coefficients or planes of a
/// decoder that needs the whole picture at once (progressive JPEG: 16 bits in each of three).
const WORK_BYTES_PER_PIXEL: u64 = 3 + 6;

/// Returns whether bytes begin like a picture.
pub(super) fn is_known(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok()
}

impl<'a> PendingImage<'a> {
    /// Reads the header of the encoded image `bytes`.
    ///
    /// # Errors
    ///
    /// [`MediaError`] if the format is unknown, the header is damaged, or the image has more than
    /// `pixels_max` pixels.
    ///
    /// # Panics
    ///
    /// Never: reading bytes in memory does not fail.
    pub fn open(bytes: &'a [u8], pixels_max: u64) -> Result<Self, MediaError> {
        Self::open_as(bytes, pixels_max, Damage::Refused)
    }

    pub(super) fn open_as(
        bytes: &'a [u8],
        pixels_max: u64,
        damage: Damage,
    ) -> Result<Self, MediaError> {
        if bytes.is_empty() {
            return Err(MediaError::Empty { kind: "image" });
        }
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .expect("a cursor over bytes in memory does not fail");
        let Some(format) = reader.format() else {
            return Err(MediaError::UnknownFormat {
                kind: "image",
                bytes: bytes.len(),
                start: shown_start(bytes),
                known: KNOWN,
            });
        };
        let name = format!("{format:?}");
        let mut work_bytes = None;
        let mut decoder: Box<dyn ImageDecoder + 'a> = if format == ImageFormat::Jpeg {
            let decoder =
                JpegDecoder::new(bytes, damage).map_err(|error| refused(&name, &error))?;
            work_bytes = Some(decoder.work_bytes());
            Box::new(decoder)
        } else {
            reader.limits(limits(SIDE_BYTES_MAX));
            Box::new(reader.into_decoder().map_err(|error| refused(&name, &error))?)
        };
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > pixels_max {
            return Err(MediaError::TooManyPixels { width, height, pixels_max });
        }
        // The library does not hold decoders to `max_alloc` (image-rs/image#3081), so what they take is
        // bounded by the header, above; this bounds the few that look.
        let picture_bytes = decoder.total_bytes();
        let work_bytes = work_bytes.unwrap_or_else(|| pixels.saturating_mul(WORK_BYTES_PER_PIXEL));
        let decode_bytes = picture_bytes
            .saturating_mul(2)
            .saturating_add(work_bytes)
            .saturating_add(SIDE_BYTES_MAX);
        decoder.set_limits(limits(decode_bytes)).map_err(|error| refused(&name, &error))?;
        Ok(Self { decoder, format: name, width, height, decode_bytes })
    }

    /// Returns width and height in pixels, before the picture is turned.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    /// Returns how much memory decoding takes at most, in bytes: the picture twice (it is copied when
    /// it is turned) and what the decoder works with.
    #[must_use]
    pub fn decode_bytes(&self) -> u64 {
        self.decode_bytes
    }

    /// Decodes the pixels: turned as the EXIF orientation says, alpha dropped without compositing,
    /// as `transformers` 5.23 does (`load_image`, then Pillow's `convert("RGB")`).
    ///
    /// # Errors
    ///
    /// [`MediaError::Damaged`] with the decoder's reason.
    pub fn decode(mut self) -> Result<RgbImage, MediaError> {
        let format = self.format;
        let orientation = self.decoder.orientation().map_err(|error| refused(&format, &error))?;
        let mut image =
            DynamicImage::from_decoder(self.decoder).map_err(|error| refused(&format, &error))?;
        image.apply_orientation(orientation);
        Ok(to_rgb(image))
    }

    /// Decodes the pixels before what is damaged, if there are any.
    pub(super) fn decode_in_part(mut self) -> Option<RgbImage> {
        let orientation = self.decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = damaged::pixels_in_part(self.decoder)?;
        image.apply_orientation(orientation);
        Some(to_rgb(image))
    }
}

fn to_rgb(image: DynamicImage) -> RgbImage {
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    RgbImage { width, height, pixels: rgb.into_raw() }
}

fn limits(bytes_max: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes_max);
    limits
}

fn refused(format: &str, error: &ImageError) -> MediaError {
    if let ImageError::Unsupported(unsupported) = error
        && let UnsupportedErrorKind::GenericFeature(variant) = unsupported.kind()
    {
        return MediaError::Unsupported { kind: "image", format: variant, known: KNOWN };
    }
    MediaError::Damaged { kind: "image", format: format.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgba, RgbaImage};

    use super::PendingImage;
    use crate::media::MediaError;

    fn png() -> Vec<u8> {
        let mut bytes = Vec::new();
        let image = RgbaImage::from_fn(7, 5, |x, y| {
            Rgba([u8::try_from(x * 30).unwrap(), u8::try_from(y * 40).unwrap(), 9, 0])
        });
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn alpha_is_dropped_not_composited() {
        let image = PendingImage::open(&png(), 100).unwrap().decode().unwrap();
        assert_eq!((image.width, image.height), (7, 5));
        assert_eq!(image.pixels[..6], [0, 0, 9, 30, 0, 9]);
    }

    #[test]
    fn bad_bytes_are_told_apart() {
        let code = |bytes: &[u8], pixels_max| {
            PendingImage::open(bytes, pixels_max).and_then(PendingImage::decode).unwrap_err().code()
        };
        let png = png();
        assert_eq!(code(b"", 100), "media_empty");
        assert_eq!(code(b"hello, world", 100), "media_unknown_format");
        assert_eq!(code(&png[..png.len() / 2], 100), "media_damaged");
        assert_eq!(code(&png, 34), "image_too_large");
    }

    #[test]
    fn too_many_pixels_are_refused_by_the_header_alone() {
        // Only signature and header of a picture of 60,000 x 60,000 pixels.
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(60_000_u32.to_be_bytes());
        bytes.extend(60_000_u32.to_be_bytes());
        bytes.extend([8, 2, 0, 0, 0]);
        bytes.extend([0; 4]);
        let refused = PendingImage::open(&bytes, 64_000_000).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, MediaError::TooManyPixels { .. } | MediaError::Damaged { .. }),
            "{refused}"
        );
    }
}
