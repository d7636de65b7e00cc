//! The decoder start tokens of an encoder-decoder, as in transformers.

use std::{collections::BTreeMap, sync::Arc};

use legenda_schemas::job::{LongAudio, Task};
use serde::Deserialize;
use serde_json::Value;

use super::{BundleFiles, languages::Languages, languages::code_of};
use crate::{
    arch::{StartScheme, speech_models},
    config::BundleError,
    engine::{TimestampRules, TokenChoice},
};

/// The options for transcription and translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeechOptions {
    /// The spoken language, by code or English name; detected by default. For text translation, the
    /// source language.
    pub language: Option<String>,
    /// The target language of a text translation.
    pub target_language: Option<String>,
    /// Whether to translate speech to English.
    pub translate: bool,
    /// Whether to generate timestamps.
    pub timestamps: bool,
    /// The handling of audio that exceeds the model's window.
    pub long_audio: LongAudio,
}

impl From<&Task> for SpeechOptions {
    fn from(task: &Task) -> Self {
        Self {
            language: task.language.clone(),
            target_language: task.target_language.clone(),
            translate: task.translate,
            timestamps: task.timestamps,
            long_audio: task.long_audio,
        }
    }
}

/// The keys of `config.json` and `generation_config.json` for the decoder start.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct StartConfig {
    #[serde(default)]
    decoder_start_token_id: Option<i64>,
    #[serde(default)]
    bos_token_id: Option<i64>,
    #[serde(default)]
    pub(crate) pad_token_id: Option<i64>,
    #[serde(default)]
    is_multilingual: Option<bool>,
    #[serde(default)]
    lang_to_id: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    task_to_id: Option<BTreeMap<String, i64>>,
    #[serde(default)]
    no_timestamps_token_id: Option<i64>,
    /// The token before the previous transcript.
    #[serde(default)]
    pub(crate) prev_sot_token_id: Option<i64>,
    #[serde(default)]
    max_initial_timestamp_index: Option<i64>,
    #[serde(default)]
    language: Option<String>,
    /// In older repositories: the tokens by position; `null` if the language is detected.
    #[serde(default)]
    forced_decoder_ids: Option<Vec<(usize, Option<i64>)>>,
}

/// The tokens before an answer, and the rules for its timestamps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DecoderStart {
    pub(crate) token_ids: Vec<i64>,
    /// The start token that the model chooses.
    pub(crate) choice: Option<TokenChoice>,
    pub(crate) timestamps: Option<TimestampRules>,
    /// The token of the target language, forced as the first token of the answer.
    pub(crate) target_id: Option<i64>,
    /// The source language, if it overrides that of the tokenizer.
    pub(crate) source: Option<SourceLanguage>,
}

/// The declared language of the texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceLanguage {
    /// The token of the language.
    pub(crate) id: i64,
    /// The tokens of all languages; each text contains one of them.
    pub(crate) all: Vec<i64>,
}

impl StartConfig {
    /// Reads both files. Keys of `generation_config.json` take precedence over those of
    /// `config.json`, which replaces a missing generation config.
    pub(super) fn read(files: &BundleFiles, config: &Value) -> Result<Self, BundleError> {
        let generation: Option<Self> = files.json_if_there("generation_config.json")?;
        let generation = generation.or_else(|| Self::deserialize(config).ok()).unwrap_or_default();
        let inner = [&config["decoder"], &config["text_config"]];
        let token = |key: &str| {
            config[key].as_i64().or_else(|| inner.iter().find_map(|config| config[key].as_i64()))
        };
        Ok(Self {
            decoder_start_token_id: generation
                .decoder_start_token_id
                .or_else(|| token("decoder_start_token_id")),
            bos_token_id: generation.bos_token_id.or_else(|| token("bos_token_id")),
            pad_token_id: generation.pad_token_id.or_else(|| token("pad_token_id")),
            ..generation
        })
    }

    /// Returns the first token of all answers.
    pub(crate) fn first_token_id(&self) -> Option<i64> {
        self.decoder_start_token_id.or(self.bos_token_id)
    }

