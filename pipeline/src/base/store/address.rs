//! Web URLs that contain a secret: a user, a password, or a signature in the query.
//!
//! URLs are stored and shown without secrets; requests use the full URL, which is kept in memory for the
//! lifetime of the process only.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use legenda_schemas::sha256_hex;

use super::keys::is_web;

/// The full URLs, by public name.
static WHOLE: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// Hex digits that distinguish URLs with the same public name.
const DIGEST_CHARS: usize = 8;

/// Returns a URL without user, password, query and fragment.
#[must_use]
pub(crate) fn bare(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

/// Returns a location as it may be shown: a web URL without its secrets, any other location unchanged.
#[must_use]
pub fn public_location(location: &str) -> String {
    if is_web(location) { bare(location) } else { location.to_owned() }
}

/// Returns the public name of a web URL and remembers the full URL; returns any other location unchanged.
/// Two URLs that differ only in the secret get different names.
pub(crate) fn named(url: &str) -> String {
    if !is_web(url) {
        return url.to_owned();
    }
    let mut name = bare(url);
    if name == url {
        return name;
    }
    let mut whole = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    if whole.get(&name).is_some_and(|other| other != url) {
        let digest = sha256_hex([url.as_bytes()]);
        name = format!("{name}?{}", &digest[..DIGEST_CHARS]);
    }
    whole.insert(name.clone(), url.to_owned());
    name
}

/// Returns the full URL of a public name.
pub(crate) fn whole(name: &str) -> String {
    let whole = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    whole.get(name).map_or_else(|| name.to_owned(), String::clone)
}

#[cfg(test)]
mod tests {
    use super::{bare, named, public_location, whole};

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        for (url, shown) in [
            ("https://me:pass@host/a?sig=secret#x", "https://host/a"),
            ("https://host/a@b/c", "https://host/a@b/c"),
            ("https://host?sig=a@b/c", "https://host"),
            ("https://me@you:pass@host:8443/", "https://host:8443/"),
            ("https://host/a", "https://host/a"),
            ("me:pass@host/a?b", "host/a"),
        ] {
            assert_eq!(bare(url), shown);
        }
        assert_eq!(public_location("https://me:pass@host/a?sig=secret"), "https://host/a");
        assert_eq!(public_location("/disk/a?b#c"), "/disk/a?b#c");
    }

    #[test]
    fn whole_urls_are_remembered() {
        let first = "https://u:p@names.example/t.parquet?sig=1";
        assert_eq!(named(first), "https://names.example/t.parquet");
        assert_eq!(named(first), "https://names.example/t.parquet");
        let second = named("https://names.example/t.parquet?sig=2");
        assert!(second.starts_with("https://names.example/t.parquet?") && !second.contains("sig"));
        assert_eq!(whole("https://names.example/t.parquet"), first);
        assert_eq!(whole(&second), "https://names.example/t.parquet?sig=2");
        for location in ["s3://bucket/a?b#c", "/disk/a?b", "https://names.example/other"] {
            assert_eq!(
                (named(location), whole(location)),
                (location.to_owned(), location.to_owned())
            );
        }
    }
}
