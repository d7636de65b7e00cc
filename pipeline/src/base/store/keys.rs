//! Object keys, taken verbatim. A store URL is a scheme, a bucket and a key: no part of it is decoded, and
//! `?` and `#` are ordinary characters of the key.
//!
//! A key with a segment `.` or `..` cannot be requested: HTTP clients resolve such segments, however they
//! are encoded, and would request another object. `object_store` rejects keys that begin with `/` or
//! contain control characters, and a whole listing if it contains such a key. Those keys are therefore
//! escaped before it parses the listing ([`mark_listing`]), and restored by [`unmarked`].

use std::borrow::Cow;

use object_store::path::{Path, PathPart};
use percent_encoding::percent_decode_str;
use quick_xml::escape::{partial_escape, unescape};
use url::Url;

use super::fault::StoreFault;

/// Splits a store URL into its root (`s3://bucket`) and the key.
pub(super) fn split(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |at| at + "://".len());
    match url[host..].split_once('/') {
        Some((host_name, key)) => (&url[..host + host_name.len()], key),
        None => (url, ""),
    }
}

/// Returns whether `location` is a URL rather than a path.
#[must_use]
pub fn is_url(location: &str) -> bool {
    location.contains("://")
}

/// Returns the key of the file `name` in `dir`, where `""` is the root.
pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Returns whether a URL is a web URL, which is decoded once.
pub(crate) fn is_web(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Returns the path of a URL as a key; returns a local path unchanged.
pub(crate) fn key_of(location: &str) -> Cow<'_, str> {
    if is_web(location)
        && let Ok(url) = Url::parse(location)
    {
        let path = url.path().trim_start_matches('/');
        let decoded = percent_decode_str(path).decode_utf8();
        return decoded
            .map_or_else(|_| Cow::from(path.to_owned()), |text| Cow::from(text.into_owned()));
    }
    match is_url(location) {
        true => Cow::from(split(location).1),
        false => Cow::from(location),
    }
}

/// Returns the path of a key.
///
/// # Errors
///
/// [`StoreFault::Key`] for a key that an HTTP client would alter.
pub(super) fn path_of(key: &str) -> Result<Path, StoreFault> {
    let refuse = |problem| StoreFault::Key { key: key.to_owned(), problem };
    if key.is_empty() {
        return Ok(Path::ROOT);
    }
    if key.starts_with('/') {
        return Err(refuse("begins with `/`"));
    }
    key.split('/').try_fold(Path::ROOT, |path, name| match PathPart::parse(name) {
        Ok(part) => Ok(path.join(part)),
        Err(_) if name == "." || name == ".." => Err(refuse("has a segment `.` or `..`")),
        Err(_) => Err(refuse("contains a control character")),
    })
}

/// Returns the path of a folder's key, with or without a trailing `/`.
///
/// # Errors
///
/// As for [`path_of`].
pub(super) fn folder_path_of(key: &str) -> Result<Path, StoreFault> {
    path_of(key.strip_suffix('/').unwrap_or(key))
}

/// Encloses escaped characters in a key. It is in the private use area, so it is rare in keys.
const MARK: char = '\u{F8FF}';

