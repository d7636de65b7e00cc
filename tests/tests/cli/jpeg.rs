//! JPEG files decode as in Pillow, and damaged files are always detected.
//! `tests/jpeg/make_jpegs.py` makes the files and the digests of Pillow's pixels.

use std::{
    fs,
    io::Cursor,
    time::{Duration, Instant},
};

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use legenda_models::RgbImage;
use legenda_pipeline::media::{Decoded, MediaError, damaged::decode_image};
use legenda_schemas::{
    flag::{Flag, Flags},
    job::DamagedMedia,
};
use legenda_tests::repository;
use sha2::{Digest, Sha256};

const PIXELS_MAX: u64 = 64_000_000;

fn file(name: &str) -> Vec<u8> {
    fs::read(repository().join(format!("tests/jpeg/{name}.jpg"))).unwrap()
}

fn decode(bytes: &[u8]) -> Result<RgbImage, MediaError> {
    decode_image(bytes, PIXELS_MAX, DamagedMedia::Reject).map(|decoded| {
        assert!(decoded.flags.is_empty());
        decoded.media
    })
}

fn code(bytes: &[u8]) -> &'static str {
    decode(bytes).map_or_else(|error| error.code(), |_| "answered")
}

/// Returns the file names with width, height and pixel digest.
fn listed() -> Vec<(String, usize, usize, String)> {
    let text = fs::read_to_string(repository().join("tests/jpeg/digests.tsv")).unwrap();
    let lines = text.lines().map(|line| {
        let [name, width, height, digest] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        (name.to_owned(), width.parse().unwrap(), height.parse().unwrap(), digest.to_owned())
    });
    lines.collect()
}

/// Returns a file of 240 x 200 pixels in one scan, with noise so that every block has many
/// coefficients.
fn larger() -> Vec<u8> {
    let pixels: Vec<u8> =
        (0..240 * 200 * 3_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut Cursor::new(&mut bytes), 60)
        .encode(&pixels, 240, 200, ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

#[test]
fn every_kind_of_jpeg_has_the_pixels_that_pillow_decodes() {
    let listed = listed();
    assert!(listed.len() > 40);
    for (name, width, height, expected) in listed {
        let image = decode(&file(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((image.width, image.height), (width, height), "{name}");
        let digest: String =
            Sha256::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, expected, "{name}");
    }
}

#[test]
fn a_jpeg_truncated_anywhere_is_damaged() {
    let names = ["sample-2x2", "progressive-2x1", "scans-2x2", "restart-1-block", "cmyk", "grey"];
    for name in names {
        let whole = file(name);
        for end in 3..whole.len() {
            assert_eq!(code(&whole[..end]), "media_damaged", "{name}, first {end} bytes");
        }
    }
}

#[test]
fn a_jpeg_whose_end_is_zeroed_is_damaged() {
    for (name, whole) in [
        ("sample-2x2", file("sample-2x2")),
        ("progressive-2x2", file("progressive-2x2")),
        ("scans-2x2", file("scans-2x2")),
        ("larger", larger()),
    ] {
        for tenth in 1..10 {
            let mut zeroed = whole.clone();
            let start = whole.len() * tenth / 10;
            zeroed[start..].fill(0);
            assert_eq!(code(&zeroed), "media_damaged", "{name}, from {start}");
        }
    }
}

#[test]
fn a_jpeg_with_missing_bytes_in_the_middle_is_damaged() {
    let whole = larger();
    for start in (1000..whole.len() - 700).step_by(997) {
        let without = [&whole[..start], &whole[start + 512..]].concat();
        assert_eq!(code(&without), "media_damaged", "512 bytes from {start}");
        let mut other = whole.clone();
        other[start..start + 512].fill(0x41);
        assert_eq!(code(&other), "media_damaged", "other bytes from {start}");
    }
}

#[test]
fn unsupported_jpeg_variants_are_named() {
    let error = decode(&file("arithmetic")).unwrap_err();
    assert_eq!(error.code(), "media_unsupported");
    assert!(error.to_string().contains("arithmetic-coded JPEG"), "{error}");
    let mut twelve_bits = file("sample-1x1");
    let frame = twelve_bits.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    twelve_bits[frame + 4] = 12;
    let error = decode(&twelve_bits).unwrap_err();
    assert!(error.to_string().contains("JPEG with 12 bits per sample"), "{error}");
}

#[test]
fn a_jpeg_with_thousands_of_scans_is_refused_quickly() {
    let whole = file("progressive-2x2");
    let last = whole.windows(2).rposition(|two| two == [0xff, 0xda]).unwrap();
    let (scan, end) = whole[last..].split_at(whole.len() - last - 2);
    let bomb = [&whole[..last], &scan.repeat(20_000), end].concat();
    let start = Instant::now();
    let error = decode(&bomb).unwrap_err();
    assert_eq!(error.code(), "media_unsupported");
    assert!(error.to_string().contains("scans"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_jpeg_header_that_claims_too_many_pixels_is_refused() {
    let mut huge = file("progressive-2x2");
    let frame = huge.windows(2).position(|two| two == [0xff, 0xc2]).unwrap();
    huge[frame + 5..frame + 9].fill(0xff);
    assert_eq!(code(&huge), "image_too_large");
}

#[test]
fn a_damaged_jpeg_can_be_answered_from_its_intact_part() {
    let lenient = |bytes: &[u8]| decode_image(bytes, PIXELS_MAX, DamagedMedia::Answer);
    for name in ["sample-1x1", "progressive-1x1", "exif-3"] {
        let whole = file(name);
        let decoded = lenient(&whole).unwrap();
        assert!(decoded.flags.is_empty(), "{name} is whole");
        let Decoded { media, flags } = lenient(&whole[..whole.len() * 3 / 4]).unwrap();
        assert_eq!(flags, Flags::from([Flag::MediaDamaged]));
        assert_eq!((media.width, media.height), (decoded.media.width, decoded.media.height));
        assert_ne!(media.pixels, decoded.media.pixels, "{name}");
        if name == "sample-1x1" {
            let row = 8 * 3 * media.width;
            assert_eq!(media.pixels[..row], decoded.media.pixels[..row], "the first blocks");
        }
    }
    let whole = file("sample-1x1");
    let scan = whole.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
    for nothing in [scan, scan + 14] {
        let error = lenient(&whole[..nothing]).unwrap_err();
        assert_eq!(error.code(), "media_damaged", "nothing can be decoded of {nothing} bytes");
    }
}
