//! Decodes image bytes to RGB pixels.

use std::{
    borrow::Cow,
    io::{Cursor, ErrorKind},
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits,
    codecs::webp::WebPDecoder, error::UnsupportedErrorKind,
};
use legenda_models::RgbImage;

use super::{
    MediaError,
    damaged::{self, Damage},
    error::shown_start,
    format::{Format, no_image, other_image},
    gif::GifDecoder,
    heif::HeifDecoder,
    ico,
    jpeg::JpegDecoder,
    orientation::orientation,
    tiff::TiffDecoder,
};

const KNOWN: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF, ICO, PNM, and with libheif HEIC and AVIF";

/// An image with a parsed header; [`PendingImage::decode`] decodes its pixels.
pub struct PendingImage<'a> {
    bytes: &'a [u8],
    decoder: Box<dyn ImageDecoder + 'a>,
    format: Format,
    width: u32,
    height: u32,
    decode_bytes: u64,
}

/// The maximum memory of a decoder besides pixels: tables, colour profiles, texts. The library has no limit
/// for PNG and GIF (image-rs/image#3081), and a text of 4.7 MB can decompress to 1 GiB
/// (image-rs/image-png#696).
const SIDE_BYTES_MAX: u64 = 8 << 20;

/// Working bytes per pixel besides the decoded image: its RGB copy, and the coefficients or planes of a
/// decoder that needs the whole image at once (progressive JPEG: 16 bits for each of three components).
const WORK_BYTES_PER_PIXEL: u64 = 3 + 6;

/// Returns whether bytes have the magic of an image format, decodable or not.
pub(super) fn is_known(bytes: &[u8]) -> bool {
    Format::from_bytes(bytes).is_some() || other_image(bytes).is_some()
}

impl<'a> PendingImage<'a> {
    /// Parses the header of the encoded image `bytes`.
    ///
    /// # Errors
    ///
    /// [`MediaError`] if the format is unknown or not supported, the header is damaged, or the image has
    /// more than `pixels_max` pixels.
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
        let Some(format) = Format::from_bytes(bytes) else {
            return Err(match other_image(bytes).or_else(|| no_image(bytes)) {
                Some(name) => unsupported(name.to_owned()),
                None => MediaError::UnknownFormat {
                    kind: "image",
                    bytes: bytes.len(),
                    start: shown_start(bytes),
                    known: KNOWN,
                },
            });
        };
        let (mut decoder, work_bytes) =
            decoder(bytes, format, damage).map_err(|error| refused(format, &error))?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > pixels_max {
            return Err(MediaError::TooManyPixels { width, height, pixels_max });
        }
        // The library does not enforce `max_alloc` on decoders (image-rs/image#3081), so their memory is
        // bounded by the header check above; this bounds the few that respect it.
        let image_bytes = decoder.total_bytes();
        let work_bytes = work_bytes.unwrap_or_else(|| pixels.saturating_mul(WORK_BYTES_PER_PIXEL));
        let decode_bytes =
            image_bytes.saturating_mul(2).saturating_add(work_bytes).saturating_add(SIDE_BYTES_MAX);
        decoder.set_limits(limits(decode_bytes)).map_err(|error| refused(format, &error))?;
        Ok(Self { bytes, decoder, format, width, height, decode_bytes })
    }

    /// Returns width and height in pixels, before orientation is applied.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    /// Returns the peak memory of decoding in bytes: the image twice (it is copied when it is rotated) and
    /// the decoder's working memory.
    #[must_use]
    pub fn decode_bytes(&self) -> u64 {
        self.decode_bytes
    }

    /// Decodes the pixels: applies the EXIF or XMP orientation, drops alpha without compositing, and uses the
    /// first frame of an animation on its canvas, like `transformers` 5.23 (`load_image`, then
    /// `convert("RGB")` of Pillow 13).
    ///
    /// 9- to 16-bit grey is scaled to 8 bits; Pillow clips it, which turns most such images white.
    ///
    /// # Errors
    ///
    /// [`MediaError::Damaged`] or [`MediaError::Unsupported`] with the decoder's reason.
    pub fn decode(self) -> Result<RgbImage, MediaError> {
        let Self { bytes, mut decoder, format, .. } = self;
        let orientation = orientation(bytes, format, &mut *decoder);
        let mut image =
            DynamicImage::from_decoder(decoder).map_err(|error| refused(format, &error))?;
        image.apply_orientation(orientation);
        Ok(to_rgb(image, format))
    }

    /// Decodes the pixels before the damage, if there are any.
    pub(super) fn decode_in_part(self) -> Option<RgbImage> {
        let Self { bytes, mut decoder, format, .. } = self;
        let orientation = orientation(bytes, format, &mut *decoder);
        let mut image = damaged::pixels_in_part(decoder)?;
        image.apply_orientation(orientation);
        Some(to_rgb(image, format))
    }
}

