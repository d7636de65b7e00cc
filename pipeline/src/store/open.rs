//! The stores that URLs name: opened once each, with what the environment says of them.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use legenda_models::HubOptions;
use object_store::{
    ClientConfigKey::{self, ConnectTimeout, Timeout},
    ClientOptions, Error, ObjectStore, ObjectStoreScheme, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    memory::InMemory,
    path::Path,
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;

use super::LocationError;

/// How long a store may take to accept a connection.
const CONNECT_MAX: &str = "10 seconds";
/// How long a store may take to answer a call, body and all.
const CALL_MAX: &str = "120 seconds";

/// The stores that are open, by scheme and bucket: a client keeps connections and credentials.
static STORES: LazyLock<Mutex<HashMap<String, Arc<dyn ObjectStore>>>> =
    LazyLock::new(Mutex::default);

/// Returns the store of a URL, and the path of the URL in it.
pub(super) fn open_store(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), LocationError> {
    let refuse = |problem: String| LocationError { url: url.to_owned(), problem };
    let parsed = Url::parse(url).map_err(|error| refuse(error.to_string()))?;
    let (scheme, path) =
        ObjectStoreScheme::parse(&parsed).map_err(|error| refuse(error.to_string()))?;
    let path = Path::from_url_path(path.as_ref()).map_err(|error| refuse(error.to_string()))?;
    let bucket = &parsed[..url::Position::BeforePath];
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = stores.get(bucket) {
        return Ok((Arc::clone(store), path));
    }
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let built: Result<Arc<dyn ObjectStore>, Error> = match scheme {
        ObjectStoreScheme::AmazonS3 => AmazonS3Builder::from_env()
            .with_url(url)
            .with_retry(retry)
            .with_config(AmazonS3ConfigKey::Client(ConnectTimeout), CONNECT_MAX)
            .with_config(AmazonS3ConfigKey::Client(Timeout), CALL_MAX)
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
            .with_url(url)
            .with_retry(retry)
            .with_config(GoogleConfigKey::Client(ConnectTimeout), CONNECT_MAX)
            .with_config(GoogleConfigKey::Client(Timeout), CALL_MAX)
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::MicrosoftAzure => MicrosoftAzureBuilder::from_env()
            .with_url(url)
            .with_retry(retry)
            .with_config(AzureConfigKey::Client(ConnectTimeout), CONNECT_MAX)
            .with_config(AzureConfigKey::Client(Timeout), CALL_MAX)
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::Http => HttpBuilder::new()
            .with_url(bucket)
            .with_client_options(hub_token(&parsed))
            .with_retry(retry)
            .with_config(ConnectTimeout, CONNECT_MAX)
            .with_config(Timeout, CALL_MAX)
            .with_config(ClientConfigKey::AllowHttp, "true")
            .build()
            .map(|store| Arc::new(store) as _),
        // Lives as long as the program: for tests of what has no disk.
        ObjectStoreScheme::Memory => Ok(Arc::new(InMemory::new())),
        _ => return Err(refuse("no store is known for this kind of URL".to_owned())),
    };
    let store = built.map_err(|error| refuse(error.to_string()))?;
    stores.insert(bucket.to_owned(), Arc::clone(&store));
    Ok((store, path))
}

/// Returns what tells the Hub who asks, where that is who is asked. The client sends it to no host that it
/// is led to.
fn hub_token(url: &Url) -> ClientOptions {
    let options = ClientOptions::new();
    let HubOptions { endpoint, token, .. } = HubOptions::from_env();
    let is_hub = Url::parse(&endpoint).is_ok_and(|hub| hub.origin() == url.origin());
    let Some(token) = token.filter(|_| is_hub) else { return options };
    match HeaderValue::from_str(&format!("Bearer {}", token.secret())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            options.with_default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]))
        }
        Err(_) => options,
    }
}
