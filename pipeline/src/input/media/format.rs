//! Detection of formats by magic: those that are decoded, and those that are only named in errors.

use std::fmt;

use image::ImageFormat;
use memchr::memmem;

/// The magic of an undecodable format: offset, bytes and name.
type Magic = (usize, &'static [u8], &'static str);

/// Image formats.
const IMAGES: &[Magic] = &[
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"\x97JB2\r\n\x1a\n", "JBIG2"),
    (0, b"8BPS", "PSD"),
    (0, b"8BPB", "PSB"),
    (0, b"gimp xcf", "XCF"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"icns", "ICNS"),
    (0, b"\0\0\x02\0", "CUR"),
    (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
    (0, b"\x0a\x02\x01", "PCX"),
    (0, b"\x0a\x03\x01", "PCX"),
    (0, b"\x0a\x05\x01", "PCX"),
    (0, b"\x01\xda\x00", "SGI"),
    (0, b"\x01\xda\x01", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"FUJIFILMCCD-RAW", "RAF (camera raw)"),
    (0, b"IIRO", "ORF (camera raw)"),
    (0, b"IIU\0", "RW2 (camera raw)"),
    (0, b"FOVb", "X3F (camera raw)"),
    (8, b"CR\x02\0", "CR2 (camera raw)"),
];

/// Formats that may occur in place of an image.
const OTHERS: &[Magic] = &[
    (0, b"%PDF-", "PDF"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "FLV"),
    (0, b"\0\0\x01\xba", "MPEG program stream"),
    (0, b"\0\0\x01\xb3", "MPEG video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF (WMV, WMA)"),
    (8, b"WAVE", "WAV"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (8, b"AIFF", "AIFF"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\x07", "RAR"),
    (257, b"ustar", "tar"),
    (0, b"PAR1", "Parquet"),
    (0, b"ARROW1", "Arrow"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"SQLite format 3\0", "SQLite"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"version https://git-lfs.github.com/spec/", "Git LFS pointer (run `git lfs pull`)"),
    (0, b"version https://hawser.github.com/spec/", "Git LFS pointer (run `git lfs pull`)"),
];

/// Image brands of ISO base media files (ISO/IEC 14496-12); a file lists its own and compatible ones.
const BRANDS: &[(&[u8; 4], &str)] = &[
    (b"avif", "AVIF"),
    (b"avis", "AVIF"),
    (b"heic", "HEIC"),
    (b"heix", "HEIC"),
    (b"heim", "HEIC"),
    (b"heis", "HEIC"),
    (b"hevc", "HEIC"),
    (b"hevx", "HEIC"),
    (b"crx ", "CR3 (camera raw)"),
    (b"jp2 ", "JPEG 2000"),
    (b"jxl ", "JPEG XL"),
    // These do not name the codec, so they come last.
    (b"mif1", "HEIF"),
    (b"mif2", "HEIF"),
    (b"msf1", "HEIF"),
];

/// A decodable image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A format that is always supported.
    Builtin(ImageFormat),
    /// A format decoded by libheif, by name.
    Heif(&'static str),
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(format) => write!(formatter, "{format:?}"),
            Self::Heif(name) => formatter.write_str(name),
        }
    }
}

impl Format {
    /// Detects the format of `bytes`.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let heif = || image_brand(bytes).filter(|name| matches!(*name, "AVIF" | "HEIC" | "HEIF"));
        builtin(bytes).map(Self::Builtin).or_else(|| heif().map(Self::Heif))
    }
}

/// The maximum offset of a tag in a text, after comments and declarations.
const TEXT_BYTES: usize = 4096;

fn builtin(bytes: &[u8]) -> Option<ImageFormat> {
    let format = match bytes {
        [b'I', b'I', b'R', ..] | [_, _, _, _, _, _, _, _, b'C', b'R', 2, 0, ..] => return None,
        // BigTIFF.
        [b'M', b'M', 0, 43, ..] | [b'I', b'I', 43, 0, ..] => ImageFormat::Tiff,
        [b'P', b'1'..=b'6', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => ImageFormat::Pnm,
        _ => image::guess_format(bytes).ok().filter(|format| *format != ImageFormat::Pnm)?,
    };
    matches!(
        format,
        ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff
            | ImageFormat::Ico
            | ImageFormat::Pnm
    )
    .then_some(format)
}

/// Returns the name of an image format that is never decoded.
pub(super) fn other_image(bytes: &[u8]) -> Option<&'static str> {
    named(IMAGES, bytes).or_else(|| image_brand(bytes)).or_else(|| {
        let text = &bytes[..bytes.len().min(TEXT_BYTES)];
        (is_markup(bytes) && memmem::find(text, b"<svg").is_some()).then_some("SVG")
    })
}

