//! Opens the stores of URLs, once each, with the configuration in the environment.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use legenda_models::HubOptions;
use object_store::{
    ClientConfigKey::{AllowHttp, ConnectTimeout, Timeout},
    ClientOptions, Error, ObjectStore, ObjectStoreScheme, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    memory::InMemory,
    path::Path,
};
use reqwest::{
    Client,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};
use url::{Origin, Url};

use super::{
    address,
    error::LocationError,
    fault::{Problem, StoreFault, StoreKind, last_cause},
    keys,
    wire::{Connected, Connector, Wire},
};

/// The connection timeout of stores.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The timeout of a call, including its body.
const CALL_MAX: Duration = Duration::from_secs(120);
/// The maximum redirects within an origin.
const REDIRECTS_MAX: usize = 10;

/// Open stores by scheme and bucket; a client keeps connections and credentials.
static STORES: LazyLock<Mutex<HashMap<String, Arc<dyn ObjectStore>>>> =
    LazyLock::new(Mutex::default);

/// Web clients by scheme and host.
static CLIENTS: LazyLock<Mutex<HashMap<(String, Reach), HttpClient>>> =
    LazyLock::new(Mutex::default);

/// The hosts that a web server may redirect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Any host: the user named the file.
    Anywhere,
    /// The same scheme, host and port: a table named the file.
    OwnOrigin,
}

/// A store and the path of a URL in it.
pub(super) type Opened = (Arc<dyn ObjectStore>, Path);

/// Opens the store of an object's URL.
pub(super) fn open_object(url: &str, reach: Reach) -> Result<Opened, LocationError> {
    let refuse = |problem: Problem| LocationError::new(url, problem);
    if keys::is_web(url) {
        let parsed = parse(&address::whole(url)).map_err(refuse)?;
        if scheme_of(&parsed).map_err(refuse)? == ObjectStoreScheme::Http {
            // The whole URL, including its query, is the address of the file.
            return Ok((web_store(&parsed, parsed.as_str(), reach).map_err(refuse)?, Path::ROOT));
        }
        return open_cloud(url, &parsed);
    }
    let (root, key) = keys::split(url);
    let path = keys::path_of(key).map_err(|fault| refuse(fault.into()))?;
    Ok((store_at(root).map_err(refuse)?, path))
}

/// Opens the store of a folder's URL.
pub(super) fn open_folder(url: &str) -> Result<Opened, LocationError> {
    let refuse = |problem: Problem| LocationError::new(url, problem);
    if keys::is_web(url) {
        return open_cloud(url, &parse(url).map_err(refuse)?);
    }
    let (root, key) = keys::split(url);
    let path = keys::folder_path_of(key).map_err(|fault| refuse(fault.into()))?;
    Ok((store_at(root).map_err(refuse)?, path))
}

/// Opens the store of a web-style URL, whose path is decoded once.
fn open_cloud(url: &str, parsed: &Url) -> Result<Opened, LocationError> {
    let refuse = |problem: Problem| LocationError::new(url, problem);
    let (scheme, path) =
        ObjectStoreScheme::parse(parsed).map_err(|error| refuse(error.to_string().into()))?;
    let host = &parsed[..url::Position::BeforePath];
    if scheme == ObjectStoreScheme::Http {
        return Ok((web_store(parsed, host, Reach::Anywhere).map_err(refuse)?, path));
    }
    // Some clouds have the bucket in the host name, others at the start of the path.
    let is_in_host = Path::from_url_path(parsed.path()).is_ok_and(|whole| whole == path);
    let bucket = parsed.path_segments().and_then(|mut names| names.next()).unwrap_or_default();
    let root = if is_in_host { host.to_owned() } else { format!("{host}/{bucket}") };
    Ok((kept(&root, |root| build(&scheme, root)).map_err(refuse)?, path))
}

fn store_at(root: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let parsed = parse(&format!("{root}/"))?;
    let scheme = scheme_of(&parsed)?;
    kept(root, |root| build(&scheme, root))
}

