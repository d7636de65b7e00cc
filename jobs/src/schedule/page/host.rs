//! The check of the `Host` header. Any site can make its own name resolve to this machine (DNS rebinding)
//! and would then read the page as same-origin. So the page accepts only host names that cannot belong
//! to another site.

use std::{net::IpAddr, str::FromStr};

use axum::http::{HeaderMap, Uri, header::HOST, uri::Authority};

/// The local address of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalAddress(pub(super) IpAddr);

/// A host that the page can be requested by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageHost {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// The error of parsing a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or an IP address without a port, such as `legenda.example.com`")]
pub(crate) struct PageHostError;

impl FromStr for PageHost {
    type Err = PageHostError;

    fn from_str(text: &str) -> Result<Self, PageHostError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_part) {
            return Err(PageHostError);
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

impl PageHost {
    /// Returns whether the host is a name of this machine at `address`, or one of `names`.
    fn is_allowed(&self, address: IpAddr, names: &[Self]) -> bool {
        match self {
            Self::Name(name) if name == "localhost" => true,
            Self::Address(host) if host.is_loopback() => true,
            Self::Address(host) if *host == address.to_canonical() => true,
            host => names.contains(host),
        }
    }
}

/// Returns whether the host of a request on the local address `address` is allowed.
pub(super) fn is_allowed(
    headers: &HeaderMap,
    uri: &Uri,
    LocalAddress(address): LocalAddress,
    names: &[PageHost],
) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    // The target of the request may contain the host too.
    host.iter().chain(uri.authority()).all(|host| {
        let has_user = host.as_str().contains('@');
        let host = host.host().parse::<PageHost>();
        !has_user && host.is_ok_and(|host| host.is_allowed(address, names))
    }) && host.is_some()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Uri, header::HOST};

    use super::{LocalAddress, PageHost, is_allowed};

    fn is_allowed_at(address: &str, hosts: &[&'static str], target: &str) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        let names = ["Legenda.example.com", "2001:DB8::7"].map(|name| name.parse().unwrap());
        let address = LocalAddress(address.parse().unwrap());
        is_allowed(&headers, &target.parse::<Uri>().unwrap(), address, &names)
    }

    #[test]
    fn names_of_this_machine_and_configured_names_are_allowed() {
        for host in [
            "localhost",
            "LocalHost:7788",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:7788",
            "legenda.example.com.:80",
            "[2001:db8:0::7]:80",
            "10.1.2.3:7788",
        ] {
            assert!(is_allowed_at("10.1.2.3", &[host], "/"), "{host}");
            assert!(is_allowed_at("::ffff:10.1.2.3", &[host], "/"), "{host}");
        }
        assert!(is_allowed_at("127.0.0.1", &["localhost"], "http://127.0.0.1/"));
    }

    #[test]
    fn other_hosts_are_rejected() {
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:7788",
            "me@localhost",
            "10.1.2.4",
            "0.0.0.0",
            "[::]:7788",
            "example.com",
            "localhost, evil.example",
            "localhost/",
        ] {
            assert!(!is_allowed_at("10.1.2.3", &[host], "/"), "{host}");
        }
        assert!(!is_allowed_at("127.0.0.1", &["10.1.2.3"], "/"));
        assert!(!is_allowed_at("127.0.0.1", &[], "/"));
        assert!(!is_allowed_at("127.0.0.1", &["localhost", "evil.example"], "/"));
        assert!(!is_allowed_at("127.0.0.1", &["localhost"], "http://evil.example/"));
    }

    #[test]
    fn ports_and_schemes_are_rejected() {
        for text in ["", "a:80", "http://a", "a/b", "a b", "[::1]:80", "*"] {
            assert!(text.parse::<PageHost>().is_err(), "{text}");
        }
    }
}