/// Returns the name of an undecodable format that is not an image.
pub(super) fn no_image(bytes: &[u8]) -> Option<&'static str> {
    named(OTHERS, bytes)
        .or_else(|| (bytes.get(4..8) == Some(b"ftyp")).then_some("MP4 or QuickTime"))
        .or_else(|| {
            let text = bytes[..bytes.len().min(TEXT_BYTES)].to_ascii_lowercase();
            let is_html = |tag: &&[u8]| memmem::find(&text, tag).is_some();
            is_markup(bytes).then(|| {
                if [&b"<html"[..], b"<!doctype html"].iter().any(is_html) { "HTML" } else { "XML" }
            })
        })
}

fn named(table: &[Magic], bytes: &[u8]) -> Option<&'static str> {
    let begins =
        |start: usize, magic| bytes.get(start..).is_some_and(|rest| rest.starts_with(magic));
    table.iter().find(|(start, magic, _)| begins(*start, magic)).map(|(_, _, name)| *name)
}

/// Returns whether `bytes` begin like XML or HTML.
fn is_markup(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    matches!(text, [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..])
}

/// Returns whether a brand of an ISO base media file is an image brand.
pub(super) fn is_image_brand(brand: &[u8]) -> bool {
    BRANDS.iter().any(|(known, _)| brand == *known)
}

/// Returns the image format of an ISO base media file by its brands.
fn image_brand(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8) != Some(b"ftyp") {
        return None;
    }
    let n_bytes = bytes.first_chunk().map(|size| u32::from_be_bytes(*size) as usize)?;
    let content = bytes.get(8..n_bytes.clamp(8, bytes.len()))?;
    // The brand is followed by its version.
    let (major, others) = (content.get(..4)?, content.get(8..).unwrap_or_default());
    // MPEG-4 files may be compatible with an image brand, so the major brand must be one.
    if !is_image_brand(major) {
        return None;
    }
    let has = |wanted: &[u8; 4]| major == wanted || others.chunks(4).any(|brand| brand == wanted);
    BRANDS.iter().find(|(brand, _)| has(brand)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::{Format, no_image, other_image};

    #[test]
    fn formats_that_are_not_decoded_have_a_name() {
        let ftyp = |brands: &[u8]| {
            let size = u32::try_from(brands.len() + 8).unwrap().to_be_bytes();
            [&size[..], b"ftyp", brands, b"\0\0\0\0meta"].concat()
        };
        for (bytes, name) in [
            (b"\xff\x0a\xfa\x1f".to_vec(), "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n".to_vec(), "JPEG 2000"),
            (b"8BPS\0\x01".to_vec(), "PSD"),
            (b"<?xml version=\"1.0\"?>\n<!-- by hand --><svg width=\"1\">".to_vec(), "SVG"),
            (b"\xef\xbb\xbf <svg xmlns=\"...\">".to_vec(), "SVG"),
            (b"II*\0\x10\0\0\0CR\x02\0".to_vec(), "CR2 (camera raw)"),
        ] {
            assert_eq!(other_image(&bytes), Some(name), "{bytes:?}");
            assert_eq!(Format::from_bytes(&bytes), None, "{bytes:?}");
        }
        for (bytes, name) in [
            (ftyp(b"heic\0\0\0\0mif1heic"), "HEIC"),
            (ftyp(b"mif1\0\0\0\0mif1heix"), "HEIC"),
            (ftyp(b"mif1\0\0\0\0miafavif"), "AVIF"),
            (ftyp(b"avis\0\0\0\0msf1"), "AVIF"),
            (ftyp(b"msf1\0\0\0\0iso8"), "HEIF"),
        ] {
            assert_eq!(Format::from_bytes(&bytes), Some(Format::Heif(name)), "{bytes:?}");
        }
        for (bytes, name) in [
            (ftyp(b"isom\0\0\0\0mp41avif"), "MP4 or QuickTime"),
            (b"%PDF-1.7".to_vec(), "PDF"),
            (b"\n<!DOCTYPE html><html>404".to_vec(), "HTML"),
            (b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey".to_vec(), "XML"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid".to_vec(),
                "Git LFS pointer (run `git lfs pull`)",
            ),
            (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
        ] {
            assert_eq!(no_image(&bytes), Some(name), "{bytes:?}");
            assert_eq!(other_image(&bytes), None, "{bytes:?}");
        }
        for text in [&b""[..], b"hello, world", b"a < b", b"version 1"] {
            assert_eq!(other_image(text).or(no_image(text)), None, "{text:?}");
        }
    }
}
