//! Subtitles from a transcript with timestamps: SubRip (`.srt`) and WebVTT (`.vtt`).
//!
//! A segment of the transcript becomes one or more cues of at most two lines of 42 characters, the limits that
//! broadcasters and streaming services use for Latin scripts. Cues do not overlap, and there are at least two
//! frames at 25 frames per second between them.

use std::fmt::Write;

/// The maximum number of characters of a line.
const LINE_CHARS_MAX: usize = 42;
/// The maximum number of lines of a cue.
const LINES_MAX: usize = 2;
/// The minimum time between two cues in milliseconds.
const GAP_MS: u64 = 80;
/// The minimum duration of a cue in milliseconds.
const CUE_MS_MIN: u64 = 300;
/// The reading speed in characters per second, for a segment whose end is unknown.
const CHARS_PER_SECOND: f64 = 15.0;

/// Lines of text that are shown together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cue {
    start_ms: u64,
    end_ms: u64,
    lines: Vec<String>,
}

/// A part of a transcript between two timestamps.
#[derive(Clone, Debug, PartialEq)]
struct Segment<'a> {
    start: f64,
    end: Option<f64>,
    text: &'a str,
}

/// Returns a transcript without its timestamps.
pub(crate) fn plain_text(transcript: &str) -> String {
    let segments = segments(transcript);
    let texts: Vec<&str> = segments.iter().map(|segment| segment.text.trim()).collect();
    texts.join(" ")
}

/// Returns a transcript as SubRip.
pub(crate) fn srt(transcript: &str) -> String {
    let mut file = String::new();
    for (idx, Cue { start_ms, end_ms, lines }) in cues(transcript).into_iter().enumerate() {
        let (start, end) = (time(start_ms, ','), time(end_ms, ','));
        let number = idx + 1;
        // Writing to a string does not fail.
        writeln!(file, "{number}\n{start} --> {end}\n{}\n", lines.join("\n")).ok();
    }
    file
}

/// Returns a transcript as WebVTT.
pub(crate) fn vtt(transcript: &str) -> String {
    let mut file = "WEBVTT\n".to_owned();
    for Cue { start_ms, end_ms, lines } in cues(transcript) {
        let (start, end) = (time(start_ms, '.'), time(end_ms, '.'));
        let text = lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(file, "\n{start} --> {end}\n{text}").ok();
    }
    file
}

fn time(ms: u64, separator: char) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{:02}:{:02}:{seconds:02}{separator}{ms:03}", minutes / 60, minutes % 60)
}

/// Splits a transcript such as `<|0.00|> Hello.<|0.84|>` at its timestamps, which come in pairs around a
/// segment; a missing start is the previous timestamp.
fn segments(transcript: &str) -> Vec<Segment<'_>> {
    let mut segments = Vec::new();
    let (mut rest, mut last) = (transcript, 0.0);
    loop {
        let (text, seconds, after) = match next_timestamp(rest) {
            Some((at, seconds, after)) => (&rest[..at], Some(seconds), after),
            None => (rest, None, ""),
        };
        if !text.trim().is_empty() {
            segments.push(Segment { start: last, end: seconds, text });
        }
        let Some(seconds) = seconds else { return segments };
        (last, rest) = (seconds, after);
    }
}

