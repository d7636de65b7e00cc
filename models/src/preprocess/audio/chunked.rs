//! Sounds longer than the model hears: cut into windows that overlap, and the transcripts of the
//! windows joined.
//!
//! # Source
//!
//! `chunk_iter` of `AutomaticSpeechRecognitionPipeline` with `chunk_length_s` = the model's clip, and
//! `_decode_asr` with `_find_longest_common_sequence` of `WhisperTokenizer` (transformers 4.57).

use std::ops::Range;

/// Windows overlap by twice one part in this many of their length (`stride_length_s`).
const STRIDE_SHARE: usize = 6;

/// Returns the samples of each window of `clip` samples over a sound of `n_samples`.
pub(super) fn windows(n_samples: usize, clip: usize) -> Vec<Range<usize>> {
    let stride = clip / STRIDE_SHARE;
    let step = (clip - 2 * stride).max(1);
    let mut windows = Vec::new();
    for start in (0..n_samples).step_by(step) {
        let end = (start + clip).min(n_samples);
        // What lies within the stride of the window before was heard there.
        if end - start > if start == 0 { 0 } else { stride } {
            windows.push(start..end);
        }
        if end == n_samples {
            break;
        }
    }
    windows
}

/// A piece of a joined transcript; times are timestamps since the beginning of the sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: Option<i64>,
    pub(crate) end: Option<i64>,
    pub(crate) token_ids: Vec<i64>,
}

/// Joins the transcripts of windows in their order; `clip` is the length of one in timestamps.
///
/// Every id from `first_timestamp_id` on is a timestamp of its window; there may be none. Special
/// tokens are to be left out before.
pub(crate) fn join(transcripts: &[Vec<i64>], first_timestamp_id: i64, clip: i64) -> Vec<Segment> {
    let stride = clip / i64::try_from(STRIDE_SHARE).unwrap_or(1);
    let mut joined = Vec::new();
    // Texts of this segment that overlap, one of each window that had a part in it.
    let mut texts: Vec<Vec<i64>> = Vec::new();
    let mut start = None;
    let mut skips_next = false;
    for (window_idx, transcript) in transcripts.iter().enumerate() {
        let (is_first, is_last) = (window_idx == 0, window_idx + 1 == transcripts.len());
        let offset = i64::try_from(window_idx).unwrap_or(0) * (clip - 2 * stride);
        let time_of = |id: i64| (id >= first_timestamp_id).then(|| id - first_timestamp_id);
        let left_end = if is_first { 0 } else { stride };
        let right_start = (!is_last).then(|| first_in_overlap(transcript, time_of, clip - stride));
        let mut text = Vec::new();
        for id in transcript {
            let Some(time) = time_of(*id) else {
                text.push(*id);
                continue;
            };
            if right_start.flatten().is_some_and(|right_start| time >= right_start) {
                // The next window tells better; the one that follows in the pair goes with it.
                skips_next = true;
            } else if skips_next || (!texts.is_empty() && time < left_end) {
                skips_next = false;
            } else if let Some(begun) = start {
                let time = time + offset;
                if time != begun {
                    texts.push(std::mem::take(&mut text));
                    let token_ids = overlapped(&std::mem::take(&mut texts));
                    joined.push(Segment { start: Some(begun), end: Some(time), token_ids });
                    start = None;
                }
            } else {
                start = Some(time + offset);
            }
        }
        if !text.is_empty() {
            texts.push(text);
        } else if texts.iter().all(Vec::is_empty) {
            texts.clear();
            start = None;
        }
    }
    if !texts.is_empty() {
        joined.push(Segment { start, end: None, token_ids: overlapped(&texts) });
    }
    joined
}

/// Returns the time from which on timestamps are left to the next window: the first at or after
/// `right_start`, or else the last there is.
fn first_in_overlap(
    transcript: &[i64],
    time_of: impl Fn(i64) -> Option<i64>,
    right_start: i64,
) -> Option<i64> {
    let mut found = None;
    for time in transcript.iter().rev().filter_map(|id| time_of(*id)) {
        if found.is_some() && time < right_start {
            break;
        }
        found = Some(time);
    }
    found
}

