//! Media stored as text: `data:` URIs and base64.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;

use super::MediaKind;

/// The prefix of a `data:` URI (RFC 2397).
const SCHEME: &str = "data:";
/// The minimum length of base64 to be recognised by the magic of its content.
const CHARS_MIN: usize = 40;
/// The maximum length of a path; longer text of base64 characters is base64, whatever it contains.
const PATH_CHARS_MAX: usize = 4096;
/// The minimum length for a magic of only two bytes, longer than any file name.
const WEAK_CHARS_MIN: usize = 256;
/// The number of characters to decode for the magic.
const HEAD_CHARS: usize = 64;

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Media stored as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded<'a> {
    /// A `data:` URI.
    DataUri(&'a str),
    /// Base64, with or without line ends.
    Base64(&'a str),
}

/// An error of decoding text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodedError {
    /// A `data:` URI without a comma.
    #[error("the `data:` URI has no comma before its data")]
    NoData,
    /// The text is not valid base64.
    #[error("invalid base64: {0}")]
    Base64(base64::DecodeError),
}

impl<'a> Encoded<'a> {
    /// Distinguishes encoded media from a path or a URL: `data:` URIs by their scheme; base64 by its
    /// characters, which do not include a dot, and by the magic of its content or its length.
    #[must_use]
    pub fn from_text(text: &'a str) -> Option<Self> {
        if text.get(..SCHEME.len()).is_some_and(|head| head.eq_ignore_ascii_case(SCHEME)) {
            return Some(Self::DataUri(text));
        }
        if text.len() < CHARS_MIN || !is_base64(text) {
            return None;
        }
        (text.len() > PATH_CHARS_MAX || begins_like_media(text)).then_some(Self::Base64(text))
    }

    /// Returns the text.
    #[must_use]
    pub fn text(self) -> &'a str {
        match self {
            Self::DataUri(text) | Self::Base64(text) => text,
        }
    }

    /// Returns the decoded size in bytes: exact, except for base64 with percent-encoding or white space,
    /// where it is an upper bound.
    #[must_use]
    pub fn size_bytes(self) -> u64 {
        let decode_base64 = |text: &str| {
            let n_chars = text.trim_end_matches('=').len() as u64;
            n_chars / 4 * 3 + (n_chars % 4 * 3) / 4
        };
        match self {
            Self::Base64(text) => decode_base64(text),
            Self::DataUri(text) => match split(text) {
                Some((true, data)) => decode_base64(data),
                Some((false, data)) => percent_decode_str(data).count() as u64,
                None => 0,
            },
        }
    }

    /// Decodes the text.
    ///
    /// # Errors
    ///
    /// [`EncodedError`].
    pub fn decode(self) -> Result<Vec<u8>, EncodedError> {
        match self {
            Self::Base64(text) => decode(text),
            Self::DataUri(text) => {
                let (is_base64, data) = split(text).ok_or(EncodedError::NoData)?;
                let bytes: Cow<'_, [u8]> = percent_decode_str(data).into();
                if !is_base64 {
                    return Ok(bytes.into_owned());
                }
                // Invalid characters are kept and reported by the decoder.
                decode(&String::from_utf8_lossy(&bytes))
            }
        }
    }
}

/// Returns whether a `data:` URI is base64, and its data.
fn split(uri: &str) -> Option<(bool, &str)> {
    let (head, data) = uri.get(SCHEME.len()..)?.split_once(',')?;
    let last = head.rsplit_once(';').map_or("", |(_, last)| last.trim());
    Some((last.eq_ignore_ascii_case("base64"), data))
}

