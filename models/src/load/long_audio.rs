//! The rules for sequential long-form transcription, from the generation config and the job.

use legenda_schemas::job::{GenerationOptions, LongAudio};

use crate::{
    bundle::{Bundle, DecoderStart, SpeechOptions},
    config::BundleError,
    engine::{Fallback, Silence},
    preprocess::SequentialRules,
};

impl Bundle {
    /// Returns the rules for sequential long-form transcription, if enabled. `start` has the
    /// decoder start tokens; `eos_token_ids` end a transcript.
    pub(crate) fn sequential_rules(
        &self,
        speech: &SpeechOptions,
        job: &GenerationOptions,
        start: &DecoderStart,
        eos_token_ids: &[i64],
        context_tokens: usize,
    ) -> Option<SequentialRules> {
        let timestamps = start.timestamps.filter(|_| speech.long_audio == LongAudio::Sequential)?;
        // Older configs have this token only in the suppression list.
        let suppressed = self.generation.suppress_tokens.iter().flatten().rev().nth(1);
        let conditions = job.condition_on_prev_tokens.or(self.generation.condition_on_prev_tokens);
        Some(SequentialRules {
            start_ids: start.token_ids.clone(),
            choice_position: start.choice.as_ref().map(|choice| choice.position),
            eos_token_ids: eos_token_ids.to_vec(),
            first_timestamp_id: timestamps.first_id(),
            previous_id: self.start.prev_sot_token_id.or(suppressed.copied()),
            conditions_on_previous: conditions.unwrap_or(false),
            previous_tokens_max: (context_tokens / 2).saturating_sub(1),
            clip_timestamps: self.config.encoder.positions.unwrap_or(1),
            shows_timestamps: speech.timestamps,
        })
    }

    /// Returns the temperature fallback of a window; `None` if it is disabled.
    ///
    /// # Errors
    ///
    /// [`BundleError::TaskOption`] if a no-speech threshold is set without a log probability
    /// threshold.
    pub(crate) fn fallback(
        &self,
        speech: &SpeechOptions,
        job: &GenerationOptions,
        start: &DecoderStart,
    ) -> Result<Option<Fallback>, BundleError> {
        let Some(timestamps) =
            start.timestamps.filter(|_| speech.long_audio == LongAudio::Sequential)
        else {
            return Ok(None);
        };
        let model = &self.generation;
        let logprob_min = job.logprob_threshold.or(model.logprob_threshold);
        let no_speech = job.no_speech_threshold.or(model.no_speech_threshold);
        if let (Some(threshold), None) = (no_speech, logprob_min) {
            return Err(BundleError::TaskOption {
                key: "generation.no_speech_threshold",
                value: threshold.to_string(),
                supported: "only with `generation.logprob_threshold`".to_owned(),
            });
        }
        let compression_ratio_max =
            job.compression_ratio_threshold.or(model.compression_ratio_threshold);
        if logprob_min.is_none() && compression_ratio_max.is_none() {
            return Ok(None);
        }
        Ok(Some(Fallback {
            temperatures: job.fallback_temperatures.clone(),
            compression_ratio_max,
            logprob_min,
            silence: no_speech.map(|probability_max| Silence {
                // As in `WhisperGenerationMixin._retrieve_logit_processors`.
                token_id: timestamps.no_timestamps_id - 1,
                n_start_tokens: start.token_ids.len(),
                probability_max,
            }),
            vocab_size: self.config.text.vocab_size,
        }))
    }
}
