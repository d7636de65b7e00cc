//! The errors of TIFF files.

use image::{
    ImageError, ImageFormat,
    error::{DecodingError, ImageFormatHint, UnsupportedError, UnsupportedErrorKind},
};

const HINT: ImageFormatHint = ImageFormatHint::Exact(ImageFormat::Tiff);

/// Returns the error for a damaged file.
pub(super) fn damaged(problem: impl ToString) -> ImageError {
    ImageError::Decoding(DecodingError::new(HINT, problem.to_string()))
}

/// Returns the error for an unsupported kind of TIFF.
pub(super) fn unsupported(with: impl std::fmt::Display) -> ImageError {
    let variant = UnsupportedErrorKind::GenericFeature(format!("TIFF with {with}"));
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(HINT, variant))
}
