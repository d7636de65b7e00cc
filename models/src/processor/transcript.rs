//! Transcripts of a model whose vocabulary has timestamps.

use std::sync::Arc;

use super::TextProcessor;
use crate::engine::Detokenizer;

/// Seconds between two timestamps (`time_precision` of `WhisperTokenizer`, transformers 4.57).
const PRECISION_SECONDS: f64 = 0.02;

/// Turns ids of transcripts into text; every id from `first_timestamp_id` on is a timestamp.
pub(crate) struct Transcript {
    pub(crate) text: Arc<TextProcessor>,
    pub(crate) first_timestamp_id: i64,
    /// Whether timestamps are written, as `decode_with_timestamps=True` does, or left out.
    pub(crate) shows_timestamps: bool,
}

impl Detokenizer for Transcript {
    #[expect(clippy::cast_precision_loss, reason = "a vocabulary is far smaller than 2^52")]
    fn text(&self, token_ids: &[i64]) -> String {
        let is_timestamp = |id: &i64| *id >= self.first_timestamp_id;
        if !self.shows_timestamps {
            let text: Vec<i64> = token_ids.iter().copied().filter(|id| !is_timestamp(id)).collect();
            return self.text.text(&text);
        }
        let mut written = String::new();
        for ids in token_ids.split_inclusive(is_timestamp) {
            let (text, timestamp) = match ids.split_last() {
                Some((last, text)) if is_timestamp(last) => (text, Some(last)),
                _ => (ids, None),
            };
            written.push_str(&self.text.text(text));
            if let Some(id) = timestamp {
                let seconds = (id - self.first_timestamp_id) as f64 * PRECISION_SECONDS;
                written.push_str(&format!("<|{seconds:.2}|>"));
            }
        }
        written
    }
}
