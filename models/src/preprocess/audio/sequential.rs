//! Sequential long-form transcription: each window starts where the transcript of the previous one
//! ends.
//!
//! # Source
//!
//! `WhisperGenerationMixin.generate` with `return_timestamps=True` of transformers 4.57, and the
//! methods it calls: `_get_input_segment`, `_prepare_decoder_input_ids` and `_retrieve_segment`.

use std::{fmt, sync::Arc};

use crate::{
    engine::{Detokenizer, Generation},
    preprocess::{Sample, TextProcessor},
    tensors::Tensor,
};

/// The seconds per timestamp, and per frame (`time_precision` and `time_precision_features` of the
/// reference).
const TIMESTAMP_SECONDS: f64 = 0.02;
const FRAME_SECONDS: f64 = 0.01;

/// From this temperature on, a transcript is too unreliable to be the context of the next window.
const UNCERTAIN_TEMPERATURE: f32 = 0.5;

/// The rules of sequential transcription.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SequentialRules {
    /// The decoder start tokens.
    pub(crate) start_ids: Vec<i64>,
    /// The position of the start token that the model chooses in the first window.
    pub(crate) choice_position: Option<usize>,
    /// The end tokens. Any of them ends a transcript.
    pub(crate) eos_token_ids: Vec<i64>,
    /// The first timestamp id. All ids from here on are timestamps.
    pub(crate) first_timestamp_id: i64,
    /// The token before the previous transcript, if the model has one.
    pub(crate) previous_id: Option<i64>,
    /// Whether the previous transcript is part of the prompt.
    pub(crate) conditions_on_previous: bool,
    /// The maximum number of its tokens.
    pub(crate) previous_tokens_max: usize,
    /// The length of a window in timestamps.
    pub(crate) clip_timestamps: usize,
    /// Whether timestamps are part of the output.
    pub(crate) shows_timestamps: bool,
}

/// An audio input that is being transcribed.
///
/// To use it, fetch the next window, generate its transcript, pass it to [`take`](Self::take), and
/// repeat until no window is left.
pub struct SequentialAudio {
    rules: Arc<SequentialRules>,
    text: Arc<TextProcessor>,
    /// `[mels, frames]`
    features: Tensor<f32>,
    /// The number of frames of a window.
    clip_frames: usize,
    /// The first frame of the next window.
    seek: usize,
    chosen_id: Option<i64>,
    conditions: bool,
    /// Whether the remaining windows are decoded without beams.
    is_single: bool,
    segments: Vec<Segment>,
    /// The model's answers, including tokens outside of segments.
    windows: Vec<Generation>,
}

/// A segment of a transcript: its tokens with timestamps, and its times in seconds.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    start: f64,
    end: f64,
    token_ids: Vec<i64>,
}

/// Prints only the length.
impl fmt::Debug for SequentialAudio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequentialAudio")
            .field("features", &self.features)
            .field("seek", &self.seek)
            .finish_non_exhaustive()
    }
}

impl SequentialAudio {
    /// Starts with `features`, `[mels, frames]`. A window has `clip_frames`.
    pub(in crate::preprocess) fn new(
        rules: Arc<SequentialRules>,
        text: Arc<TextProcessor>,
        features: Tensor<f32>,
        clip_frames: usize,
    ) -> Self {
        Self {
            rules,
            text,
            features,
            clip_frames,
            seek: 0,
            chosen_id: None,
            conditions: false,
            is_single: false,
            segments: Vec::new(),
            windows: Vec::new(),
        }
    }

