//! The errors of folders.

use super::fault::Problem;

/// An error of writing a file.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{path}`")]
pub struct WriteError {
    /// The path or URL of the file.
    pub path: String,
    pub(crate) source: Problem,
}

/// An error of reading a file or a folder.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{path}`")]
pub struct ReadError {
    /// The path or URL of the file or folder.
    pub path: String,
    pub(crate) source: Problem,
}

/// An invalid location.
#[derive(Debug, thiserror::Error)]
#[error("invalid location `{url}`")]
pub struct LocationError {
    /// The URL.
    pub url: String,
    source: Problem,
}

impl WriteError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: path.into(), source: problem.into() }
    }
}

impl ReadError {
    pub(super) fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: path.into(), source: problem.into() }
    }
}

impl From<ReadError> for WriteError {
    /// For files that are read before they are written.
    fn from(ReadError { path, source }: ReadError) -> Self {
        Self { path, source }
    }
}

impl From<LocationError> for Problem {
    /// For messages that already name the URL.
    fn from(error: LocationError) -> Self {
        error.source
    }
}

impl LocationError {
    pub(super) fn new(url: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { url: url.into(), source: problem.into() }
    }
}