    /// Returns the decoder start tokens.
    ///
    /// # Source
    ///
    /// `GenerationMixin._get_decoder_start_token_id` and
    /// `WhisperGenerationMixin._retrieve_init_tokens` of transformers 4.57, with an explicit task:
    /// `transcribe` unless the job requests translation.
    pub(crate) fn decoder_start(
        &self,
        scheme: StartScheme,
        speech: &SpeechOptions,
        files: &BundleFiles,
    ) -> Result<DecoderStart, BundleError> {
        let start = self.first_token_id().ok_or_else(|| BundleError::Inconsistent {
            file: "generation_config.json",
            problem: "missing `decoder_start_token_id`".to_owned(),
        })?;
        let mut decoder = DecoderStart { token_ids: vec![start], ..DecoderStart::default() };
        if scheme == StartScheme::Translation {
            refuse_speech_options(&SpeechOptions {
                language: None,
                target_language: None,
                ..speech.clone()
            })?;
            if speech.language.is_none() && speech.target_language.is_none() {
                return Ok(decoder);
            }
            let languages = Languages::read(files)?;
            let token = |key, language: &Option<String>| {
                language.as_deref().map(|language| languages.token(key, language)).transpose()
            };
            let source_id = token("task.language", &speech.language)?;
            decoder.source = source_id.map(|id| SourceLanguage { id, all: languages.ids() });
            decoder.target_id = token("task.target_language", &speech.target_language)?;
            return Ok(decoder);
        }
        if scheme != StartScheme::Speech {
            refuse_speech_options(speech)?;
            return Ok(decoder);
        }
        if let Some(language) = &speech.target_language {
            let none = "none, use `task.translate` for English";
            return Err(unsupported("task.target_language", language, none));
        }
        if self.is_multilingual.unwrap_or(self.lang_to_id.is_some()) {
            match self.language_id(speech.language.as_deref())? {
                Some(id) => decoder.token_ids.push(id),
                None => {
                    let candidates = self.lang_to_id.iter().flat_map(BTreeMap::values).copied();
                    let candidates: Arc<[i64]> = candidates.collect();
                    if candidates.is_empty() {
                        return Err(BundleError::Inconsistent {
                            file: "generation_config.json",
                            problem: "`is_multilingual` requires `lang_to_id`".to_owned(),
                        });
                    }
                    // A dummy token until the model chooses.
                    decoder.token_ids.push(start);
                    decoder.choice = Some(TokenChoice { position: 1, candidates });
                }
            }
            let task = if speech.translate { "translate" } else { "transcribe" };
            let task_id = self.task_to_id.as_ref().and_then(|tasks| tasks.get(task)).copied();
            let forced = self.forced(2).filter(|_| !speech.translate);
            match task_id.or(forced) {
                Some(id) => decoder.token_ids.push(id),
                None if speech.translate => {
                    return Err(unsupported(
                        "task.translate",
                        "true",
                        "none, the model does not have this task",
                    ));
                }
                None => {}
            }
        } else if let Some(language) = &speech.language {
            let only = "none, the model is English-only: remove the key";
            return Err(unsupported("task.language", language, only));
        } else if speech.translate {
            return Err(unsupported("task.translate", "true", "none, the model is English-only"));
        }
        // Timestamps determine the end of a window, whether or not they are in the output.
        let is_sequential = speech.long_audio == LongAudio::Sequential;
        match (speech.timestamps || is_sequential, self.no_timestamps_token_id) {
            (true, Some(id)) => {
                decoder.timestamps = Some(TimestampRules {
                    no_timestamps_id: id,
                    initial_max: self.max_initial_timestamp_index,
                });
            }
            (true, None) => {
                let none = "none, the generation config has no `no_timestamps_token_id`";
                return Err(if is_sequential {
                    unsupported("task.long_audio", speech.long_audio.as_str(), none)
                } else {
                    unsupported("task.timestamps", "true", none)
                });
            }
            (false, id) => decoder.token_ids.extend(id),
        }
        Ok(decoder)
    }

    /// Returns the no-timestamps token, if the vocabulary has timestamps.
    pub(super) fn no_timestamps_id(&self) -> Option<i64> {
        self.no_timestamps_token_id
    }

    /// Returns the language token: that of the job, else that of the config; `None` if it is
    /// detected.
    fn language_id(&self, language: Option<&str>) -> Result<Option<i64>, BundleError> {
        let Some(language) = language.or(self.language.as_deref()) else {
            return Ok(self.forced(1));
        };
        let known = self.lang_to_id.as_ref();
        let name_or_code = language.trim().to_lowercase();
        let token = format!("<|{}|>", code_of(&name_or_code).unwrap_or(&name_or_code));
        let id = known.and_then(|known| known.get(&token).or_else(|| known.get(&name_or_code)));
        id.copied().map(Some).ok_or_else(|| {
            let codes = known.into_iter().flat_map(BTreeMap::keys);
            let codes: Vec<&str> = codes.map(|token| token.trim_matches(['<', '|', '>'])).collect();
            unsupported("task.language", language, &codes.join(", "))
        })
    }