    /// Returns the size in bytes, for memory budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.features.size_bytes()
    }

    fn n_frames(&self) -> usize {
        self.features.row_len()
    }

    /// Returns the number of audio frames in the next window, without padding.
    fn window_frames(&self) -> usize {
        self.n_frames().saturating_sub(self.seek).min(self.clip_frames)
    }

    /// Returns the next window; `None` at the end of the audio.
    #[must_use]
    pub fn window(&self) -> Option<Sample> {
        let (n_frames, clip_frames) = (self.window_frames(), self.clip_frames);
        if n_frames == 0 {
            return None;
        }
        let n_mels = self.features.rows();
        let mut values = Tensor::zeros([1, n_mels, clip_frames]);
        for (mel_idx, row) in values.data_mut().chunks_exact_mut(clip_frames).enumerate() {
            let source = &self.features.row(mel_idx)[self.seek..self.seek + n_frames];
            row[..n_frames].copy_from_slice(source);
        }
        Some(Sample {
            token_ids: self.prompt_ids(),
            pixel_values: None,
            image_layouts: Vec::new(),
            input_features: Some(values),
            sound_frames: Vec::new(),
            is_single: self.is_single,
            subject: None,
        })
    }

    /// Returns the tokens before the transcript of the next window; empty until the model has
    /// chosen one of them.
    fn prompt_ids(&self) -> Vec<i64> {
        let rules = &self.rules;
        let mut start_ids = rules.start_ids.clone();
        match (rules.choice_position, self.chosen_id) {
            (Some(position), Some(chosen_id)) => start_ids[position] = chosen_id,
            (Some(_), None) => return Vec::new(),
            (None, _) => {}
        }
        if !self.conditions || self.segments.is_empty() {
            return start_ids;
        }
        let is_timestamp = |id: &i64| *id >= rules.first_timestamp_id;
        let mut previous: Vec<i64> = Vec::new();
        for Segment { token_ids, .. } in &self.segments {
            // If two timestamps end the segment, the second is the start of the next segment.
            let n_tokens = token_ids.len();
            let ends_twice = n_tokens > 2 && is_timestamp(&token_ids[n_tokens - 2]);
            previous.extend(&token_ids[..n_tokens - usize::from(ends_twice)]);
        }
        let cut = previous.len().saturating_sub(rules.previous_tokens_max);
        let previous = previous.split_off(cut);
        rules.previous_id.into_iter().chain(previous).chain(start_ids).collect()
    }

    /// Takes the answer to the last requested window.
    pub fn take(&mut self, window: Generation) {
        let trial = window.trial;
        self.chosen_id = self.chosen_id.or(trial.chosen_id);
        // The reference disables beams for a sampling attempt and does not enable them again.
        self.is_single |= trial.temperature > 0.0;
        self.conditions =
            self.rules.conditions_on_previous && trial.temperature < UNCERTAIN_TEMPERATURE;
        let n_frames = self.window_frames();
        let mut token_ids = window.token_ids.as_slice();
        if let Some((last, others)) = token_ids.split_last()
            && self.rules.eos_token_ids.contains(last)
        {
            token_ids = others;
        }
        let n_heard = if trial.is_silence {
            n_frames
        } else {
            let frames = WindowFrames { seek: self.seek, n_frames, clip_frames: self.clip_frames };
            let (segments, n_heard) = self.rules.segments(token_ids, frames);
            self.segments.extend(segments);
            n_heard
        };
        self.seek += n_heard;
        self.windows.push(window);
    }

    /// Returns the answer to the whole audio: the tokens of all segments, and their text.
    #[must_use]
    pub fn answer(self) -> Generation {
        let decode = |token_ids: &[i64]| {
            let is_text = |id: &&i64| **id < self.rules.first_timestamp_id;
            self.text.text(&token_ids.iter().filter(is_text).copied().collect::<Vec<i64>>())
        };
        let text_of = |Segment { start, end, token_ids }: &Segment| {
            format!("<|{start:.2}|>{}<|{end:.2}|>", decode(token_ids))
        };
        let segments = self.segments.iter();
        let token_ids: Vec<i64> =
            segments.clone().flat_map(|segment| &segment.token_ids).copied().collect();
        let text = if self.rules.shows_timestamps {
            segments.map(text_of).collect()
        } else {
            decode(&token_ids)
        };
        let whole = Generation::joined(self.windows, String::new());
        Generation { token_ids, text, ..whole }
    }
}

/// The bounds of a window: its first frame, its audio frames, and all its frames.
#[derive(Clone, Copy, Debug)]
struct WindowFrames {
    seek: usize,
    n_frames: usize,
    clip_frames: usize,
}

