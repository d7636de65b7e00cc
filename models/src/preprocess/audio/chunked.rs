//! Chunked long-form transcription: splits audio into overlapping windows and merges their
//! transcripts.
//!
//! # Source
//!
//! `chunk_iter` of `AutomaticSpeechRecognitionPipeline` with `chunk_length_s` = the model's clip,
//! and `_decode_asr` with `_find_longest_common_sequence` of `WhisperTokenizer` (transformers
//! 4.57).

use std::ops::Range;

/// The stride on each side of a window, as a divisor of its length (`stride_length_s`). Adjacent
/// windows overlap by twice the stride.
const STRIDE_SHARE: usize = 6;

/// Returns the sample ranges of the windows of `clip` samples over audio of `n_samples`.
pub(super) fn windows(n_samples: usize, clip: usize) -> Vec<Range<usize>> {
    let stride = clip / STRIDE_SHARE;
    let step = (clip - 2 * stride).max(1);
    let mut windows = Vec::new();
    for start in (0..n_samples).step_by(step) {
        let end = (start + clip).min(n_samples);
        // Audio within the stride of the previous window was covered there.
        if end - start > if start == 0 { 0 } else { stride } {
            windows.push(start..end);
        }
        if end == n_samples {
            break;
        }
    }
    windows
}

/// A segment of a merged transcript. Times are timestamps since the start of the audio.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: Option<i64>,
    pub(crate) end: Option<i64>,
    pub(crate) token_ids: Vec<i64>,
}

/// Merges the transcripts of consecutive windows. `clip` is the length of a window in timestamps.
///
/// All ids from `first_timestamp_id` on are timestamps relative to their window; there may be none.
/// The transcripts must not contain special tokens.
pub(crate) fn join(transcripts: &[Vec<i64>], first_timestamp_id: i64, clip: i64) -> Vec<Segment> {
    let stride = clip / i64::try_from(STRIDE_SHARE).unwrap_or(1);
    let mut joined = Vec::new();
    // The overlapping texts of this segment, one per window that contributes to it.
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
                // The next window is more reliable here; the second timestamp of the pair is
                // dropped too.
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

/// Returns the time from which on timestamps are taken from the next window: the first at or after
/// `right_start`, or else the last one.
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

/// Merges consecutive texts with overlaps. Where most tokens match, the left half of the match is
/// taken from the left text and the right half from the right text.
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

/// Slides `right` along `left` and returns the overlap with the highest share of equal tokens, or
/// the end of `left` and the start of `right` if there is none.
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
        // A small bonus for longer overlaps, as in the reference.
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
    fn windows_overlap_by_a_third_and_cover_everything() {
        assert_eq!(windows(30, 30).len(), 1);
        assert_eq!(windows(31, 30), [0..30, 20..31]);
        assert_eq!(windows(70, 30), [0..30, 20..50, 40..70]);
        assert_eq!(windows(71, 30), [0..30, 20..50, 40..70, 60..71]);
    }

    #[test]
    fn overlapping_text_is_written_once() {
        let texts = [vec![1, 2, 3, 4, 5], vec![3, 4, 5, 6, 7]];
        assert_eq!(overlapped(&texts), [1, 2, 3, 4, 5, 6, 7]);
        // The texts differ within the overlap: each window is trusted in its own half.
        let texts = [vec![1, 2, 3, 4, 9], vec![8, 3, 4, 5, 6]];
        assert_eq!(overlapped(&texts), [1, 2, 3, 4, 5, 6]);
        assert_eq!(overlapped(&[vec![1, 2], vec![3, 4]]), [1, 2, 3, 4]);
    }

    #[test]
    fn segments_across_windows_keep_their_times() {
        // Timestamps start at 100, 50 per second; windows of 30 s start every 20 s.
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