/// Returns the decoder of an image, and its memory besides pixels if it reports it.
fn decoder<'a>(
    bytes: &'a [u8],
    format: Format,
    damage: Damage,
) -> ImageResult<(Box<dyn ImageDecoder + 'a>, Option<u64>)> {
    let builtin = match format {
        Format::Heif(name) => return Ok((Box::new(HeifDecoder::new(bytes, name)?), None)),
        Format::Builtin(builtin) => builtin,
    };
    let decoder: Box<dyn ImageDecoder + 'a> = match builtin {
        ImageFormat::Jpeg => {
            let decoder = JpegDecoder::new(bytes, damage)?;
            let work_bytes = Some(decoder.work_bytes());
            return Ok((Box::new(decoder), work_bytes));
        }
        ImageFormat::Gif => Box::new(GifDecoder::new(bytes)?),
        ImageFormat::Tiff => {
            let decoder = TiffDecoder::new(bytes)?;
            let work_bytes = Some(decoder.work_bytes());
            return Ok((Box::new(decoder), work_bytes));
        }
        ImageFormat::Ico => ico::decoder(bytes)
            .unwrap_or_else(|| Err(ImageError::IoError(ErrorKind::UnexpectedEof.into())))?,
        ImageFormat::WebP => Box::new(WebPDecoder::new(Cursor::new(without_announcements(bytes)))?),
        _ => {
            let mut reader = ImageReader::with_format(Cursor::new(bytes), builtin);
            reader.limits(limits(SIDE_BYTES_MAX));
            Box::new(reader.into_decoder()?)
        }
    };
    Ok((decoder, None))
}

/// Clears the header flags of a WebP file that announce EXIF, XMP and a colour profile: the decoder does not
/// need them, and rejects files in which an announced chunk is missing.
fn without_announcements(bytes: &[u8]) -> Cow<'_, [u8]> {
    const FLAGS: usize = 20;
    const ANNOUNCEMENTS: u8 = 0x20 | 0x08 | 0x04;
    let mut bytes = Cow::Borrowed(bytes);
    if bytes.get(12..16) == Some(b"VP8X")
        && bytes.get(FLAGS).is_some_and(|flags| flags & ANNOUNCEMENTS != 0)
    {
        bytes.to_mut()[FLAGS] &= !ANNOUNCEMENTS;
    }
    bytes
}

/// Drops alpha. For 16-bit samples, PNG keeps the high byte like Pillow; grey without alpha, and PNM, are
/// rounded.
fn to_rgb(image: DynamicImage, format: Format) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high = |sample: u16| sample.to_be_bytes()[0];
    let pixels = match image {
        DynamicImage::ImageRgb16(image) if format == Format::Builtin(ImageFormat::Png) => {
            image.into_raw().into_iter().map(high).collect()
        }
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|pixel| [0, 1, 2].map(|idx| high(pixel.0[idx]))).collect()
        }
        DynamicImage::ImageLumaA16(image) => {
            image.pixels().flat_map(|pixel| [high(pixel.0[0]); 3]).collect()
        }
        image => image.into_rgb8().into_raw(),
    };
    RgbImage { width, height, pixels }
}

fn limits(bytes_max: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes_max);
    limits
}

/// Converts a decoder's error. The decoders of this crate put the name of an unsupported variant, such as
/// `TIFF with LZMA compression`, into [`UnsupportedErrorKind::GenericFeature`].
fn refused(format: Format, error: &ImageError) -> MediaError {
    match error {
        ImageError::Unsupported(error) => match error.kind() {
            UnsupportedErrorKind::GenericFeature(variant) => unsupported(variant),
            _ => unsupported(format!("{format} ({error})")),
        },
        _ => {
            let format = format.to_string();
            MediaError::Damaged { kind: "image", format, problem: error.to_string() }
        }
    }
}

fn unsupported(format: String) -> MediaError {
    MediaError::Unsupported { kind: "image", format, known: KNOWN }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgba, RgbaImage};

    use super::PendingImage;
    use crate::input::media::MediaError;

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
    fn invalid_bytes_have_specific_errors() {
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
    fn formats_that_are_not_decoded_are_named() {
        let refused = |bytes: &[u8]| PendingImage::open(bytes, 100).map(|_| ()).unwrap_err();
        let jpeg_xl = b"\0\0\0\x0cJXL \r\n\x87\n";
        assert_eq!(refused(jpeg_xl).code(), "media_unsupported");
        assert_eq!(
            refused(jpeg_xl).to_string(),
            "JPEG XL is not supported; supported formats of the image column: PNG, JPEG, WebP, GIF, \
             BMP, TIFF, ICO, PNM, and with libheif HEIC and AVIF"
        );
        // A TIFF file of 1 x 1 pixel with LZMA compression.
        let mut tiff = b"II*\0\x08\0\0\0\x05\0".to_vec();
        for (tag, value) in [(256_u16, 1_u16), (257, 1), (259, 34925), (262, 1), (273, 8)] {
            tiff.extend([tag, 3, 1, 0, value, 0].into_iter().flat_map(u16::to_le_bytes));
        }
        assert_eq!(refused(&tiff).code(), "media_unsupported");
        assert!(refused(&tiff).to_string().starts_with("TIFF with LZMA compression is not"));
    }

    #[test]
    fn too_many_pixels_are_refused_by_the_header_alone() {
        // Only the signature and header of an image of 60,000 x 60,000 pixels.
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