/// Joins texts of which each overlaps the next: where most tokens agree, the left half of the
/// agreement is taken from the left and the right half from the right.
fn overlapped(texts: &[Vec<i64>]) -> Vec<i64> {
    let Some((first, others)) = texts.split_first() else { return Vec::new() };
    let mut joined = Vec::new();
    let mut left = first.as_slice();
    for right in others {
        let (in_left, in_right) = best_overlap(left, right);
        joined.extend_from_slice(&left[..usize::midpoint(in_left.start, in_left.end)]);
        left = &right[usize::midpoint(in_right.start, in_right.end)..];
    }
    joined.extend_from_slice(left);
    joined
}

/// Slides `right` along `left`; returns what overlaps where the share of equal tokens is best, or the
/// end of `left` and the beginning of `right`.
#[expect(clippy::cast_precision_loss, reason = "texts have far fewer than 2^52 tokens")]
fn best_overlap(left: &[i64], right: &[i64]) -> (Range<usize>, Range<usize>) {
    let mut best = 0.0;
    let mut found = (left.len()..left.len(), 0..0);
    for shift in 1..left.len() + right.len() {
        let in_left =
            left.len().saturating_sub(shift)..left.len().min(left.len() + right.len() - shift);
        let in_right = shift.saturating_sub(left.len())..right.len().min(shift);
        let pairs = left[in_left.clone()].iter().zip(&right[in_right.clone()]);
        let n_equal = pairs.filter(|(left, right)| left == right).count();
        // A little more for longer overlaps, as the reference has it.
        let share = n_equal as f64 / shift as f64 + shift as f64 / 10_000.0;
        if n_equal > 1 && share > best {
            best = share;
            found = (in_left, in_right);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_by_a_third_and_leave_nothing_out() {
        assert_eq!(windows(30, 30).len(), 1);
        assert_eq!(windows(31, 30), [0..30, 20..31]);
        assert_eq!(windows(70, 30), [0..30, 20..50, 40..70]);
        assert_eq!(windows(71, 30), [0..30, 20..50, 40..70, 60..71]);
    }

    #[test]
    fn what_two_windows_both_heard_is_written_once() {
        let texts = [vec![1, 2, 3, 4, 5], vec![3, 4, 5, 6, 7]];
        assert_eq!(overlapped(&texts), [1, 2, 3, 4, 5, 6, 7]);
        // A token heard otherwise within: each window is trusted in its own half.
        let texts = [vec![1, 2, 3, 4, 9], vec![8, 3, 4, 5, 6]];
        assert_eq!(overlapped(&texts), [1, 2, 3, 4, 5, 6]);
        assert_eq!(overlapped(&[vec![1, 2], vec![3, 4]]), [1, 2, 3, 4]);
    }

    #[test]
    fn segments_across_windows_keep_their_times() {
        // Timestamps from 100 on, 50 in a second; windows of 30 s begin every 20 s.
        let at = |seconds: i64| 100 + seconds * 50;
        let transcripts = [
            vec![at(0), 1, 2, at(9), at(9), 3, 4, 5, at(26), at(26), 6, at(29)],
            vec![at(0), 4, 5, at(6), at(6), 6, 7, at(12)],
        ];
        let seconds = |segment: &Segment| {
            (segment.start.map(|t| t / 50), segment.end.map(|t| t / 50), segment.token_ids.clone())
        };
        let joined: Vec<_> = join(&transcripts, 100, 30 * 50).iter().map(seconds).collect();
        let expected = [
            (Some(0), Some(9), vec![1, 2]),
            (Some(9), Some(26), vec![3, 4, 5]),
            (Some(26), Some(32), vec![6, 7]),
        ];
        assert_eq!(joined, expected);
    }
}
