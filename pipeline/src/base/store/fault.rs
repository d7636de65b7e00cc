//! Errors of object stores, classified by the type and status of the response, never by the wording of a
//! message.

use std::{error::Error as StdError, fmt, io};

use legenda_schemas::cause::causes;
use object_store::{Error, client::HttpError};

/// The kind of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// S3 and compatible stores.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
    /// A web server.
    Web,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "S3",
            Self::Google => "Google Cloud Storage",
            Self::Azure => "Azure Blob Storage",
            Self::Web => "the server",
        })
    }
}

impl StoreKind {
    /// Returns the store's term for a bucket.
    fn bucket(self) -> &'static str {
        if self == Self::Azure { "container" } else { "bucket" }
    }

    /// Returns the environment variable of the store's endpoint.
    fn endpoint_variable(self) -> Option<&'static str> {
        match self {
            Self::S3 => Some("AWS_ENDPOINT"),
            Self::Google => Some("GOOGLE_BASE_URL"),
            Self::Azure => Some("AZURE_STORAGE_ENDPOINT"),
            Self::Web => None,
        }
    }

    /// Returns the environment variable that allows an unencrypted endpoint.
    fn plain_variable(self) -> &'static str {
        if self == Self::Azure { "AZURE_ALLOW_HTTP" } else { "AWS_ALLOW_HTTP" }
    }

    /// Returns a hint on how to provide credentials.
    fn credentials_hint(self) -> &'static str {
        match self {
            Self::S3 => {
                "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; profiles are not read: run \
                 `eval \"$(aws configure export-credentials --format env)\"`; for a public bucket set \
                 `AWS_SKIP_SIGNATURE=true`"
            }
            Self::Google => {
                "set `GOOGLE_APPLICATION_CREDENTIALS` to the key file of a service account, or run \
                 `gcloud auth application-default login`; for a public bucket set \
                 `GOOGLE_SKIP_SIGNATURE=true`"
            }
            Self::Azure => {
                "set `AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY` (or \
                 `AZURE_STORAGE_SAS_TOKEN`); for a public container set `AZURE_SKIP_SIGNATURE=true`"
            }
            Self::Web => "the URL needs a login; for a dataset of the Hub set `HF_TOKEN`",
        }
    }
}

/// An error of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// The environment has no credentials, and this machine has no role.
    #[error("found no credentials for {kind}")]
    NoCredentials {
        /// The store.
        kind: StoreKind,
    },
    /// The credentials are unknown, wrong or expired.
    #[error("{kind} rejected the credentials{}", shown(code))]
    BadCredentials {
        /// The store.
        kind: StoreKind,
        /// The store's error code.
        code: Option<String>,
    },
    /// The credentials do not allow this.
    #[error("access denied{}", shown(code))]
    Denied {
        /// The store.
        kind: StoreKind,
        /// The store's error code.
        code: Option<String>,
    },
    /// The bucket does not exist.
    #[error("the {} does not exist", kind.bucket())]
    NoBucket {
        /// The store.
        kind: StoreKind,
    },
    /// The bucket is in another region.
    #[error("the bucket is in another region{}", shown(region))]
    OtherRegion {
        /// The region, if the store reports it.
        region: Option<String>,
    },
    /// The connection failed.
    #[error("failed to connect to `{host}`: {cause}")]
    Unreachable {
        /// The store.
        kind: StoreKind,
        /// Its host and port.
        host: String,
        /// The system's error.
        cause: String,
        /// Whether the store has not responded since the program started.
        is_first: bool,
    },
    /// The endpoint is unencrypted, and the environment does not allow that.
    #[error("the endpoint `{endpoint}` is not encrypted")]
    PlainHttp {
        /// The store.
        kind: StoreKind,
        /// The endpoint.
        endpoint: String,
    },
    /// A setting in the environment is missing or invalid.
    #[error("{problem}")]
    Environment {
        /// The problem.
        problem: String,
    },
    /// The key cannot be requested.
    #[error("invalid key `{key}`: it cannot be requested over HTTP because it {problem}")]
    Key {
        /// The key.
        key: String,
        /// The cause.
        problem: &'static str,
    },
    /// The object changed after it was listed.
    #[error("the object has changed since it was listed")]
    Changed,
    /// Any other unsuccessful response.
    #[error("{kind} returned status {status}{}", shown(code))]
    Answer {
        /// The store.
        kind: StoreKind,
        /// The HTTP status.
        status: u16,
        /// The store's error code.
        code: Option<String>,
    },
}

/// Formats a detail in parentheses.
fn shown(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
}

