//! Rules for timestamp tokens in answers of Whisper.

/// The positions at which timestamps are allowed in an answer: at the start, then in pairs of the
/// end of one segment and the start of the next, never decreasing.
///
/// All tokens after `no_timestamps_id` are timestamps.
///
/// # Source
///
/// `WhisperTimeStampLogitsProcessor` of transformers 4.57.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampRules {
    /// The token that marks an answer without timestamps. It is forbidden.
    pub no_timestamps_id: i64,
    /// The latest timestamp that an answer may start with, as an offset from the first.
    pub initial_max: Option<i64>,
}

impl TimestampRules {
    /// Returns the first timestamp token.
    #[must_use]
    pub fn first_id(&self) -> i64 {
        self.no_timestamps_id + 1
    }

    /// Applies the rules to the logits (`[V]`) of the token after `answer`; forbidden tokens become
    /// -inf.
    pub(super) fn apply(&self, answer: &[i64], eos_token_ids: &[i64], scores: &mut [f32]) {
        let index = |id: i64| usize::try_from(id).unwrap_or(0).min(scores.len());
        let (none, first) = (index(self.no_timestamps_id), index(self.first_id()));
        let end = eos_token_ids.iter().copied().map(index).min().unwrap_or(first);
        let initial_max = self.initial_max.map(|max| index(self.first_id() + max + 1));
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
            // A segment may start when the previous one ends, but may not end when it starts.
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

/// Returns whether the timestamps together are more likely than any other token.
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

    /// Tokens 0 to 3 are text, 4 is the end, 5 is no-timestamps, 6 and above are timestamps.
    fn allowed(answer: &[i64]) -> Vec<usize> {
        let rules = TimestampRules { no_timestamps_id: 5, initial_max: Some(1) };
        let mut scores = [9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        rules.apply(answer, &[4], &mut scores);
        (0..scores.len()).filter(|idx| scores[*idx].is_finite()).collect()
    }

    #[test]
    fn timestamps_come_in_pairs_and_never_go_back() {
        assert_eq!(allowed(&[]), [6, 7], "an answer starts with an early timestamp");
        assert_eq!(allowed(&[7]), [0, 1, 2, 3, 4], "then text");
        assert_eq!(allowed(&[7, 0]), [0, 1, 2, 3, 4, 8, 9], "then text or a later timestamp");
        assert_eq!(allowed(&[7, 0, 8]), [4, 8, 9], "then the end or the start of the next segment");
        assert_eq!(allowed(&[7, 0, 8, 8]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn many_moderate_timestamps_outweigh_the_best_text() {
        let rules = TimestampRules { no_timestamps_id: 1, initial_max: None };
        let mut scores = [1.0, 0.0, 0.5, 0.5, 0.5];
        rules.apply(&[2, 0], &[0], &mut scores);
        assert!(scores[0].is_infinite());
    }
}
