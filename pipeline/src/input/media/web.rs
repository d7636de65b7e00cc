//! Media cells with a web URL.
//!
//! Disabled unless the job allows hosts (`source.media_hosts`). A URL is parsed once, and the connection goes
//! to the address that was checked: host names are resolved here, and private addresses are excluded, so that
//! no row can make the job contact an internal service (CWE-918). Redirects are followed here, each checked
//! like the first URL.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect,
};
use tokio::runtime::Handle;
use url::Url;

use crate::base::{
    excerpt::excerpt,
    store::{address, last_cause},
};

/// The connection timeout.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The timeout of a file, including redirects.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// The maximum number of redirects.
const REDIRECTS_MAX: usize = 3;
/// The maximum attempts after transient errors.
const TRIES_MAX: u32 = 3;
/// The first backoff, doubled after each attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// An error of fetching a URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The job does not allow the URL.
    #[error("invalid URL `{url}`: {problem}")]
    Refused {
        /// The URL without possible secrets.
        url: String,
        /// The reason.
        problem: String,
    },
    /// The request failed.
    #[error("failed to fetch `{url}`: {problem}; use `legenda retry` to try again")]
    Failed {
        /// The URL without possible secrets.
        url: String,
        /// The cause.
        problem: String,
    },
}

/// An entry of `source.media_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedHost {
    /// Whether unencrypted requests are allowed.
    plain: bool,
    /// The name or address; for `*.example.org`, the part after the star.
    name: String,
    /// Whether subdomains are allowed.
    below: bool,
    port: Option<u16>,
}

impl AllowedHost {
    fn parse(entry: &str) -> Self {
        let (plain, rest) = match entry.strip_prefix("http://") {
            Some(rest) => (true, rest),
            None => (false, entry.strip_prefix("https://").unwrap_or(entry)),
        };
        let rest = rest.trim_end_matches('/');
        let port = rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let name = port.and_then(|_| rest.rsplit_once(':')).map_or(rest, |(name, _)| name);
        let below = name.strip_prefix("*.");
        Self { plain, name: below.unwrap_or(name).to_lowercase(), below: below.is_some(), port }
    }

    fn allows(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().to_lowercase();
        let named = host == self.name
            || (self.below && host.strip_suffix(&self.name).is_some_and(|sub| sub.ends_with('.')));
        let scheme = if self.plain { "http" } else { "https" };
        // The default is the port of the scheme.
        let port = self.port.unwrap_or(if self.plain { 80 } else { 443 });
        named && url.scheme() == scheme && url.port_or_known_default() == Some(port)
    }
}

/// Fetches media from allowed hosts.
#[derive(Debug)]
pub(crate) struct Web {
    client: Client,
    hosts: Vec<AllowedHost>,
}