/// Error codes about credentials: S3's, including those of its token service, and Azure's.
const CREDENTIALS_CODES: [&str; 11] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "InvalidIdentityToken",
    "InvalidClientTokenId",
    CLOCK_CODE,
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
];
/// S3's error code for clock skew.
const CLOCK_CODE: &str = "RequestTimeTooSkewed";
const REGION_CODES: [&str; 3] =
    ["AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"];
const BUCKET_CODES: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

impl StoreFault {
    /// Classifies an unsuccessful response by status, error code and region. Returns `None` for errors that
    /// concern one object, which callers handle by status.
    pub(super) fn from_response(
        kind: StoreKind,
        status: u16,
        code: Option<String>,
        region: Option<String>,
    ) -> Option<Self> {
        let is_one_of = |codes: &[&str]| code.as_deref().is_some_and(|code| codes.contains(&code));
        Some(match status {
            404 if is_one_of(&BUCKET_CODES) => Self::NoBucket { kind },
            // Not found, not modified, and failed preconditions.
            304 | 404 | 409 | 412 => return None,
            301 | 302 | 307 | 308 if kind == StoreKind::S3 => Self::OtherRegion { region },
            // The response to a HEAD has no body, so the region header is the only information.
            400 if is_one_of(&REGION_CODES) || (code.is_none() && region.is_some()) => {
                Self::OtherRegion { region }
            }
            400 | 401 | 403 if is_one_of(&CREDENTIALS_CODES) => Self::BadCredentials { kind, code },
            401 => Self::BadCredentials { kind, code },
            403 => Self::Denied { kind, code },
            _ => Self::Answer { kind, status, code },
        })
    }

    /// Returns whether the error is transient.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Request timeout, too many requests, and server errors.
            Self::Answer { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }

    /// Returns whether the same command can only succeed after a change of configuration. This includes a
    /// host that has never responded, because its name is probably wrong.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !self.may_pass() || matches!(self, Self::Unreachable { is_first: true, .. })
    }

    /// Returns a remedy.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoCredentials { kind } => kind.credentials_hint().to_owned(),
            Self::BadCredentials { code: Some(code), .. } if code == CLOCK_CODE => {
                "set the clock of this machine".to_owned()
            }
            Self::BadCredentials { kind: StoreKind::S3, .. } => {
                "check `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, and \
                 `AWS_ENDPOINT` for S3-compatible storage"
                    .to_owned()
            }
            Self::BadCredentials { kind, .. } => kind.credentials_hint().to_owned(),
            Self::Denied { kind: StoreKind::S3, .. } => {
                "the owner of `AWS_ACCESS_KEY_ID` needs `s3:ListBucket` and `s3:GetObject`, and for \
                 `output.path` `s3:PutObject` and `s3:DeleteObject`"
                    .to_owned()
            }
            Self::Denied { kind: StoreKind::Web, .. } => {
                StoreKind::Web.credentials_hint().to_owned()
            }
            Self::Denied { kind, .. } => {
                format!("grant the credentials read and write access to the {}", kind.bucket())
            }
            Self::NoBucket { kind } => {
                let bucket = kind.bucket();
                let variable = kind.endpoint_variable().unwrap_or_default();
                format!("check the {bucket} in the URL, and `{variable}` for a self-hosted store")
            }
            Self::OtherRegion { region: Some(region) } => format!("set `AWS_REGION={region}`"),
            Self::OtherRegion { region: None } => {
                "set `AWS_REGION` to the region of the bucket".to_owned()
            }
            Self::Unreachable { kind, .. } => match kind.endpoint_variable() {
                Some(variable) => format!("check `{variable}` and the network"),
                None => "check the host in the URL and the network".to_owned(),
            },
            Self::PlainHttp { kind, .. } => {
                format!("use `https://` or set `{}=true`", kind.plain_variable())
            }
            Self::Environment { .. } => {
                "check the environment of the store (`AWS_…`, `GOOGLE_…`, `AZURE_…`)".to_owned()
            }
            Self::Key { .. } => "rename the object".to_owned(),
            Self::Changed | Self::Answer { .. } => return None,
        })
    }
}

