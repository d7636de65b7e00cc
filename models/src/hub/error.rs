//! Errors of access to the Hub and its cache.

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
    #[error("failed to list the files of `{dataset}`: offline mode ({why})")]
    DatasetOffline {
        /// The dataset.
        dataset: String,
        /// The reason for offline mode.
        why: String,
    },
    /// The cache folder is unknown.
    #[error("unknown Hub cache folder: set `HF_HOME` or `HF_HUB_CACHE`")]
    NoCache,
    /// The endpoint is invalid.
    #[error("invalid `HF_ENDPOINT`: {message}")]
    Endpoint {
        /// The problem.
        message: String,
    },
    /// A required file is not in the cache and cannot be fetched.
    #[error(
        "`{file}` of `{repo}` is not in the cache and cannot be fetched ({why}); to fetch it, run: {command}"
    )]
    NotCached {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The reason why it cannot be fetched.
        why: String,
        /// The command that fetches it.
        command: String,
    },
    /// The Hub denies access to the model, or the model does not exist: the response is the same.
    #[error("the Hub denied access to `{repo}` (HTTP {status}): {}", access_hint(*.with_token))]
    Refused {
        /// The model.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The model, revision or file does not exist.
    #[error("{what} was not found on the Hub: check the name")]
    NotFound {
        /// The requested object.
        what: String,
    },
    /// The Hub sent an invalid response.
    #[error("invalid response from the Hub for {what}: {message}")]
    Answer {
        /// The requested object.
        what: String,
        /// The problem.
        message: String,
    },
    /// The Hub is unreachable, or the connection broke.
    #[error(
        "failed to fetch {what}: {message}; partial downloads are kept, run the command again to resume"
    )]
    Connection {
        /// The requested object.
        what: String,
        /// The cause.
        message: String,
    },
    /// The certificate of the Hub, or of a host that it redirects to, is not trusted.
    #[error(
        "failed to fetch {what}: {message}; if a proxy or a private Hub has its own certificate, set \
         `SSL_CERT_FILE` to a file with the certificate of its issuer"
    )]
    Certificate {
        /// The requested object.
        what: String,
        /// The problem with the certificate.
        message: String,
    },
    /// A downloaded file does not match its size or digest.
    #[error("failed to verify {what}: {message}; the file was removed, run the command again")]
    Damaged {
        /// The downloaded file.
        what: String,
        /// The mismatch.
        message: String,
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

fn access_hint(with_token: bool) -> &'static str {
    if with_token {
        "check the name, and that the account of the token in `HF_TOKEN` has access (accept the \
         terms of a gated model on its page)"
    } else {
        "check the name; for a private or gated model, set `HF_TOKEN` or run `hf auth login`"
    }
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
