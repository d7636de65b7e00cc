//! What messages show of cells, paths and URLs.
//!
//! A cell may hold a megabyte of base64. Every text that comes of a table passes through here before it
//! becomes a part of an error, a reject, a log line or a report.

use std::borrow::Cow;

/// The most characters of a cell that a message holds.
pub(crate) const CHARS_MAX: usize = 200;

/// Returns `text`, or its beginning where it has more than `chars_max` characters.
#[must_use]
pub fn shortened(text: &str, chars_max: usize) -> Cow<'_, str> {
    if text.char_indices().nth(chars_max).is_none() {
        return Cow::Borrowed(text);
    }
    text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect::<String>().into()
}

/// Returns `text`, or its beginning and its length where it has more than 200 characters.
pub(crate) fn excerpt(text: &str) -> Cow<'_, str> {
    if text.char_indices().nth(CHARS_MAX).is_none() {
        return Cow::Borrowed(text);
    }
    let end = format!("… ({} bytes)", text.len());
    let n_chars = CHARS_MAX - end.chars().count();
    let cut = text.char_indices().nth(n_chars).map_or(text.len(), |(at, _)| at);
    Cow::Owned(format!("{}{end}", &text[..cut]))
}

#[cfg(test)]
mod tests {
    use super::{CHARS_MAX, excerpt};

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(excerpt(&"é".repeat(CHARS_MAX)), "é".repeat(CHARS_MAX));
        let long = "é".repeat(1_000_000);
        let cut = excerpt(&long);
        assert_eq!(cut.chars().count(), CHARS_MAX);
        assert!(cut.ends_with("é… (2000000 bytes)"), "{cut}");
    }
}