/// Escapes the characters of a key that a [`Path`] cannot hold.
fn marked(key: &str) -> String {
    let mark = |c: char| format!("{MARK}{:x}{MARK}", u32::from(c));
    // XML readers may trim leading and trailing spaces.
    let last = key.chars().count().saturating_sub(1);
    let ends = |idx: usize, c: char| (idx == 0 || idx == last) && c.is_ascii_whitespace();
    let whole = key.chars().enumerate().map(|(idx, c)| match c {
        _ if c.is_ascii_control() || c == MARK || ends(idx, c) => mark(c),
        _ => c.to_string(),
    });
    let whole: String = whole.collect();
    let segments = whole.split('/').map(|name| match name {
        "" => format!("{MARK}{MARK}"),
        "." => mark('.'),
        ".." => mark('.') + ".",
        name => name.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Returns the original of an escaped key.
pub(super) fn unmarked(key: &str) -> String {
    let pieces = key.split(MARK).enumerate().map(|(idx, piece)| {
        let hex = (idx % 2 == 1).then(|| u32::from_str_radix(piece, 16).ok()).flatten();
        match hex.and_then(char::from_u32) {
            Some(c) => c.to_string(),
            None => piece.to_owned(),
        }
    });
    pieces.collect()
}

/// Returns whether a key contains an escape.
pub(super) fn is_marked(key: &str) -> bool {
    key.contains(MARK)
}

/// Escapes the keys of a listing (S3's and Google's `ListBucketResult`, Azure's `EnumerationResults`).
pub(super) fn mark_listing(xml: &str) -> String {
    let keys = mark_elements(xml, "Key", marked);
    let keys = mark_elements(&keys, "Name", marked);
    // A folder ends with `/`, which a path omits.
    mark_elements(&keys, "Prefix", |folder| match folder.strip_suffix('/') {
        Some(folder) => marked(folder) + "/",
        None => marked(folder),
    })
}

/// Replaces the text of all elements `tag`, which have no attributes.
fn mark_elements(xml: &str, tag: &str, mark: impl Fn(&str) -> String) -> String {
    let (opening, closing) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut written = String::with_capacity(xml.len());
    let mut pieces = xml.split(&opening);
    written.extend(pieces.next());
    for piece in pieces {
        written.push_str(&opening);
        let (text, rest) =
            piece.split_once(&closing).map_or((piece, None), |(text, rest)| (text, Some(rest)));
        let key = unescape(text).unwrap_or(Cow::Borrowed(text));
        let replaced = mark(&key);
        // Keys without escapes stay as the store wrote them.
        if text.is_empty() || replaced == key {
            written.push_str(text);
        } else {
            written.push_str(&partial_escape(replaced));
        }
        if let Some(rest) = rest {
            written.push_str(&closing);
            written.push_str(rest);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::{folder_path_of, key_of, mark_listing, marked, path_of, split, unmarked};

    /// All printable ASCII characters except `/`.
    fn printable() -> String {
        (' '..='~').filter(|c| *c != '/').collect()
    }

    #[test]
    fn keys_are_taken_as_they_stand() {
        let all = format!("a/{}.jpg", printable());
        for key in [
            "a b.jpg",
            "q?mark.jpg",
            "hash#1.jpg",
            "percent%20x.jpg",
            "a//b",
            "a///b//c",
            "ünï+.jpg",
            "a/",
            &all,
        ] {
            assert_eq!(path_of(key).unwrap().as_ref(), key);
            let url = format!("s3://bucket/{key}");
            assert_eq!(split(&url), ("s3://bucket", key));
            assert_eq!(key_of(&url), key);
        }
        assert_eq!(split("s3://bucket"), ("s3://bucket", ""));
        assert_eq!(split("memory:///a/b"), ("memory://", "a/b"));
        assert_eq!(folder_path_of("pre%fix/").unwrap().as_ref(), "pre%fix");
        assert_eq!(folder_path_of("a//").unwrap().as_ref(), "a/");
        assert_eq!(folder_path_of("").unwrap(), Path::ROOT);
    }

    #[test]
    fn keys_that_would_become_others_are_refused() {
        for key in ["/a", "a/./b", "a/../b", ".", "..", "a/..", "a\nb", "a\u{7f}"] {
            let refused = path_of(key).unwrap_err().to_string();
            assert!(refused.contains(key), "{refused}");
        }
        // The percent-encoded form is an ordinary name.
        assert_eq!(path_of("a/%2e%2e/b").unwrap().as_ref(), "a/%2e%2e/b");
    }

    #[test]
    fn urls_of_the_web_are_decoded_once() {
        assert_eq!(key_of("https://h/d=a%20b/x%2520y.jpg?sig=a/b=c#z"), "d=a b/x%20y.jpg");
        assert_eq!(key_of("/data/a%20b"), "/data/a%20b");
    }

    #[test]
    fn invalid_path_characters_are_escaped_and_restored() {
        let odd = [
            "/a",
            "a//b",
            "a/./b",
            "../b",
            "a/",
            "a\nb",
            " a",
            "a ",
            "a\u{f8ff}b",
            "\u{f8ff}2e\u{f8ff}",
        ];
        for key in odd {
            let held = marked(key);
            assert_eq!(Path::parse(&held).unwrap().as_ref(), held, "{key:?}");
            assert_eq!(unmarked(&held), key);
            assert_ne!(held, key);
        }
        for key in ["a/b.c", "..a/b..", "a b", "%2e%2e/x", &printable()[1..]] {
            assert_eq!(marked(key), key);
            assert_eq!(unmarked(key), key);
        }
    }

    #[test]
    fn a_listing_keeps_its_plain_keys_and_marks_the_others() {
        let plain = "<R><Name>bucket</Name><Prefix></Prefix><Contents><Key>a&amp;b &lt;1&gt;.jpg</Key></Contents>\
                     <CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes></R>";
        assert_eq!(mark_listing(plain), plain);
        let odd = "<Key>a&amp;/./b</Key><Key>x&#10;y</Key><Prefix>a//</Prefix>";
        let keys: Vec<String> = mark_listing(odd)
            .split('<')
            .filter_map(|piece| piece.strip_prefix("Key>").or(piece.strip_prefix("Prefix>")))
            .map(|text| unmarked(&text.replace("&amp;", "&")))
            .collect();
        assert_eq!(keys, ["a&/./b", "x\ny", "a//"]);
    }
}
