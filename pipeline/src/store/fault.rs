//! Why a store does not do what it is asked: told by the type and status of its answer, never by the
//! wording of a message.

use std::{error::Error as StdError, fmt, io};

use object_store::{Error, client::HttpError};

/// A kind of store.
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
    /// Returns what the store calls a bucket.
    fn bucket(self) -> &'static str {
        if self == Self::Azure { "container" } else { "bucket" }
    }

    /// Returns the variable with the address of the store.
    fn endpoint_variable(self) -> Option<&'static str> {
        match self {
            Self::S3 => Some("AWS_ENDPOINT"),
            Self::Google => Some("GOOGLE_BASE_URL"),
            Self::Azure => Some("AZURE_STORAGE_ENDPOINT"),
            Self::Web => None,
        }
    }

    /// Returns the variable that allows an endpoint without encryption.
    fn plain_variable(self) -> &'static str {
        if self == Self::Azure { "AZURE_ALLOW_HTTP" } else { "AWS_ALLOW_HTTP" }
    }

    /// Says where credentials come from.
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

/// Why a store does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// The environment has no credentials, and this machine has no role.
    #[error("no credentials for {kind} were found")]
    NoCredentials {
        /// The store.
        kind: StoreKind,
    },
    /// The credentials are unknown, wrong or expired.
    #[error("{kind} refused the credentials{}", shown(code))]
    BadCredentials {
        /// The store.
        kind: StoreKind,
        /// The store's own name for it.
        code: Option<String>,
    },
    /// The credentials do not allow this.
    #[error("access denied{}", shown(code))]
    Denied {
        /// The store.
        kind: StoreKind,
        /// The store's own name for it.
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
        /// The region, where the store tells it.
        region: Option<String>,
    },
    /// No connection can be made.
    #[error("failed to connect to `{host}`: {cause}")]
    Unreachable {
        /// The store.
        kind: StoreKind,
        /// Its host and port.
        host: String,
        /// What the system says.
        cause: String,
        /// Whether the store has not answered once since the program started.
        is_first: bool,
    },
    /// The endpoint is not encrypted, and nobody allowed that.
    #[error("the endpoint `{endpoint}` is not encrypted")]
    PlainHttp {
        /// The store.
        kind: StoreKind,
        /// The endpoint.
        endpoint: String,
    },
    /// The key cannot be asked for.
    #[error("the key `{key}` cannot be requested over HTTP: it {problem}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The object is not the one that was listed.
    #[error("it has changed since it was listed")]
    Changed,
    /// Any other answer that is not a success.
    #[error("{kind} answered {status}{}", shown(code))]
    Answer {
        /// The store.
        kind: StoreKind,
        /// The status of HTTP.
        status: u16,
        /// The store's own name for it.
        code: Option<String>,
    },
}

/// Writes what is known in parentheses.
fn shown(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
}

/// What the error codes of stores say of credentials: S3's, also in answers of its token service, and
/// Azure's.
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
/// S3's code for a request whose time is far from its own.
const CLOCK_CODE: &str = "RequestTimeTooSkewed";
const REGION_CODES: [&str; 3] =
    ["AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"];
const BUCKET_CODES: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

impl StoreFault {
    /// Tells by the status, the code and the region of an answer that is not a success what is wrong.
    /// `None` for what concerns one object alone, which callers tell apart by the status.
    pub(super) fn of_answer(
        kind: StoreKind,
        status: u16,
        code: Option<String>,
        region: Option<String>,
    ) -> Option<Self> {
        let is_one_of = |codes: &[&str]| code.as_deref().is_some_and(|code| codes.contains(&code));
        Some(match status {
            404 if is_one_of(&BUCKET_CODES) => Self::NoBucket { kind },
            // Not found, not modified, and conditions that do not hold.
            304 | 404 | 409 | 412 => return None,
            301 | 302 | 307 | 308 if kind == StoreKind::S3 => Self::OtherRegion { region },
            // Where the answer to a HEAD has no body, its header with the region is all there is.
            400 if is_one_of(&REGION_CODES) || (code.is_none() && region.is_some()) => {
                Self::OtherRegion { region }
            }
            400 | 401 | 403 if is_one_of(&CREDENTIALS_CODES) => Self::BadCredentials { kind, code },
            401 => Self::BadCredentials { kind, code },
            403 => Self::Denied { kind, code },
            _ => Self::Answer { kind, status, code },
        })
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Request timeout, too many requests, and what is wrong with the server.
            Self::Answer { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }

    /// Returns whether somebody has to change something before the same command can succeed: a host
    /// that has not answered once counts, as its name is likely wrong.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        !self.may_pass() || matches!(self, Self::Unreachable { is_first: true, .. })
    }

    /// Says what to do.
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
                format!("give the credentials the right to read and write the {}", kind.bucket())
            }
            Self::NoBucket { kind } => {
                let bucket = kind.bucket();
                let variable = kind.endpoint_variable().unwrap_or_default();
                format!("check the {bucket} in the URL, and `{variable}` for a store of your own")
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
                format!("use `https://`, or set `{}=true`", kind.plain_variable())
            }
            Self::Key { .. } => "rename the object".to_owned(),
            Self::Changed | Self::Answer { .. } => return None,
        })
    }
}

/// What a disk or a store says went wrong, in one line.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Problem {
    pub(super) text: String,
    #[source]
    pub(super) fault: Option<StoreFault>,
}

impl From<StoreFault> for Problem {
    fn from(fault: StoreFault) -> Self {
        Self { text: fault.to_string(), fault: Some(fault) }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, fault: None }
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
            Error::NotFound { .. } => "there is no such object".into(),
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

/// Turns a store's error into one of I/O, whose text is one line.
pub(super) fn io_error(error: &Error) -> io::Error {
    let kind = match error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, Problem::from(error))
}

/// Returns what is wrong with a store, where that is known of an error.
#[must_use]
pub fn fault_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a StoreFault> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns an error and its causes.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Returns the text of the last cause of an error, which says most: those above repeat it.
pub(crate) fn last_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// Returns whether no connection could be made.
pub(super) fn is_connect(error: &HttpError) -> bool {
    error.kind() == object_store::client::HttpErrorKind::Connect
}

#[cfg(test)]
mod tests {
    use super::{StoreFault, StoreKind};

    fn of(kind: StoreKind, status: u16, code: &str, region: &str) -> Option<StoreFault> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        StoreFault::of_answer(kind, status, some(code), some(region))
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        let s3 = |status, code, region| of(StoreKind::S3, status, code, region);
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
            assert_eq!(of(kind, 404, code, ""), Some(StoreFault::NoBucket { kind }));
        }
        // S3 names its region in every refusal, which says nothing.
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
        assert!(matches!(of(StoreKind::Web, 302, "", ""), Some(StoreFault::Answer { .. })));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let passes = |status| of(StoreKind::S3, status, "", "").unwrap().may_pass();
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
