//! The causes of errors, and their text.

use std::error::Error;

/// A cause of an error: another error of any type, or a text.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Returns an error and its sources.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Returns the messages of an error and its sources, without those that an earlier message contains.
///
/// Some errors of other crates print their source and return it too.
#[must_use]
pub fn messages(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !messages.iter().any(|message| message.contains(&text)) {
            messages.push(text);
        }
    }
    messages
}

/// Returns the [`messages`] of an error, joined by `: `.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    messages(error).join(": ")
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt};

    use super::chain;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as &dyn Error)
        }
    }

    #[test]
    fn repeated_causes_are_printed_once() {
        let cause = Layer("the bucket does not exist", None);
        let read = Layer("failed to read `s3://b`: the bucket does not exist", Some(cause.into()));
        let error = Layer("invalid table", Some(read.into()));
        assert_eq!(
            chain(&error),
            "invalid table: failed to read `s3://b`: the bucket does not exist"
        );
    }
}
