//! The HTTP layer between `object_store` and a store: turns unsuccessful responses into [`StoreFault`]s,
//! where status and headers are still known, and escapes odd keys in listings.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use object_store::{
    ClientOptions, Error, HeaderMap,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService, ReqwestConnector,
    },
};
use tokio::time::timeout;

use super::{
    fault::{StoreFault, StoreKind, is_connect, last_cause},
    keys::mark_listing,
};

/// The timeout of the cloud metadata service, which is on the machine's own network or does not exist.
const METADATA_MAX: Duration = Duration::from_secs(3);

/// The hosts of the metadata service: the address shared by all clouds, Google's names, AWS's IPv6 address.
const METADATA_HOSTS: [&str; 4] =
    ["169.254.169.254", "metadata.google.internal", "metadata", "[fd00:ec2::254]"];
/// Environment variables with another address of the metadata service.
const METADATA_VARIABLES: [&str; 3] =
    ["AWS_METADATA_ENDPOINT", "GCE_METADATA_HOST", "GCE_METADATA_IP"];

/// The message for a redirect to another server.
const LEADS_ELSEWHERE: &str = "the server redirects to another host, which is not followed";

/// Creates clients that classify responses.
#[derive(Debug)]
pub(super) struct Connector(pub(super) StoreKind);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, Error> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Wire::new(client, self.0)))
    }
}

/// Reuses an existing client, so that all URLs of a web server share its connections.
#[derive(Debug)]
pub(super) struct Connected(pub(super) HttpClient);

impl HttpConnector for Connected {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient, Error> {
        Ok(self.0.clone())
    }
}

/// A client that classifies responses.
#[derive(Debug)]
pub(super) struct Wire {
    client: HttpClient,
    kind: StoreKind,
    has_answered: AtomicBool,
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let is_listing = request.uri().query().is_some_and(|query| {
            query.split('&').any(|pair| pair == "list-type=2" || pair == "comp=list")
        });
        if is_metadata(&host) {
            return self.ask_for_credentials(request).await;
        }
        let response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) if is_connect(&error) => {
                return Err(failed(StoreFault::Unreachable {
                    kind: self.kind,
                    host,
                    cause: last_cause(&error),
                    is_first: !self.has_answered.load(Relaxed),
                }));
            }
            Err(error) => return Err(error),
        };
        self.has_answered.store(true, Relaxed);
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            let body = if is_listing { listing(body).await? } else { body };
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let bytes = body.bytes().await?;
        let text = String::from_utf8_lossy(&bytes);
        let code = match self.kind {
            StoreKind::Web if parts.status.is_redirection() => Some(LEADS_ELSEWHERE.to_owned()),
            _ => header(&parts.headers, "x-ms-error-code").or_else(|| element(&text, "Code")),
        };
        let region =
            header(&parts.headers, "x-amz-bucket-region").or_else(|| element(&text, "Region"));
        match StoreFault::from_response(self.kind, parts.status.as_u16(), code, region) {
            Some(fault) => Err(failed(fault)),
            None => Ok(HttpResponse::from_parts(parts, bytes.into())),
        }
    }
}

impl Wire {
    pub(super) fn new(client: HttpClient, kind: StoreKind) -> Self {
        Self { client, kind, has_answered: AtomicBool::new(false) }
    }

    /// Requests credentials from the metadata service; any failure means that there are none.
    async fn ask_for_credentials(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match timeout(METADATA_MAX, self.client.execute(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            _ => Err(failed(StoreFault::NoCredentials { kind: self.kind })),
        }
    }
}

/// Returns whether a host with its port is the metadata service of a cloud.
fn is_metadata(host: &str) -> bool {
    let name = host.strip_suffix(":80").unwrap_or(host);
    let named = METADATA_VARIABLES.iter().filter_map(|variable| std::env::var(variable).ok());
    METADATA_HOSTS.contains(&name)
        || named.into_iter().any(|named| {
            let named = named.trim_start_matches("http://").trim_end_matches('/');
            !named.is_empty() && named == host
        })
}

fn failed(fault: StoreFault) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, fault)
}

async fn listing(body: HttpResponseBody) -> Result<HttpResponseBody, HttpError> {
    let bytes = body.bytes().await?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(xml) => mark_listing(xml).into(),
        Err(_) => bytes.into(),
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Returns the text of the first element `tag`; in a store's error it is plain text.
fn element(xml: &str, tag: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    let (text, _) = rest.split_once("</")?;
    let is_word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_word.then(|| text.to_owned())
}
