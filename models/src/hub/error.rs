//! Why a bundle cannot be had from the Hub.

use std::path::PathBuf;

/// Failure to fetch a bundle, or to find it in the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// What is written names no model.
    #[error("`{text}` {problem}: write `hf://owner/name` or `hf://owner/name@revision`")]
    Name {
        /// What is written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// What is written names no dataset.
    #[error(
        "`{text}` {problem}: write `hf://datasets/owner/name`, and what you want of it: \
         `hf://datasets/owner/name@revision/folder/*.parquet`"
    )]
    DatasetName {
        /// What is written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A dataset is to be read, and the Hub not to be asked.
    #[error("the files of `{dataset}` are not known, and the Hub is not asked: {why}")]
    DatasetOffline {
        /// The dataset.
        dataset: String,
        /// Why the Hub is not asked.
        why: String,
    },
    /// The cache's folder is not known.
    #[error("no folder is known for the Hub's cache: set `HF_HOME` or `HF_HUB_CACHE`")]
    NoCache,
    /// The endpoint is no address.
    #[error("`HF_ENDPOINT` is no address that can be used: {message}")]
    Endpoint {
        /// What is wrong.
        message: String,
    },
    /// A file is needed, not in the cache, and nothing may be fetched.
    #[error(
        "`{file}` of `{repo}` is not in the cache, and nothing is fetched: {why}; to fetch it, run: {command}"
    )]
    NotCached {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// Why nothing is fetched.
        why: String,
        /// What fetches it.
        command: String,
    },
    /// The Hub does not show the model to this user, or there is none of that name: it answers the
    /// same to both.
    #[error("the Hub refuses `{repo}` ({status}): {}", mend(*.with_token))]
    Refused {
        /// The model.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// There is no such model, revision or file.
    #[error("the Hub has no {what}: check the name")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The Hub answered, but not with what was asked for.
    #[error("the Hub's answer for {what} cannot be used: {message}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// The Hub cannot be reached, or the connection broke.
    #[error("cannot fetch {what}: {message}; what was fetched is kept: run the command again")]
    Connection {
        /// What was asked for.
        what: String,
        /// What happened.
        message: String,
    },
    /// The certificate of the Hub, or of a host that it leads to, is not trusted.
    #[error(
        "cannot fetch {what}: {message}; where a proxy or a Hub of your own has another certificate, set \
         `SSL_CERT_FILE` to a file with that of who signed it"
    )]
    Certificate {
        /// What was asked for.
        what: String,
        /// What is wrong with the certificate.
        message: String,
    },
    /// What was fetched is not what the Hub says it is.
    #[error("{what} arrived damaged, it was removed: {message}; run the command again")]
    Damaged {
        /// What was fetched.
        what: String,
        /// What does not agree.
        message: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} `{}` in the Hub's cache", path.display())]
    Cache {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn mend(with_token: bool) -> &'static str {
    if with_token {
        "check the name, and that the owner of the token in `HF_TOKEN` may read it (a gated model \
         asks for consent on its page)"
    } else {
        "check the name; a private or gated model needs a token in `HF_TOKEN`, or `hf auth login`"
    }
}

impl HubError {
    /// Returns the label for reports: few and stable.
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

    /// Returns whether the same command may do better later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Damaged { .. } | Self::Cache { .. })
    }
}