impl Web {
    /// Creates a client for `hosts`: `images.example.org`, `*.example.org`, `http://host:8080`.
    ///
    /// # Errors
    ///
    /// The HTTP library failed to initialise.
    pub(crate) fn new(hosts: &[String]) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_MAX)
            .timeout(FETCH_MAX)
            .redirect(redirect::Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .dns_resolver(Arc::new(PublicOnly))
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, hosts: hosts.iter().map(|host| AllowedHost::parse(host)).collect() })
    }

    /// Fetches `url`: at most `bytes_max + 1` bytes, so that callers can detect files that are too large.
    /// Blocks its thread, which must not belong to `runtime`.
    ///
    /// # Errors
    ///
    /// [`WebError`].
    pub(crate) fn fetch(
        &self,
        url: &str,
        bytes_max: u64,
        runtime: &Handle,
    ) -> Result<Vec<u8>, WebError> {
        runtime.block_on(async {
            match tokio::time::timeout(FETCH_MAX, self.get(url, bytes_max)).await {
                Ok(fetched) => fetched,
                Err(_) => Err(failed(url, format!("timed out after {} s", FETCH_MAX.as_secs()))),
            }
        })
    }

    async fn get(&self, url: &str, bytes_max: u64) -> Result<Vec<u8>, WebError> {
        let mut at = self.check(url)?;
        for _ in 0..=REDIRECTS_MAX {
            match self.ask(&at, bytes_max).await.map_err(|problem| failed(url, problem))? {
                Answer::Bytes(bytes) => return Ok(bytes),
                Answer::Status(status) => {
                    return Err(failed(url, format!("the host returned status {status}")));
                }
                Answer::Redirect(next) => {
                    let next = at.join(&next).map_err(|error| refused(url, &error))?;
                    at = self.check(next.as_str())?;
                }
            }
        }
        Err(failed(url, format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// Requests a file until it was received completely; retries dropped connections and transient errors.
    /// Returns the last error.
    async fn ask(&self, url: &Url, bytes_max: u64) -> Result<Answer, String> {
        let mut pause = PAUSE;
        let mut n_tried = 1;
        loop {
            let problem = match self.ask_once(url, bytes_max).await {
                Ok(Answer::Status(status)) if may_pass(status) => {
                    format!("the host returned status {status}")
                }
                Ok(answer) => return Ok(answer),
                Err(error) if is_lost(&error) => last_cause(&error.without_url()),
                Err(error) => return Err(last_cause(&error.without_url())),
            };
            if n_tried == TRIES_MAX {
                return Err(problem);
            }
            n_tried += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn ask_once(&self, url: &Url, bytes_max: u64) -> Result<Answer, reqwest::Error> {
        let response = self.client.get(url.clone()).send().await?;
        let status = response.status();
        if status.is_redirection() {
            let next = response.headers().get(LOCATION).and_then(|next| next.to_str().ok());
            return Ok(
                next.map_or(Answer::Status(status), |next| Answer::Redirect(next.to_owned()))
            );
        }
        if status.is_success() {
            return read(response, bytes_max).await.map(Answer::Bytes);
        }
        Ok(Answer::Status(status))
    }

    fn check(&self, text: &str) -> Result<Url, WebError> {
        let url = Url::parse(text).map_err(|error| refused(text, &error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused(text, &"it contains a user name or password"));
        }
        // A private address is only contacted if the job lists it itself.
        if !self.hosts.iter().any(|host| host.allows(&url)) {
            let problem = "its host, scheme or port is not in `source.media_hosts`";
            return Err(refused(text, &problem));
        }
        Ok(url)
    }
}

/// The response of a host.
enum Answer {
    Bytes(Vec<u8>),
    /// A redirect to this URL.
    Redirect(String),
    /// Any other status.
    Status(StatusCode),
}

async fn read(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let left = bytes_max.saturating_add(1).saturating_sub(bytes.len() as u64);
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        bytes.extend_from_slice(&chunk[..taken]);
        if taken < chunk.len() {
            break;
        }
    }
    Ok(bytes)
}

fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
}

/// Returns whether the connection failed or was dropped.
fn is_lost(error: &reqwest::Error) -> bool {
    error.is_timeout()
        || error.is_connect()
        || error.is_request()
        || error.is_body()
        || error.is_decode()
}

/// Formats a URL for a message.
fn shown(url: &str) -> String {
    excerpt(&address::bare(url)).into_owned()
}

fn refused(url: &str, problem: &dyn std::fmt::Display) -> WebError {
    WebError::Refused { url: shown(url), problem: problem.to_string() }
}

fn failed(url: &str, problem: String) -> WebError {
    WebError::Failed { url: shown(url), problem }
}

/// Resolves names to public addresses only.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(format!("`{}` has no public address", name.as_str()).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Returns whether an address is on the public internet (IANA's special-purpose registries, RFC 6890 and its
/// updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        // Carrier-grade NAT, protocol assignments, benchmarks, reserved.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // An IPv4 address: mapped, behind NAT64, or 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Of the rest only 2000::/3 is allocated, without Teredo and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::{Web, WebError, is_public};

    #[test]
    fn private_addresses_are_detected() {
        let own = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ];
        for address in own {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn only_hosts_of_the_list_are_asked() {
        let hosts = ["images.example.org", "*.example.net", "http://127.0.0.1:8080"];
        let web = Web::new(&hosts.map(str::to_owned)).unwrap();
        for url in [
            "https://images.example.org/a.png?key=secret",
            "https://IMAGES.example.org/a.png",
            "https://a.b.example.net/x",
            "https://images.example.org:443/a.png",
            "http://127.0.0.1:8080/x",
        ] {
            web.check(url).unwrap();
        }
        for url in [
            "http://images.example.org/a.png",
            "https://images.example.org.evil.com/",
            "https://evilexample.net/",
            "https://user@images.example.org/",
            "https://evil.com\\@images.example.org/",
            "http://127.0.0.1:8081/x",
            "http://127.0.0.1/x",
            "https://images.example.org:8443/a.png",
            "https://images.example.org:80/a.png",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://2130706433/",
            "file:///etc/passwd",
            "ftp://images.example.org/",
            "no url",
        ] {
            assert!(matches!(web.check(url), Err(WebError::Refused { .. })), "{url}");
        }
    }
}
