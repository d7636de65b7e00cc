//! JPEG decoding in Rust, for builds without C code (`--no-default-features`). The decoder ignores damage and
//! decodes some variants to wrong pixels; those that can be detected are rejected.

use std::io::Cursor;

use image::{ImageDecoder, codecs::jpeg};

use super::markers::{Fault, Header, Scans};
use crate::input::media::damaged::Damage;

/// Decodes a file into `pixels`, one or three bytes each.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    scans: Scans,
    _damage: Damage,
    pixels: &mut [u8],
) -> Result<(), Fault> {
    let unsupported = |variant: &str| Err(Fault::Unsupported(variant.to_owned()));
    let first = header.sampling.first().copied().unwrap_or_default();
    // etemesi254/zune-image#419: components in separate scans are decoded as stripes.
    if scans.n_scans > 1
        && !header.is_progressive
        && header.sampling.iter().any(|one| *one != first)
    {
        return unsupported("JPEG with several scans and subsampling in a build without `mozjpeg`");
    }
    // etemesi254/zune-image#422: only components with lower sampling than the first are scaled.
    if header.sampling.iter().any(|(h, v)| *h > first.0 || *v > first.1) {
        return unsupported("JPEG with a subsampled first component in a build without `mozjpeg`");
    }
    let damaged = |error: image::ImageError| Fault::Damaged(error.to_string());
    let decoder = jpeg::JpegDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    if decoder.total_bytes() != pixels.len() as u64 {
        return unsupported("JPEG of these components in a build without `mozjpeg`");
    }
    decoder.read_image(pixels).map_err(damaged)
}