fn parse(url: &str) -> Result<Url, Problem> {
    Url::parse(url).map_err(|error| error.to_string().into())
}

fn scheme_of(url: &Url) -> Result<ObjectStoreScheme, Problem> {
    let mut bare = url.clone();
    bare.set_path("/");
    let parsed = ObjectStoreScheme::parse(&bare);
    parsed.map(|(scheme, _)| scheme).map_err(|error| error.to_string().into())
}

/// Returns the open store at `root`, or opens it.
fn kept(
    root: &str,
    build: impl FnOnce(&str) -> Result<Arc<dyn ObjectStore>, Problem>,
) -> Result<Arc<dyn ObjectStore>, Problem> {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = stores.get(root) {
        return Ok(Arc::clone(store));
    }
    let store = build(root)?;
    stores.insert(root.to_owned(), Arc::clone(&store));
    Ok(store)
}

/// Formats a duration for the configuration of a store.
fn seconds(duration: Duration) -> String {
    format!("{} seconds", duration.as_secs())
}

/// Disables retries in `object_store`: callers retry, because they know what a call was for.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn build(scheme: &ObjectStoreScheme, root: &str) -> Result<Arc<dyn ObjectStore>, Problem> {
    let url = format!("{root}/");
    let built: Result<Arc<dyn ObjectStore>, Error> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(url);
            let endpoint = builder
                .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
                .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
            let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(AllowHttp));
            if is_plain_and_allowed(StoreKind::S3, endpoint, allowed)? {
                builder = builder.with_config(AmazonS3ConfigKey::Client(AllowHttp), "true");
            }
            builder
                .with_retry(no_retry())
                .with_http_connector(Connector(StoreKind::S3))
                .with_config(AmazonS3ConfigKey::Client(ConnectTimeout), seconds(CONNECT_MAX))
                .with_config(AmazonS3ConfigKey::Client(Timeout), seconds(CALL_MAX))
                .build()
                .map(|store| Arc::new(store) as _)
        }
        ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
            .with_url(url)
            .with_retry(no_retry())
            .with_http_connector(Connector(StoreKind::Google))
            .with_config(GoogleConfigKey::Client(ConnectTimeout), seconds(CONNECT_MAX))
            .with_config(GoogleConfigKey::Client(Timeout), seconds(CALL_MAX))
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::MicrosoftAzure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url);
            let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
            let allowed = builder.get_config_value(&AzureConfigKey::Client(AllowHttp));
            if is_plain_and_allowed(StoreKind::Azure, endpoint, allowed)? {
                builder = builder.with_config(AzureConfigKey::Client(AllowHttp), "true");
            }
            builder
                .with_retry(no_retry())
                .with_http_connector(Connector(StoreKind::Azure))
                .with_config(AzureConfigKey::Client(ConnectTimeout), seconds(CONNECT_MAX))
                .with_config(AzureConfigKey::Client(Timeout), seconds(CALL_MAX))
                .build()
                .map(|store| Arc::new(store) as _)
        }
        // Lives as long as the program; for tests without a disk.
        ObjectStoreScheme::Memory => Ok(Arc::new(InMemory::new())),
        _ => {
            return Err(
                "unsupported URL scheme: expected `s3://`, `gs://`, `az://` or `https://`".into()
            );
        }
    };
    // No request was made yet, so the environment is invalid.
    built.map_err(|error| StoreFault::Environment { problem: last_cause(&error) }.into())
}

/// Returns whether to allow an unencrypted endpoint: always on this machine.
///
/// # Errors
///
/// [`StoreFault::PlainHttp`] for another machine if the environment does not allow it.
fn is_plain_and_allowed(
    kind: StoreKind,
    endpoint: Option<String>,
    allowed: Option<String>,
) -> Result<bool, StoreFault> {
    let Some(endpoint) = endpoint.filter(|endpoint| endpoint.to_lowercase().starts_with("http://"))
    else {
        return Ok(false);
    };
    let is_true = |text: String| ["1", "true", "on", "yes", "y"].contains(&&*text.to_lowercase());
    if allowed.is_some_and(is_true) || is_loopback(&endpoint) {
        return Ok(true);
    }
    Err(StoreFault::PlainHttp { kind, endpoint })
}

