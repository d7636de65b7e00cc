//! Damaged images: rejected or partly decoded, depending on `limits.damaged_media`.

use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder};
use legenda_models::RgbImage;
use legenda_schemas::{
    flag::{Flag, Flags},
    job::DamagedMedia,
};

use super::{Decoded, MediaError, image::PendingImage};

/// How a decoder treats damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Damage is an error.
    Refused,
    /// Damage is ignored.
    Ignored,
}

/// Decodes the image `bytes` like [`PendingImage::decode`]. Depending on `damaged_media`, a damaged image is
/// an error, or is decoded as far as possible with [`Flag::MediaDamaged`].
///
/// # Errors
///
/// As for [`PendingImage::open`] and [`PendingImage::decode`]; also [`MediaError::Damaged`] if nothing can be
/// decoded.
pub fn decode_image(
    bytes: &[u8],
    pixels_max: u64,
    damaged_media: DamagedMedia,
) -> Result<Decoded<RgbImage>, MediaError> {
    match PendingImage::open(bytes, pixels_max)?.decode() {
        Err(error @ MediaError::Damaged { .. }) if damaged_media == DamagedMedia::Answer => {
            let pending = PendingImage::open_as(bytes, pixels_max, Damage::Ignored)?;
            let media = pending.decode_in_part().ok_or(error)?;
            Ok(Decoded { media, flags: Flags::from([Flag::MediaDamaged]) })
        }
        decoded => Ok(decoded?.into()),
    }
}

/// Decodes as many pixels as possible before damage; the other pixels are black. Returns `None` if all
/// pixels are equal, because then nothing was decoded.
pub(super) fn pixels_in_part(decoder: Box<dyn ImageDecoder + '_>) -> Option<DynamicImage> {
    let color_type = decoder.color_type();
    let (width, height) = decoder.dimensions();
    let mut bytes = vec![0; usize::try_from(decoder.total_bytes()).ok()?];
    // Pixels decoded before an error are kept.
    decoder.read_image_boxed(&mut bytes).ok();
    let first = bytes.first().copied()?;
    if bytes.iter().all(|byte| *byte == first) {
        return None;
    }
    from_bytes(color_type, width, height, bytes)
}

/// Creates an image from the bytes written by a decoder.
fn from_bytes(
    color_type: ColorType,
    width: u32,
    height: u32,
    bytes: Vec<u8>,
) -> Option<DynamicImage> {
    let wide =
        |bytes: &[u8]| bytes.as_chunks().0.iter().map(|two| u16::from_ne_bytes(*two)).collect();
    let (w, h) = (width, height);
    Some(match color_type {
        ColorType::L8 => DynamicImage::ImageLuma8(ImageBuffer::from_raw(w, h, bytes)?),
        ColorType::La8 => DynamicImage::ImageLumaA8(ImageBuffer::from_raw(w, h, bytes)?),
        ColorType::Rgb8 => DynamicImage::ImageRgb8(ImageBuffer::from_raw(w, h, bytes)?),
        ColorType::Rgba8 => DynamicImage::ImageRgba8(ImageBuffer::from_raw(w, h, bytes)?),
        ColorType::L16 => DynamicImage::ImageLuma16(ImageBuffer::from_raw(w, h, wide(&bytes))?),
        ColorType::La16 => DynamicImage::ImageLumaA16(ImageBuffer::from_raw(w, h, wide(&bytes))?),
        ColorType::Rgb16 => DynamicImage::ImageRgb16(ImageBuffer::from_raw(w, h, wide(&bytes))?),
        ColorType::Rgba16 => DynamicImage::ImageRgba16(ImageBuffer::from_raw(w, h, wide(&bytes))?),
        // Decoders of floating-point pixels decode all of them or none.
        _ => return None,
    })
}