    /// Returns the token that older configs force at a position.
    fn forced(&self, place: usize) -> Option<i64> {
        let forced = self.forced_decoder_ids.iter().flatten();
        forced.filter(|(at, _)| *at == place).find_map(|(_, id)| *id)
    }
}

/// Returns an error if any speech option is set.
pub(super) fn refuse_speech_options(speech: &SpeechOptions) -> Result<(), BundleError> {
    let only = format!("only by models like {}: remove the key", speech_models());
    let only = only.as_str();
    match speech {
        SpeechOptions { language: Some(language), .. } => {
            Err(unsupported("task.language", language, only))
        }
        SpeechOptions { target_language: Some(language), .. } => {
            let only = "only by multilingual translation models: remove the key";
            Err(unsupported("task.target_language", language, only))
        }
        SpeechOptions { translate: true, .. } => Err(unsupported("task.translate", "true", only)),
        SpeechOptions { timestamps: true, .. } => Err(unsupported("task.timestamps", "true", only)),
        SpeechOptions { long_audio, .. } if *long_audio != LongAudio::default() => {
            Err(unsupported("task.long_audio", long_audio.as_str(), only))
        }
        _ => Ok(()),
    }
}

pub(super) fn unsupported(key: &'static str, value: &str, supported: &str) -> BundleError {
    BundleError::TaskOption { key, value: value.to_owned(), supported: supported.to_owned() }
}

#[cfg(test)]
mod tests {
    use legenda_schemas::precision::PrecisionChoice;

    use super::*;

    fn start(config: &str, speech: &SpeechOptions) -> Result<Vec<i64>, BundleError> {
        let config: StartConfig = serde_json::from_str(config).unwrap();
        let files = BundleFiles::memory(Vec::new(), PrecisionChoice::default());
        let start = config.decoder_start(StartScheme::Speech, speech, &files)?;
        let chosen = start.choice.map(|choice| (choice.position, choice.candidates.to_vec()));
        // A chosen token is represented by the negative sum of its candidates.
        let token_ids = start.token_ids.iter().enumerate().map(|(place, id)| match &chosen {
            Some((position, candidates)) if *position == place => -candidates.iter().sum::<i64>(),
            _ => *id,
        });
        Ok(token_ids.collect())
    }

    const MULTILINGUAL: &str = r#"{"decoder_start_token_id": 1, "is_multilingual": true,
        "lang_to_id": {"<|en|>": 10, "<|de|>": 11}, "no_timestamps_token_id": 30,
        "task_to_id": {"transcribe": 20, "translate": 21}, "forced_decoder_ids": [[1, null]]}"#;

    #[test]
    fn a_multilingual_prompt_has_language_task_and_timestamps() {
        let speech = |language: Option<&str>, translate, timestamps| SpeechOptions {
            language: language.map(str::to_owned),
            translate,
            timestamps,
            ..SpeechOptions::default()
        };
        let ids = |speech| start(MULTILINGUAL, &speech).unwrap();
        assert_eq!(ids(speech(Some("German"), false, false)), [1, 11, 20, 30]);
        assert_eq!(ids(speech(Some("en"), true, true)), [1, 10, 21]);
        assert_eq!(ids(speech(Some("<|de|>"), false, true)), [1, 11, 20]);
        assert_eq!(ids(speech(None, false, false)), [1, -21, 20, 30], "the language is detected");
        let error = start(MULTILINGUAL, &speech(Some("klingon"), false, false)).unwrap_err();
        assert_eq!(error.code(), "task_option_unsupported");
    }

    #[test]
    fn a_config_may_fix_the_language() {
        let plain = SpeechOptions::default();
        let named =
            MULTILINGUAL.replace("\"forced_decoder_ids\": [[1, null]]", "\"language\": \"de\"");
        assert_eq!(start(&named, &plain).unwrap(), [1, 11, 20, 30]);
        let older = MULTILINGUAL.replace("[[1, null]]", "[[1, 10], [2, 20]]");
        assert_eq!(start(&older, &plain).unwrap(), [1, 10, 20, 30]);
    }

    #[test]
    fn an_english_only_model_has_no_language() {
        let english = r#"{"decoder_start_token_id": 1, "is_multilingual": false,
            "no_timestamps_token_id": 30, "forced_decoder_ids": [[1, 30]]}"#;
        assert_eq!(start(english, &SpeechOptions::default()).unwrap(), [1, 30]);
        let translated = SpeechOptions { translate: true, ..SpeechOptions::default() };
        let error = start(english, &translated).unwrap_err();
        assert!(error.to_string().contains("English-only"), "{error}");
    }
}
