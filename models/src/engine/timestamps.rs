//! Rules for answers with timestamps among the text: Whisper's.

/// Where timestamps may stand in an answer: at its beginning, then in pairs, the end of a segment
/// and the beginning of the next, and never back in time.
///
/// Tokens from one above `no_timestamps_id` on are timestamps.
///
/// # Source
///
/// `WhisperTimeStampLogitsProcessor` of transformers 4.57.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampRules {
    /// The token that says that there are none; it does not come.
    pub no_timestamps_id: i64,
    /// The latest timestamp that an answer may begin with, counted from the first.
    pub initial_max: Option<i64>,
}

impl TimestampRules {
    /// Returns the first timestamp.
    #[must_use]
    pub fn first_id(&self) -> i64 {
        self.no_timestamps_id + 1
    }

    /// Changes the scores of the next token (`[V]`) after `answer`; what is forbidden becomes -inf.
    pub(super) fn apply(&self, answer: &[i64], eos_token_ids: &[i64], scores: &mut [f32]) {
        let place = |id: i64| usize::try_from(id).unwrap_or(0).min(scores.len());
        let (none, first) = (place(self.no_timestamps_id), place(self.first_id()));
        let end = eos_token_ids.iter().copied().map(place).min().unwrap_or(first);
        let initial_max = self.initial_max.map(|max| place(self.first_id() + max + 1));
        let n_scores = scores.len();
        let mut forbid = |range: std::ops::Range<usize>| {
            let (start, end) = (range.start.min(n_scores), range.end.min(n_scores));
            if start < end {
                scores[start..end].fill(f32::NEG_INFINITY);
            }
        };
        forbid(none..first);
        let is_timestamp = |id: &i64| *id >= self.first_id();
        let ends_with_one = answer.last().is_some_and(is_timestamp);
        let ends_with_pair = ends_with_one
            && answer.len().checked_sub(2).is_none_or(|before| is_timestamp(&answer[before]));
        if ends_with_pair {
            forbid(first..usize::MAX);
        } else if ends_with_one {
            forbid(0..end);
        }
        if let Some(last) = answer.iter().rfind(|id| is_timestamp(id)) {
            // A segment may begin when the one before ends, but does not end when it begins.
            let is_repeatable = ends_with_one && !ends_with_pair;
            let next = usize::try_from(if is_repeatable { *last } else { last + 1 });
            forbid(first..next.unwrap_or(usize::MAX));
        }
        if answer.is_empty() {
            forbid(0..first);
            if let Some(too_late) = initial_max {
                forbid(too_late..usize::MAX);
            }
        }
        if timestamps_prevail(scores, first) {
            scores[..first].fill(f32::NEG_INFINITY);
        }
    }
}

/// Returns whether all timestamps together are likelier than any other token.
fn timestamps_prevail(scores: &[f32], first: usize) -> bool {
    let (text, timestamps) = scores.split_at(first);
    let best = |scores: &[f32]| scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let best_timestamp = best(timestamps);
    if best_timestamp == f32::NEG_INFINITY {
        return false;
    }
    let sum: f32 = timestamps.iter().map(|score| (score - best_timestamp).exp()).sum();
    best_timestamp + sum.ln() > best(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text 0 to 3, the end 4, no timestamps 5, timestamps from 6.
    fn allowed(answer: &[i64]) -> Vec<usize> {
        let rules = TimestampRules { no_timestamps_id: 5, initial_max: Some(1) };
        let mut scores = [9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        rules.apply(answer, &[4], &mut scores);
        (0..scores.len()).filter(|idx| scores[*idx].is_finite()).collect()
    }

    #[test]
    fn timestamps_come_in_pairs_and_never_go_back() {
        assert_eq!(allowed(&[]), [6, 7], "an answer begins with an early timestamp");
        assert_eq!(allowed(&[7]), [0, 1, 2, 3, 4], "text follows it");
        assert_eq!(allowed(&[7, 0]), [0, 1, 2, 3, 4, 8, 9], "and a later timestamp that");
        assert_eq!(allowed(&[7, 0, 8]), [4, 8, 9], "the end, or where the next segment begins");
        assert_eq!(allowed(&[7, 0, 8, 8]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn many_middling_timestamps_outweigh_the_best_text() {
        let rules = TimestampRules { no_timestamps_id: 1, initial_max: None };
        let mut scores = [1.0, 0.0, 0.5, 0.5, 0.5];
        rules.apply(&[2, 0], &[0], &mut scores);
        assert!(scores[0].is_infinite());
    }
}
