//! The orientation of an encoded image, from its EXIF block or XMP packet.
//!
//! The rules are those of Pillow 13 (`ImageOps.exif_transpose`, which `transformers` applies to every
//! image): EXIF takes precedence over XMP, and an invalid value means no change. One difference: Pillow fails
//! on a malformed EXIF block, which is ignored here.

use std::{borrow::Cow, io::Read};

use flate2::read::ZlibDecoder;
use image::{ImageDecoder, ImageFormat, metadata::Orientation};
use memchr::memmem;

use super::{format::Format, tiff::Directory};

/// The orientation tag in TIFF and EXIF.
const ORIENTATION: u16 = 0x0112;

/// The XMP tag in TIFF.
const XMP: u16 = 700;

/// A prefix that tools write before an EXIF block, as in JPEG.
const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// The maximum decompressed size of a PNG text chunk (Pillow's `MAX_TEXT_CHUNK`).
const PNG_TEXT_BYTES_MAX: u64 = 1 << 20;

/// The metadata blocks that may contain the orientation.
#[derive(Debug, Default)]
struct Metadata<'a> {
    exif: Option<Cow<'a, [u8]>>,
    xmp: Option<Cow<'a, [u8]>>,
}

/// Returns the orientation of the image in `bytes`, whose header `decoder` has parsed.
pub(super) fn orientation(
    bytes: &[u8],
    format: Format,
    decoder: &mut dyn ImageDecoder,
) -> Orientation {
    let metadata = match format {
        Format::Builtin(ImageFormat::Jpeg) => Metadata {
            exif: decoder.exif_metadata().ok().flatten().map(Cow::Owned),
            xmp: decoder.xmp_metadata().ok().flatten().map(Cow::Owned),
        },
        Format::Builtin(ImageFormat::Png) => png_metadata(bytes),
        Format::Builtin(ImageFormat::WebP) => webp_metadata(bytes),
        // The file itself has the layout of an EXIF block.
        Format::Builtin(ImageFormat::Tiff) => Metadata {
            exif: Some(Cow::Borrowed(bytes)),
            xmp: Directory::first(bytes).and_then(|tags| tags.bytes(XMP)).map(Cow::Borrowed),
        },
        _ => Metadata::default(),
    };
    let in_exif = metadata.exif.as_deref().and_then(exif_orientation);
    in_exif
        .or_else(|| metadata.xmp.as_deref().and_then(xmp_orientation))
        .unwrap_or(Orientation::NoTransforms)
}

/// Returns the orientation in an EXIF block, valid or not, if any.
fn exif_orientation(mut exif: &[u8]) -> Option<Orientation> {
    // Some tools write the prefix twice.
    for _ in 0..2 {
        exif = exif.strip_prefix(EXIF_PREFIX).unwrap_or(exif);
    }
    let tags = Directory::first(exif)?;
    tags.contains(ORIENTATION).then(|| {
        let number = tags.number(ORIENTATION);
        (1..=8)
            .find(|value| number == Some(f64::from(*value)))
            .and_then(Orientation::from_exif)
            .unwrap_or(Orientation::NoTransforms)
    })
}

/// Returns the orientation in an XMP packet, as an attribute or an element, if any.
fn xmp_orientation(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    memmem::find_iter(xmp, NAME).find_map(|start| {
        let value = &xmp[start + NAME.len()..];
        let value = value.strip_prefix(b"=\"").or_else(|| value.strip_prefix(b">"))?;
        let digit = value.first().filter(|byte| byte.is_ascii_digit())?;
        Some(Orientation::from_exif(digit - b'0').unwrap_or(Orientation::NoTransforms))
    })
}

/// Scans all chunks, because EXIF and XMP may follow the pixels; in an animation, only those before its
/// second frame. The last block of a kind is used.
fn png_metadata(bytes: &[u8]) -> Metadata<'_> {
    let mut metadata = Metadata::default();
    let mut profile = None;
    let mut is_animated = false;
    let mut has_pixels = false;
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((n_bytes, after)) = rest.split_first_chunk() {
        let n_bytes = u32::from_be_bytes(*n_bytes) as usize;
        let Some((name, after)) = after.split_first_chunk::<4>() else { break };
        let Some(data) = after.get(..n_bytes) else { break };
        // A 4-byte checksum follows.
        rest = after.get(n_bytes + 4..).unwrap_or_default();
        match name {
            b"IEND" => break,
            b"IDAT" => has_pixels = true,
            b"acTL" => is_animated = data.first_chunk().is_some_and(|n| u32::from_be_bytes(*n) > 0),
            b"fcTL" if has_pixels && is_animated => break,
            b"eXIf" => metadata.exif = Some(Cow::Borrowed(data)),
            b"tEXt" | b"zTXt" | b"iTXt" => match png_text(*name, data) {
                Some((b"exif", text)) if name == b"tEXt" => metadata.exif = Some(text),
                Some((b"Raw profile type exif", text)) => profile = Some(text),
                Some((b"XML:com.adobe.xmp", text)) if !text.is_empty() => metadata.xmp = Some(text),
                _ => {}
            },
            _ => {}
        }
    }
    metadata.exif = metadata.exif.or_else(|| raw_profile(&profile?).map(Cow::Owned));
    metadata
}

/// Returns the keyword and decompressed text of a text chunk.
fn png_text(name: [u8; 4], data: &[u8]) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let (keyword, rest) = split_at_nul(data)?;
    let (is_compressed, text) = match &name {
        b"tEXt" => (false, rest),
        b"zTXt" => (*rest.first()? == 0, rest.get(1..)?),
        _ => {
            // Compression flag and method, language, translated keyword.
            let (_, text) = split_at_nul(rest.get(2..)?)?;
            let (_, text) = split_at_nul(text)?;
            (rest[0] != 0, text)
        }
    };
    if !is_compressed {
        return Some((keyword, Cow::Borrowed(text)));
    }
    let mut decompressed = Vec::new();
    ZlibDecoder::new(text).take(PNG_TEXT_BYTES_MAX).read_to_end(&mut decompressed).ok()?;
    Some((keyword, Cow::Owned(decompressed)))
}

fn split_at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Parses a block of hexadecimal digits after lines with its name and length (ImageMagick).
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .split(|byte| *byte == b'\n')
        .skip(3)
        .flatten()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Scans the chunks announced in the header, like libwebp.
fn webp_metadata(bytes: &[u8]) -> Metadata<'_> {
    const XMP_FLAG: u8 = 0x04;
    const EXIF_FLAG: u8 = 0x08;
    let mut metadata = Metadata::default();
    let mut flags = 0;
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((name, after)) = rest.split_first_chunk::<4>() {
        let Some((n_bytes, after)) = after.split_first_chunk() else { break };
        let n_bytes = u32::from_le_bytes(*n_bytes) as usize;
        let Some(data) = after.get(..n_bytes) else { break };
        // Chunks begin at even offsets.
        rest = after.get(n_bytes.next_multiple_of(2)..).unwrap_or_default();
        match name {
            b"VP8X" => flags = data.first().copied().unwrap_or_default(),
            b"EXIF" if flags & EXIF_FLAG != 0 && metadata.exif.is_none() => {
                metadata.exif = Some(Cow::Borrowed(data));
            }
            b"XMP " if flags & XMP_FLAG != 0 && metadata.xmp.is_none() => {
                metadata.xmp = Some(Cow::Borrowed(data));
            }
            _ => {}
        }
    }
    metadata
}
