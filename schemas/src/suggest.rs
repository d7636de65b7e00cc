//! Suggestions for misspelled names: keys, enum values, columns, filters, models.

/// Returns the candidate closest to `name`, if one is close enough.
///
/// A candidate is close if its edit distance is at most `max(name.len(), 3) / 3`, ignoring case (the rule
/// of rustc), or if one is a prefix of the other.
#[must_use]
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const PREFIX_CHARS_MIN: usize = 3;
    let folded = name.to_lowercase();
    let n_chars = folded.chars().count();
    let edits_max = n_chars.max(3) / 3;
    let rated = candidates.into_iter().filter_map(|candidate| {
        let other = candidate.to_lowercase();
        let edits = strsim::osa_distance(&folded, &other);
        let is_prefix = n_chars.min(other.chars().count()) >= PREFIX_CHARS_MIN
            && (other.starts_with(&folded) || folded.starts_with(&other));
        (edits <= edits_max || is_prefix).then_some((edits, candidate))
    });
    rated.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// Returns a suffix for an error message, such as "; did you mean `kind`?", or an empty string if no
/// candidate is close.
#[must_use]
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(name, candidates).map_or_else(String::new, |found| format!("; did you mean `{found}`?"))
}

#[cfg(test)]
mod tests {
    use super::{closest, did_you_mean};

    #[test]
    fn the_closest_candidate_is_found() {
        let names = ["kind", "prompt", "system", "language", "max_new_tokens", "\u{554f}\u{984c}"];
        for (name, expected) in [
            ("knid", Some("kind")),
            ("Prompt", Some("prompt")),
            ("promt", Some("prompt")),
            ("lang", Some("language")),
            ("max_new_token", Some("max_new_tokens")),
            ("max_tokens", None),
            ("\u{554f}\u{9898}", Some("\u{554f}\u{984c}")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(closest(name, names), expected, "{name}");
        }
        assert_eq!(did_you_mean("knid", names), "; did you mean `kind`?");
        assert_eq!(did_you_mean("colour", names), "");
    }
}