/// Returns the place and the seconds of the first timestamp, and the text after it.
fn next_timestamp(text: &str) -> Option<(usize, f64, &str)> {
    text.match_indices("<|").find_map(|(at, open)| {
        let (digits, after) = text[at + open.len()..].split_once("|>")?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = digits.parse().ok().filter(|_| is_number)?;
        Some((at, seconds, after))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "timestamps are positive and short"
)]
fn cues(transcript: &str) -> Vec<Cue> {
    let segments = segments(transcript);
    let mut cues = Vec::new();
    for (idx, Segment { start, end, text }) in segments.iter().enumerate() {
        let lines = wrapped(text);
        let n_chars = |lines: &[String]| lines.iter().map(|line| line.chars().count()).sum();
        let total: usize = n_chars(&lines);
        let read = start + total as f64 / CHARS_PER_SECOND;
        let next = segments.get(idx + 1).map(|next| next.start).filter(|next| next > start);
        // Windows of long audio overlap a little.
        let end = end.or(next).unwrap_or(read).min(next.unwrap_or(f64::INFINITY));
        let duration = (end - start).max(0.0);
        let mut n_before = 0;
        // A long segment is shown as several cues, each for its share of the characters.
        for lines in lines.chunks(LINES_MAX) {
            let n_after = n_before + n_chars(lines);
            let at = |n: usize| {
                let share = n as f64 / total.max(1) as f64;
                ((start + duration * share) * 1000.0).round() as u64
            };
            let (start_ms, end_ms) = (at(n_before), at(n_after));
            cues.push(Cue { start_ms, end_ms, lines: lines.to_vec() });
            n_before = n_after;
        }
    }
    separate(&mut cues);
    cues
}

/// Orders cues in time, with a gap between two.
fn separate(cues: &mut [Cue]) {
    cues.sort_by_key(|cue| cue.start_ms);
    let mut earliest = 0;
    for idx in 0..cues.len() {
        let next = cues.get(idx + 1).map(|next| next.start_ms.saturating_sub(GAP_MS));
        let cue = &mut cues[idx];
        cue.start_ms = cue.start_ms.max(earliest);
        let shortest = cue.start_ms + CUE_MS_MIN;
        cue.end_ms = cue.end_ms.min(next.unwrap_or(u64::MAX)).max(shortest);
        earliest = cue.end_ms + GAP_MS;
    }
}

/// Splits a text into lines between words; a longer word is split.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut n_chars = 0;
    for word in text.split_whitespace() {
        let chars: Vec<char> = word.chars().collect();
        for (idx, piece) in chars.chunks(LINE_CHARS_MAX).enumerate() {
            let fits = idx == 0 && n_chars + 1 + piece.len() <= LINE_CHARS_MAX;
            match lines.last_mut().filter(|_| fits) {
                Some(line) => {
                    line.push(' ');
                    n_chars += 1;
                    line.extend(piece);
                }
                None => {
                    n_chars = 0;
                    lines.push(piece.iter().collect());
                }
            }
            n_chars += piece.len();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CUE_MS_MIN, GAP_MS, LINE_CHARS_MAX, LINES_MAX, cues, plain_text, srt, vtt};

    #[test]
    fn segments_become_cues() {
        let transcript = "<|0.00|> Hello there.<|1.50|><|1.50|> A < b & c.<|3.00|>";
        assert_eq!(plain_text(transcript), "Hello there. A < b & c.");
        assert_eq!(
            srt(transcript),
            "1\n00:00:00,000 --> 00:00:01,420\nHello there.\n\n\
             2\n00:00:01,500 --> 00:00:03,000\nA < b & c.\n\n"
        );
        assert_eq!(
            vtt(transcript),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.420\nHello there.\n\n\
             00:00:01.500 --> 00:00:03.000\nA &lt; b &amp; c.\n"
        );
        assert_eq!((srt(""), vtt("")), (String::new(), "WEBVTT\n".to_owned()));
        // Not a timestamp, and a segment without an end.
        assert_eq!(plain_text("<|en|> a<|2.00|> b"), "<|en|> a b");
        assert_eq!(srt("<|3600.00|>x"), "1\n01:00:00,000 --> 01:00:00,300\nx\n\n");
    }

    #[test]
    fn a_long_segment_is_shown_in_pieces() {
        let words = "word ".repeat(40);
        let found = cues(&format!("<|0.00|> {words}<|20.00|>"));
        assert!(found.len() > 2);
        let all: Vec<&str> =
            found.iter().flat_map(|cue| &cue.lines).flat_map(|line| line.split(' ')).collect();
        assert_eq!(all.len(), 40);
        assert_eq!(found.last().unwrap().end_ms, 20_000);
        let middle = found[found.len() / 2].start_ms;
        assert!((5_000..15_000).contains(&middle), "{middle}");
    }

    proptest! {
        #[test]
        fn cues_are_short_and_apart(
            parts in prop::collection::vec((0.0..50.0_f64, "[a-z ]{0,200}", 0.0..50.0_f64), 0..12),
        ) {
            let transcript: String = parts
                .iter()
                .map(|(start, text, end)| format!("<|{start:.2}|>{text}<|{end:.2}|>"))
                .collect();
            let found = cues(&transcript);
            for cue in &found {
                prop_assert!(cue.end_ms >= cue.start_ms + CUE_MS_MIN);
                prop_assert!((1..=LINES_MAX).contains(&cue.lines.len()));
                prop_assert!(cue.lines.iter().all(|line| line.chars().count() <= LINE_CHARS_MAX));
            }
            for pair in found.windows(2) {
                prop_assert!(pair[1].start_ms >= pair[0].end_ms + GAP_MS);
            }
            let text = |text: &str| text.split_whitespace().collect::<String>();
            if parts.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                let shown: String = found.iter().flat_map(|cue| &cue.lines).map(|l| text(l)).collect();
                let said: String = parts.iter().map(|(_, said, _)| text(said)).collect();
                prop_assert_eq!(shown, said);
            }
        }
    }
}