/// Returns whether the decoded text begins with the magic of a supported format. Two-byte magics need
/// more text, because some names decode to them.
fn begins_like_media(text: &str) -> bool {
    let head = text.chars().filter(|c| !c.is_ascii_whitespace()).take(HEAD_CHARS);
    let head: String = head.collect();
    // Whole groups of four characters.
    let Ok(bytes) = decode(&head[..head.len() / 4 * 4]) else { return false };
    if MediaKind::from_bytes(&bytes).is_none() {
        return false;
    }
    match bytes.as_slice() {
        [b'B', b'M', size @ ..] => {
            let size = size.first_chunk().map(|size| u64::from(u32::from_le_bytes(*size)));
            size == Some(Encoded::Base64(text).size_bytes())
        }
        [b'P', ..] => text.len() >= WEAK_CHARS_MIN,
        [0xFF, second, ..] if *second != 0xD8 => text.len() >= WEAK_CHARS_MIN,
        _ => true,
    }
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches(|c: char| c == '=' || c.is_ascii_whitespace());
    body.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'\r' | b'\n')
    })
}

/// Decodes base64 of either alphabet; ignores white space.
fn decode(text: &str) -> Result<Vec<u8>, EncodedError> {
    let text = text.trim();
    let text: Cow<'_, str> = if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        text.split_ascii_whitespace().collect::<String>().into()
    } else {
        text.into()
    };
    let is_url_safe = text.contains(['-', '_']);
    let engine = if is_url_safe { &URL_SAFE } else { &STANDARD };
    engine.decode(text.as_bytes()).map_err(EncodedError::Base64)
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, Engine};

    use super::{Encoded, EncodedError};

    fn png() -> Vec<u8> {
        let head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".iter();
        head.copied().chain((0..200).map(|n| n * 7)).collect()
    }

    fn decoded(text: &str) -> Option<Result<Vec<u8>, EncodedError>> {
        Encoded::from_text(text).map(Encoded::decode)
    }

    #[test]
    fn data_uris_are_decoded_whatever_their_parameters() {
        let bytes = png();
        let base64 = BASE64_STANDARD.encode(&bytes);
        let percent = percent_encoding::percent_encode(&bytes, percent_encoding::NON_ALPHANUMERIC);
        for uri in [
            format!("data:image/png;base64,{base64}"),
            format!("DATA:image/png;name=\"a.png\";charset=x;BASE64,{base64}"),
            format!("data:;base64,{}", base64.replace('+', "%2B").replace('=', "%3D")),
            format!("data:;base64,{}", BASE64_STANDARD_NO_PAD.encode(&bytes)),
            format!("data:image/png,{percent}"),
            format!("data:,{percent}"),
        ] {
            assert_eq!(decoded(&uri), Some(Ok(bytes.clone())), "{uri}");
            let size = Encoded::from_text(&uri).unwrap().size_bytes();
            assert!((bytes.len() as u64..400).contains(&size), "{size}: {uri}");
        }
        assert_eq!(decoded("data:image/png;base64"), Some(Err(EncodedError::NoData)));
        assert_eq!(decoded("data:,"), Some(Ok(Vec::new())));
        assert!(matches!(decoded("data:;base64,%%%"), Some(Err(EncodedError::Base64(_)))));
    }

    #[test]
    fn base64_is_distinguished_from_paths() {
        let bytes = png();
        let base64 = BASE64_STANDARD.encode(&bytes);
        let lines: Vec<&str> =
            base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        for text in [
            base64.clone(),
            BASE64_STANDARD_NO_PAD.encode(&bytes),
            BASE64_URL_SAFE.encode(&bytes),
            lines.join("\r\n") + "\n",
        ] {
            assert_eq!(decoded(&text), Some(Ok(bytes.clone())), "{text}");
        }
        assert_eq!(Encoded::from_text(&base64).unwrap().size_bytes(), bytes.len() as u64);
        // Longer than any path, so base64 regardless of content.
        assert_eq!(decoded(&"QUJD".repeat(2000)), Some(Ok(b"ABC".repeat(2000))));
        for path in [
            "",
            "image.png",
            "images/a",
            "/data/images/train/class_0001/example_000123456789",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "https://example.org/iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAYAAABzenr0AAAAA",
            "iVBORw0KGgo",
        ] {
            assert_eq!(Encoded::from_text(path), None, "{path}");
        }
    }
}
