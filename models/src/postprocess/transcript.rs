//! Transcripts with timestamp tokens.

use std::sync::Arc;

use crate::{
    engine::Detokenizer,
    preprocess::{TextProcessor, chunked},
};

/// The seconds per timestamp (`time_precision` of `WhisperTokenizer`, transformers 4.57).
const PRECISION_SECONDS: f64 = 0.02;

/// Decodes transcripts to text. All ids from `first_timestamp_id` on are timestamps.
pub(crate) struct Transcript {
    pub(crate) text: Arc<TextProcessor>,
    pub(crate) first_timestamp_id: i64,
    /// Whether timestamps are part of the output, as with `decode_with_timestamps=True`.
    pub(crate) shows_timestamps: bool,
    /// The length of a clip in seconds.
    pub(crate) clip_seconds: f64,
}

impl Transcript {
    fn is_timestamp(&self, id: i64) -> bool {
        id >= self.first_timestamp_id
    }

    /// Appends a timestamp, counted from the first one.
    #[expect(clippy::cast_precision_loss, reason = "audio has far fewer than 2^52 timestamps")]
    fn write(&self, timestamp: i64, written: &mut String) {
        if self.shows_timestamps {
            let seconds = timestamp as f64 * PRECISION_SECONDS;
            written.push_str(&format!("<|{seconds:.2}|>"));
        }
    }
}

impl Detokenizer for Transcript {
    fn text(&self, token_ids: &[i64]) -> String {
        if !self.shows_timestamps {
            let ids = token_ids.iter().copied().filter(|id| !self.is_timestamp(*id));
            return self.text.text(&ids.collect::<Vec<i64>>());
        }
        let mut written = String::new();
        for ids in token_ids.split_inclusive(|id| self.is_timestamp(*id)) {
            let (text, timestamp) = match ids.split_last() {
                Some((last, text)) if self.is_timestamp(*last) => (text, Some(last)),
                _ => (ids, None),
            };
            written.push_str(&self.text.text(text));
            if let Some(id) = timestamp {
                self.write(id - self.first_timestamp_id, &mut written);
            }
        }
        written
    }

    #[expect(clippy::cast_possible_truncation, reason = "clips have a few seconds")]
    fn joined(&self, parts: &[&[i64]]) -> String {
        let is_text = |id: &&i64| self.is_timestamp(**id) || !self.text.is_special(**id);
        let parts: Vec<Vec<i64>> =
            parts.iter().map(|part| part.iter().filter(is_text).copied().collect()).collect();
        let clip = (self.clip_seconds / PRECISION_SECONDS).round() as i64;
        let mut written = String::new();
        for segment in chunked::join(&parts, self.first_timestamp_id, clip) {
            if let Some(start) = segment.start {
                self.write(start, &mut written);
            }
            written.push_str(&self.text.text(&segment.token_ids));
            if let Some(end) = segment.end {
                self.write(end, &mut written);
            }
        }
        written
    }
}