/// A disk or store error as one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// An error of a store.
    #[error(transparent)]
    Fault(#[from] StoreFault),
    /// An error of the disk.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// Any other problem.
    #[error("{0}")]
    Other(String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        if let Some(fault) = fault_of(error) {
            return fault.clone().into();
        }
        match error {
            Error::NotFound { .. } => "the object does not exist".into(),
            Error::Precondition { .. } => StoreFault::Changed.into(),
            error => last_cause(error).into(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// Converts a store's error to an I/O error with a one-line message.
pub(super) fn io_error(error: &Error) -> io::Error {
    let kind = match error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, Problem::from(error))
}

/// Returns the store fault in the source chain of an error, if any.
#[must_use]
pub fn fault_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a StoreFault> {
    causes(error).find_map(|cause| {
        // Neither returns the error that it prints as its source.
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return error.get_ref().and_then(|inner| fault_of(inner));
        }
        match cause.downcast_ref() {
            Some(Problem::Fault(fault)) => Some(fault),
            Some(Problem::Disk(error)) => fault_of(error),
            Some(Problem::Other(_)) => None,
            None => cause.downcast_ref(),
        }
    })
}

/// Returns the message of the innermost source, which is the most specific.
pub(crate) fn last_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// Returns whether the connection failed.
pub(super) fn is_connect(error: &HttpError) -> bool {
    error.kind() == object_store::client::HttpErrorKind::Connect
}

#[cfg(test)]
mod tests {
    use super::{StoreFault, StoreKind};

    fn fault(kind: StoreKind, status: u16, code: &str, region: &str) -> Option<StoreFault> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        StoreFault::from_response(kind, status, some(code), some(region))
    }

    #[test]
    fn responses_are_classified_by_status_and_code() {
        let s3 = |status, code, region| fault(StoreKind::S3, status, code, region);
        let region = |name: &str| Some(StoreFault::OtherRegion { region: Some(name.to_owned()) });
        assert_eq!(s3(301, "PermanentRedirect", "eu-west-1"), region("eu-west-1"));
        assert_eq!(s3(400, "AuthorizationHeaderMalformed", "eu-west-1"), region("eu-west-1"));
        assert_eq!(s3(400, "", "eu-west-1"), region("eu-west-1"));
        assert_eq!(s3(307, "", ""), Some(StoreFault::OtherRegion { region: None }));
        assert_eq!(s3(404, "NoSuchKey", ""), None);
        assert_eq!(s3(412, "PreconditionFailed", ""), None);
        for (kind, code) in
            [(StoreKind::S3, "NoSuchBucket"), (StoreKind::Azure, "ContainerNotFound")]
        {
            assert_eq!(fault(kind, 404, code, ""), Some(StoreFault::NoBucket { kind }));
        }
        // S3 reports its region in every refusal, which is irrelevant here.
        assert!(matches!(s3(403, "AccessDenied", "eu-west-1"), Some(StoreFault::Denied { .. })));
        assert!(matches!(s3(403, "", "eu-west-1"), Some(StoreFault::Denied { .. })));
        for (status, code) in [
            (403, "InvalidAccessKeyId"),
            (400, "ExpiredToken"),
            (403, "SignatureDoesNotMatch"),
            (401, ""),
        ] {
            let fault = s3(status, code, "");
            assert!(matches!(fault, Some(StoreFault::BadCredentials { .. })), "{code}: {fault:?}");
        }
        assert!(matches!(fault(StoreKind::Web, 302, "", ""), Some(StoreFault::Answer { .. })));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let passes = |status| fault(StoreKind::S3, status, "", "").unwrap().may_pass();
        assert!([408, 429, 500, 503].into_iter().all(passes));
        assert!(![400, 401, 403, 405, 416].into_iter().any(passes));
        let unreachable = |is_first| StoreFault::Unreachable {
            kind: StoreKind::S3,
            host: "store:9000".to_owned(),
            cause: "connection refused".to_owned(),
            is_first,
        };
        assert!(unreachable(true).is_configuration() && !unreachable(false).is_configuration());
        assert!(unreachable(true).may_pass());
    }

    #[test]
    fn every_fault_of_the_setup_names_the_variable_to_set() {
        let kinds = [StoreKind::S3, StoreKind::Google, StoreKind::Azure];
        for kind in kinds {
            let host = "h".to_owned();
            let faults = [
                StoreFault::NoCredentials { kind },
                StoreFault::BadCredentials { kind, code: None },
                StoreFault::NoBucket { kind },
                StoreFault::Unreachable { kind, host, cause: String::new(), is_first: true },
                StoreFault::PlainHttp { kind, endpoint: "http://h".to_owned() },
            ];
            for fault in faults {
                let hint = fault.hint().unwrap();
                let names = ["AWS_", "GOOGLE_", "AZURE_"];
                assert!(names.iter().any(|name| hint.contains(name)), "{fault:?}: {hint}");
                assert!(!fault.to_string().contains('\n') && !hint.contains('\n'), "{fault:?}");
            }
        }
    }
}