/// Returns whether a URL refers to this machine.
fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let Some(host) = url.as_ref().and_then(Url::host_str) else { return false };
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    address.is_some_and(|address| address.is_loopback())
        || host == "localhost"
        || host.ends_with(".localhost")
}

/// Returns a web store with the root `root`.
fn web_store(url: &Url, root: &str, reach: Reach) -> Result<Arc<dyn ObjectStore>, Problem> {
    let client = web_client(url, reach).map_err(|error| Problem::from(&error))?;
    HttpBuilder::new()
        .with_url(root)
        .with_retry(no_retry())
        .with_http_connector(Connected(client))
        .build()
        .map(|store| Arc::new(store) as _)
        .map_err(|error| Problem::from(&error))
}

/// Returns the client for a URL's host.
fn web_client(url: &Url, reach: Reach) -> Result<HttpClient, Error> {
    let hub = HubOptions::from_env();
    let is_hub = Url::parse(&hub.endpoint).is_ok_and(|hub| hub.origin() == url.origin());
    // The Hub redirects to other hosts for its files.
    let reach = if is_hub { Reach::Anywhere } else { reach };
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (url[..url::Position::BeforePath].to_owned(), reach);
    if let Some(client) = clients.get(&key) {
        return Ok(client.clone());
    }
    let client = match reach {
        Reach::Anywhere => {
            let options = if is_hub { with_token(&hub) } else { ClientOptions::new() };
            let options = options
                .with_connect_timeout(CONNECT_MAX)
                .with_timeout(CALL_MAX)
                .with_config(AllowHttp, "true");
            Connector(StoreKind::Web).connect(&options)?
        }
        Reach::OwnOrigin => within_origin(url.origin())?,
    };
    clients.insert(key, client.clone());
    Ok(client)
}

/// Returns a client that only follows redirects within an origin.
fn within_origin(origin: Origin) -> Result<HttpClient, Error> {
    let policy = redirect::Policy::custom(move |next| {
        match next.url().origin() == origin && next.previous().len() <= REDIRECTS_MAX {
            true => next.follow(),
            false => next.stop(),
        }
    });
    let client = Client::builder()
        .http1_only()
        .connect_timeout(CONNECT_MAX)
        .timeout(CALL_MAX)
        .redirect(policy)
        .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::Generic { store: "HTTP", source: Box::new(error) })?;
    Ok(HttpClient::new(Wire::new(HttpClient::new(client), StoreKind::Web)))
}

/// Returns options with the Hub token, which the client does not send to hosts it is redirected to.
fn with_token(hub: &HubOptions) -> ClientOptions {
    let options = ClientOptions::new();
    let Some(token) = &hub.token else { return options };
    match HeaderValue::from_str(&format!("Bearer {}", token.secret())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            options.with_default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]))
        }
        Err(_) => options,
    }
}

#[cfg(test)]
mod tests {
    use super::{StoreFault, StoreKind, is_plain_and_allowed};

    #[test]
    fn endpoints_without_encryption_are_for_this_machine_unless_allowed() {
        let of = |endpoint: &str, allowed: Option<&str>| {
            let allowed = allowed.map(str::to_owned);
            is_plain_and_allowed(StoreKind::S3, Some(endpoint.to_owned()), allowed)
        };
        for endpoint in
            ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:1", "HTTP://s3.localhost"]
        {
            assert_eq!(of(endpoint, None), Ok(true), "{endpoint}");
        }
        assert_eq!(of("https://store.example.org", None), Ok(false));
        assert_eq!(of("http://store.example.org", Some("true")), Ok(true));
        for endpoint in
            ["http://store.example.org", "http://127.0.0.1.example.org", "http://10.0.0.1"]
        {
            let endpoint = endpoint.to_owned();
            let refused = of(&endpoint, Some("false")).unwrap_err();
            assert_eq!(refused, StoreFault::PlainHttp { kind: StoreKind::S3, endpoint });
        }
    }
}
