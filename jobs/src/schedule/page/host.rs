//! The hosts that the page answers to. Any site can let its own name resolve to this machine (DNS
//! rebinding) and would then read the page as a part of itself, so only names that cannot be another
//! site's are answered to.

use std::{net::IpAddr, str::FromStr};

use axum::http::{HeaderMap, Uri, header::HOST, uri::Authority};

/// The address of this machine that a connection came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival(pub(super) IpAddr);

/// A host that a page is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageHost {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Why a text is not a host.
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
    /// Returns whether the page is served to this host at the address `arrival`, or by one of the `names`
    /// that it was given.
    fn is_served(&self, arrival: IpAddr, names: &[Self]) -> bool {
        match self {
            Self::Name(name) if name == "localhost" => true,
            Self::Address(address) if address.is_loopback() => true,
            Self::Address(address) if *address == arrival.to_canonical() => true,
            host => names.contains(host),
        }
    }
}

/// Returns whether a request that came to the address `arrival` asks for a host that is served.
pub(super) fn is_served(
    headers: &HeaderMap,
    uri: &Uri,
    Arrival(arrival): Arrival,
    names: &[PageHost],
) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    // A request may name its host twice: in its target too.
    host.iter().chain(uri.authority()).all(|host| {
        let has_user = host.as_str().contains('@');
        let host = host.host().parse::<PageHost>();
        !has_user && host.is_ok_and(|host| host.is_served(arrival, names))
    }) && host.is_some()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Uri, header::HOST};

    use super::{Arrival, PageHost, is_served};

    fn is_served_at(arrival: &str, hosts: &[&'static str], target: &str) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        let names = ["Legenda.example.com", "2001:DB8::7"].map(|name| name.parse().unwrap());
        let arrival = Arrival(arrival.parse().unwrap());
        is_served(&headers, &target.parse::<Uri>().unwrap(), arrival, &names)
    }

    #[test]
    fn names_of_this_machine_and_those_given_are_served() {
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
            assert!(is_served_at("10.1.2.3", &[host], "/"), "{host}");
            assert!(is_served_at("::ffff:10.1.2.3", &[host], "/"), "{host}");
        }
        assert!(is_served_at("127.0.0.1", &["localhost"], "http://127.0.0.1/"));
    }

    #[test]
    fn other_hosts_are_not_served() {
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
            assert!(!is_served_at("10.1.2.3", &[host], "/"), "{host}");
        }
        assert!(!is_served_at("127.0.0.1", &["10.1.2.3"], "/"));
        assert!(!is_served_at("127.0.0.1", &[], "/"));
        assert!(!is_served_at("127.0.0.1", &["localhost", "evil.example"], "/"));
        assert!(!is_served_at("127.0.0.1", &["localhost"], "http://evil.example/"));
    }

    #[test]
    fn a_name_has_no_port_and_no_scheme() {
        for text in ["", "a:80", "http://a", "a/b", "a b", "[::1]:80", "*"] {
            assert!(text.parse::<PageHost>().is_err(), "{text}");
        }
    }
}
