//! What the decoder of an encoder-decoder begins an answer with, as transformers does it.

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

/// How speech is written down, or a text translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeechOptions {
    /// The language that is spoken, by code or English name; the model finds out where left out. Of a
    /// text to translate, its language.
    pub language: Option<String>,
    /// The language to translate a text to.
    pub target_language: Option<String>,
    /// Whether to write English, whatever the language.
    pub translate: bool,
    /// Whether to tell when things are said.
    pub timestamps: bool,
    /// How a sound is heard that is longer than the model hears at a time.
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

/// The keys of `config.json` and `generation_config.json` about how answers begin.
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
    /// The token before what was said earlier.
    #[serde(default)]
    pub(crate) prev_sot_token_id: Option<i64>,
    #[serde(default)]
    max_initial_timestamp_index: Option<i64>,
    #[serde(default)]
    language: Option<String>,
    /// In older repositories: the tokens by their places, `null` where a language is to be found.
    #[serde(default)]
    forced_decoder_ids: Option<Vec<(usize, Option<i64>)>>,
}

/// The tokens before an answer, and the rules for timestamps in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DecoderStart {
    pub(crate) token_ids: Vec<i64>,
    /// The token among them that the model is asked for.
    pub(crate) choice: Option<TokenChoice>,
    pub(crate) timestamps: Option<TimestampRules>,
    /// The token of the language to write, with which an answer has to begin.
    pub(crate) target_id: Option<i64>,
    /// The language of the texts, where it is not what their tokenizer says.
    pub(crate) source: Option<SourceLanguage>,
}

/// The language that texts are said to be in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceLanguage {
    /// Its token.
    pub(crate) id: i64,
    /// The tokens of all languages, of which a text has one.
    pub(crate) all: Vec<i64>,
}

impl StartConfig {
    /// Reads both files; what `generation_config.json` says goes before `config.json`, which stands
    /// for it where it is not there.
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

    /// Returns the token that all answers begin with.
    pub(crate) fn first_token_id(&self) -> Option<i64> {
        self.decoder_start_token_id.or(self.bos_token_id)
    }

    /// Returns what answers begin with.
    ///
    /// # Source
    ///
    /// `GenerationMixin._get_decoder_start_token_id` and
    /// `WhisperGenerationMixin._retrieve_init_tokens` of transformers 4.57, with the task given:
    /// `transcribe` unless the job says to translate.
    pub(crate) fn decoder_start(
        &self,
        scheme: StartScheme,
        speech: &SpeechOptions,
        files: &BundleFiles,
    ) -> Result<DecoderStart, BundleError> {
        let start = self.first_token_id().ok_or_else(|| BundleError::Inconsistent {
            file: "generation_config.json",
            message: "no `decoder_start_token_id` says how an answer begins".to_owned(),
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
            let none = "none: this model writes what is said, or English with `task.translate`";
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
                            message: "`is_multilingual`, but no `lang_to_id`".to_owned(),
                        });
                    }
                    // Whatever stands in its place until the model is asked.
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
                        "this model has no such task",
                    ));
                }
                None => {}
            }
        } else if let Some(language) = &speech.language {
            let only = "this model knows English alone: remove the key";
            return Err(unsupported("task.language", language, only));
        } else if speech.translate {
            return Err(unsupported("task.translate", "true", "this model knows English alone"));
        }
        // What ends a window is told by timestamps, whether they are written or not.
        let is_sequential = speech.long_audio == LongAudio::Sequential;
        match (speech.timestamps || is_sequential, self.no_timestamps_token_id) {
            (true, Some(id)) => {
                decoder.timestamps = Some(TimestampRules {
                    no_timestamps_id: id,
                    initial_max: self.max_initial_timestamp_index,
                });
            }
            (true, None) => {
                let none = "this model's generation config has no `no_timestamps_token_id`";
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

    /// Returns the token that says that there are no timestamps, if the vocabulary has them.
    pub(super) fn no_timestamps_id(&self) -> Option<i64> {
        self.no_timestamps_token_id
    }

    /// Returns the token of a language: the job's, else the config's; `None` if it is to be found.
    fn language_id(&self, language: Option<&str>) -> Result<Option<i64>, BundleError> {
        let Some(language) = language.or(self.language.as_deref()) else {
            return Ok(self.forced(1));
        };
        let known = self.lang_to_id.as_ref();
        let asked = language.trim().to_lowercase();
        let token = format!("<|{}|>", code_of(&asked).unwrap_or(&asked));
        let id = known.and_then(|known| known.get(&token).or_else(|| known.get(&asked)));
        id.copied().map(Some).ok_or_else(|| {
            let codes = known.into_iter().flat_map(BTreeMap::keys);
            let codes: Vec<&str> = codes.map(|token| token.trim_matches(['<', '|', '>'])).collect();
            unsupported("task.language", language, &codes.join(", "))
        })
    }

    /// Returns the token that older configs force at a place.
    fn forced(&self, place: usize) -> Option<i64> {
        let forced = self.forced_decoder_ids.iter().flatten();
        forced.filter(|(at, _)| *at == place).find_map(|(_, id)| *id)
    }
}

/// Says of options for speech that this model has no use for them.
pub(super) fn refuse_speech_options(speech: &SpeechOptions) -> Result<(), BundleError> {
    let only = format!("none: only models like {} take it, remove the key", speech_models());
    let only = only.as_str();
    match speech {
        SpeechOptions { language: Some(language), .. } => {
            Err(unsupported("task.language", language, only))
        }
        SpeechOptions { target_language: Some(language), .. } => {
            let only = "none: only translators of many languages take it, remove the key";
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
        // A token that is to be chosen is shown as the sum of its candidates, negative.
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
    fn a_multilingual_prompt_is_language_task_and_timestamps() {
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
        assert_eq!(ids(speech(None, false, false)), [1, -21, 20, 30], "the model finds it out");
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
    fn a_model_of_english_alone_has_no_language() {
        let english = r#"{"decoder_start_token_id": 1, "is_multilingual": false,
            "no_timestamps_token_id": 30, "forced_decoder_ids": [[1, 30]]}"#;
        assert_eq!(start(english, &SpeechOptions::default()).unwrap(), [1, 30]);
        let translated = SpeechOptions { translate: true, ..SpeechOptions::default() };
        let error = start(english, &translated).unwrap_err();
        assert!(error.to_string().contains("English alone"), "{error}");
    }
}
