//! Truncation of cells, paths and URLs in messages.
//!
//! A cell may contain a megabyte of base64. Every text from a table is truncated here before it becomes part
//! of an error, a reject, a log line or a report.

use std::borrow::Cow;

/// The maximum characters of a cell in a message.
pub(crate) const CHARS_MAX: usize = 200;

/// Returns `text`, truncated to `chars_max` characters.
#[must_use]
pub fn shortened(text: &str, chars_max: usize) -> Cow<'_, str> {
    if text.char_indices().nth(chars_max).is_none() {
        return Cow::Borrowed(text);
    }
    text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect::<String>().into()
}

/// Returns `text`; if it has more than 200 characters, its start and its length.
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