impl SequentialRules {
    /// Splits the transcript of a window, without the end token, into segments. Returns them and
    /// the number of frames that they cover.
    ///
    /// A pair of timestamps ends a segment and starts the next. Audio after the last pair is
    /// transcribed again in the next window, unless a single timestamp marks the end of speech.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "there are far fewer than 2^52 frames and timestamps"
    )]
    fn segments(&self, token_ids: &[i64], frames: WindowFrames) -> (Vec<Segment>, usize) {
        let WindowFrames { seek, n_frames, clip_frames } = frames;
        let stride = (clip_frames / self.clip_timestamps.max(1)).max(1);
        let offset = seek as f64 * TIMESTAMP_SECONDS / stride as f64;
        let is_timestamp = |id: &i64| *id >= self.first_timestamp_id;
        let timestamp = |id: i64| id - self.first_timestamp_id;
        let seconds = |timestamp: i64| offset + timestamp as f64 * TIMESTAMP_SECONDS;
        let is_pair = |place: &usize| token_ids[place - 1..=*place].iter().all(is_timestamp);
        let mut ends: Vec<usize> = (1..token_ids.len()).filter(is_pair).collect();
        let Some(last) = ends.last_mut() else {
            let last = token_ids.iter().rfind(|id| is_timestamp(id)).copied().map(timestamp);
            let whole = (n_frames as f64 * FRAME_SECONDS / TIMESTAMP_SECONDS) as i64;
            let end = seconds(last.filter(|last| *last != 0).unwrap_or(whole));
            let segment = Segment { start: offset, end, token_ids: token_ids.to_vec() };
            return (vec![segment], n_frames);
        };
        let n_tokens = token_ids.len();
        let is_timestamp_at = |place: usize| token_ids.get(place).is_some_and(is_timestamp);
        let ends_once = is_timestamp_at(n_tokens - 1) && !is_timestamp_at(n_tokens - 2);
        // The second timestamp of the last pair stays with the segment that it ends.
        *last += usize::from(!ends_once);
        let n_heard = if ends_once {
            ends.push(n_tokens);
            n_frames
        } else {
            let end = timestamp(token_ids[*last - 2]);
            // A pair at 0 would violate the timestamp rules and repeat the window forever.
            usize::try_from(end).ok().filter(|end| *end > 0).map_or(n_frames, |end| end * stride)
        };
        let mut segments = Vec::with_capacity(ends.len());
        let mut start = 0;
        for (idx, end) in ends.iter().copied().enumerate() {
            let sliced = &token_ids[start..end];
            let from_end = if idx + 1 < ends.len() || ends_once { 1 } else { 2 };
            segments.push(Segment {
                start: seconds(timestamp(sliced[0])),
                end: seconds(timestamp(sliced[sliced.len() - from_end])),
                token_ids: sliced.to_vec(),
            });
            start = end;
        }
        (segments, n_heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids up to 99 are text, ids from 100 on are timestamps.
    fn rules() -> SequentialRules {
        SequentialRules {
            start_ids: vec![90, 91],
            choice_position: None,
            eos_token_ids: vec![99],
            first_timestamp_id: 100,
            previous_id: Some(95),
            conditions_on_previous: true,
            previous_tokens_max: 5,
            clip_timestamps: 1500,
            shows_timestamps: true,
        }
    }

    fn heard(token_ids: &[i64], n_frames: usize) -> (Vec<(f64, f64, Vec<i64>)>, usize) {
        let frames = WindowFrames { seek: 1000, n_frames, clip_frames: 3000 };
        let (segments, n_heard) = rules().segments(token_ids, frames);
        let hundredths = |seconds: f64| (seconds * 100.0).round() / 100.0;
        let shown = segments.into_iter().map(|Segment { start, end, token_ids }| {
            (hundredths(start), hundredths(end), token_ids)
        });
        (shown.collect(), n_heard)
    }

    #[test]
    fn audio_after_the_last_pair_is_transcribed_again() {
        let (segments, n_heard) = heard(&[100, 1, 2, 150, 150, 3, 200, 220, 4], 3000);
        let expected = [(10.0, 11.0, vec![100, 1, 2, 150]), (11.0, 12.0, vec![150, 3, 200, 220])];
        assert_eq!((segments.as_slice(), n_heard), (&expected[..], 200));
    }

    #[test]
    fn a_single_timestamp_at_the_end_ends_the_window() {
        let (segments, n_heard) = heard(&[100, 1, 150, 160, 3, 200], 2500);
        let expected = [(10.0, 11.0, vec![100, 1, 150]), (11.2, 12.0, vec![160, 3, 200])];
        assert_eq!((segments.as_slice(), n_heard), (&expected[..], 2500));
    }

    #[test]
    fn without_a_pair_the_window_is_one_segment() {
        let (segments, n_heard) = heard(&[110, 1, 2], 3000);
        assert_eq!((segments, n_heard), (vec![(10.0, 10.2, vec![110, 1, 2])], 3000));
        let (segments, n_heard) = heard(&[100, 1, 2], 700);
        assert_eq!((segments, n_heard), (vec![(10.0, 17.0, vec![100, 1, 2])], 700));
        assert_eq!(heard(&[], 500), (vec![(10.0, 15.0, vec![])], 500));
    }
}
