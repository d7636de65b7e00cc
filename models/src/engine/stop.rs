//! The conditions that end a row: end tokens, stop strings, limits, endless repetition.

use super::{Detokenizer, FinishReason};

/// Detects answers that are in a loop.
///
/// A row ends as `guard` when its last tokens repeat one n-gram of at most `period_tokens_max`
/// tokens without a gap, at least `repeats_min` times and over at least `tokens_min` tokens in
/// total. Both minimums together are far beyond a list, a table or a refrain: with the defaults, 64
/// tokens have to be purely repetitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The maximum n-gram size in tokens; 0 disables the guard.
    pub period_tokens_max: usize,
    /// The minimum number of repetitions.
    pub repeats_min: usize,
    /// The minimum number of tokens in all repetitions together.
    pub tokens_min: usize,
}

impl Default for Guard {
    fn default() -> Self {
        Self { period_tokens_max: 16, repeats_min: 8, tokens_min: 64 }
    }
}

impl Guard {
    /// Returns whether `token_ids` ends in such a loop.
    #[must_use]
    pub fn trips(&self, token_ids: &[i64]) -> bool {
        (1..=self.period_tokens_max).any(|period| {
            let span = self.tokens_min.max(period * self.repeats_min);
            // A tail has period `p` if every token equals the one `p` before it.
            token_ids.len() >= span && {
                let tail = &token_ids[token_ids.len() - span..];
                tail[period..] == tail[..span - period]
            }
        })
    }
}

/// The stop rules of one engine, applied after each token of a row.
#[derive(Clone, Debug)]
pub(super) struct StopRules {
    pub(super) eos_token_ids: Vec<i64>,
    pub(super) stop_strings: Vec<String>,
    pub(super) guard: Guard,
}

impl StopRules {
    /// Returns the finish reason of a row with the generated `token_ids` and a limit of
    /// `max_new_tokens`, if it ends now.
    pub(super) fn check(
        &self,
        token_ids: &[i64],
        max_new_tokens: usize,
        detokenizer: &dyn Detokenizer,
    ) -> Option<FinishReason> {
        let last = token_ids.last()?;
        if self.eos_token_ids.contains(last) || self.has_stop_string(token_ids, detokenizer) {
            Some(FinishReason::Stop)
        } else if token_ids.len() >= max_new_tokens {
            Some(FinishReason::Length)
        } else if self.guard.trips(token_ids) {
            Some(FinishReason::Guard)
        } else {
            None
        }
    }

    fn has_stop_string(&self, token_ids: &[i64], detokenizer: &dyn Detokenizer) -> bool {
        let Some(longest) = self.stop_strings.iter().map(String::len).max() else { return false };
        // A token has at least one byte, unless it is special and has none: allow for a few of
        // those.
        let tail = &token_ids[token_ids.len().saturating_sub(longest + 8)..];
        let text = detokenizer.text(tail);
        self.stop_strings.iter().any(|stop| text.contains(stop.as_str()))
    }

    /// Returns `text` up to the first stop string after its first `n_given` bytes.
    pub(super) fn cut<'t>(&self, text: &'t str, n_given: usize) -> &'t str {
        let start = if text.is_char_boundary(n_given) { n_given } else { 0 };
        let answer = &text[start..];
        let end = self.stop_strings.iter().filter_map(|stop| answer.find(stop.as_str())).min();
        &text[..end.map_or(text.len(), |end| start + end)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Letters;

    impl Detokenizer for Letters {
        fn text(&self, token_ids: &[i64]) -> String {
            token_ids.iter().map(|id| char::from(u8::try_from(*id).unwrap())).collect()
        }
    }

    fn rules(stop: &[&str]) -> StopRules {
        StopRules {
            eos_token_ids: vec![0],
            stop_strings: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            guard: Guard::default(),
        }
    }

    fn ids(text: &str) -> Vec<i64> {
        text.bytes().map(i64::from).collect()
    }

    #[test]
    fn an_end_token_takes_precedence_over_the_limit() {
        assert_eq!(rules(&[]).check(&[0], 1, &Letters), Some(FinishReason::Stop));
        assert_eq!(rules(&[]).check(&[7], 1, &Letters), Some(FinishReason::Length));
        assert_eq!(rules(&[]).check(&[7], 9, &Letters), None);
    }

    #[test]
    fn a_stop_string_across_tokens_ends_and_is_cut() {
        let rules = rules(&["END", "\n"]);
        assert_eq!(rules.check(&ids("some text EN"), 100, &Letters), None);
        let stopped = rules.check(&ids("some text END"), 100, &Letters);
        assert_eq!(stopped, Some(FinishReason::Stop));
        assert_eq!(rules.cut("some text END", 0), "some text ");
        assert_eq!(rules.cut("ENDING, some text END", 6), "ENDING, some text ");
    }

    #[test]
    fn sixty_four_equal_tokens_trip_the_guard() {
        let mut token_ids = ids("a cat sat on ");
        token_ids.extend([5; 63]);
        assert!(!Guard::default().trips(&token_ids));
        token_ids.push(5);
        assert!(Guard::default().trips(&token_ids));
    }

    proptest! {
        #[test]
        fn the_guard_ignores_texts_without_a_long_loop(
            token_ids in prop::collection::vec(0_i64..50, 0..200),
        ) {
            // 64 random tokens of 50 practically never have a short period.
            prop_assert!(!Guard::default().trips(&token_ids));
        }

        #[test]
        fn any_short_loop_trips_eventually(
            gram in prop::collection::vec(0_i64..50, 1..=16),
            head in prop::collection::vec(0_i64..50, 0..20),
        ) {
            let loops = gram.iter().copied().cycle().take(16 * 8 + 16);
            let token_ids: Vec<i64> = head.into_iter().chain(loops).collect();
            prop_assert!(Guard::default().trips(&token_ids));
        }
    }
}
