//! Errors of access to the Hub and its cache.

use legenda_schemas::cause::Cause;

use std::path::PathBuf;

/// An error while fetching a bundle or reading it from the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The model name is invalid.
    #[error(
        "invalid model `{text}`: {problem}; expected `hf://owner/name` or `hf://owner/name@revision`"
    )]
    Name {
        /// The text given as a name.
        text: String,
        /// The problem.
        problem: &'static str,
    },
    /// The dataset name is invalid.
    #[error(
        "invalid dataset `{text}`: {problem}; expected `hf://datasets/owner/name`, optionally with a path: \
         `hf://datasets/owner/name@revision/folder/*.parquet`"
    )]
    DatasetName {
        /// The text given as a name.
        text: String,
        /// The problem.
        problem: &'static str,
    },
    /// The files of a dataset cannot be listed in offline mode.
    #[error("failed to list the files of `{dataset}`: offline mode ({problem})")]
    DatasetOffline {
        /// The dataset.
        dataset: String,
        /// The reason for offline mode.
        problem: String,
    },
    /// The cache folder is unknown.
    #[error("unknown Hub cache folder")]
    NoCache,
    /// The endpoint is invalid.
    #[error("invalid `HF_ENDPOINT`")]
    Endpoint {
        /// The cause.
        source: Cause,
    },
    /// A required file is not in the cache and cannot be fetched.
    #[error("`{file}` of `{repo}` is not in the cache and cannot be fetched ({problem})")]
    NotCached {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The reason why it cannot be fetched.
        problem: String,
        /// The command that fetches it.
        command: String,
    },
    /// The Hub denies access to the model, or the model does not exist: the response is the same.
    #[error("the Hub denied access to `{repo}` (HTTP {status})")]
    Refused {
        /// The model.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The model, revision or file does not exist.
    #[error("{what} was not found on the Hub")]
    NotFound {
        /// The requested object.
        what: String,
    },
    /// The Hub sent an invalid response.
    #[error("invalid response from the Hub for {what}")]
    Answer {
        /// The requested object.
        what: String,
        /// The cause.
        source: Cause,
    },
    /// The Hub is unreachable, or the connection broke.
    #[error("failed to fetch {what}")]
    Connection {
        /// The requested object.
        what: String,
        /// The cause.
        source: Cause,
    },
    /// The certificate of the Hub, or of a host that it redirects to, is not trusted.
    #[error("failed to fetch {what}")]
    Certificate {
        /// The requested object.
        what: String,
        /// The error of the connection.
        source: reqwest::Error,
    },
    /// A downloaded file does not match its size or digest.
    #[error("failed to verify {what}: {problem}; the file was removed")]
    Damaged {
        /// The downloaded file.
        what: String,
        /// The mismatch.
        problem: String,
    },
    /// The cache cannot be read or written.
    #[error("failed to {action} `{}` in the Hub cache", path.display())]
    Cache {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

impl HubError {
    /// Returns a stable error code for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "hub_name_invalid",
            Self::DatasetName { .. } => "hub_name_invalid",
            Self::DatasetOffline { .. } => "hub_offline",
            Self::NoCache => "hub_cache_unknown",
            Self::Endpoint { .. } => "hub_endpoint_invalid",
            Self::NotCached { .. } => "hub_file_not_cached",
            Self::Refused { .. } => "hub_refused",
            Self::NotFound { .. } => "hub_not_found",
            Self::Answer { .. } => "hub_answer_invalid",
            Self::Connection { .. } => "hub_connection",
            Self::Certificate { .. } => "hub_certificate",
            Self::Damaged { .. } => "hub_file_damaged",
            Self::Cache { .. } => "hub_cache",
        }
    }

    /// Returns whether the error is transient, so that a later retry may succeed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Damaged { .. } | Self::Cache { .. })
    }
}
