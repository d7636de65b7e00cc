//! Tokenisation for embedding models: truncated, and padded if the model requires it, as in
//! sentence-transformers and transformers.

use legenda_schemas::cause::Cause;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use super::tokenizer;
use crate::{
    bundle::{Bundle, TextLimits},
    config::BundleError,
    preprocess::{ProcessError, Record},
};

const TOKENIZER: &str = "tokenizer.json";

/// Tokenises the texts of one embedding bundle.
///
/// Texts above the maximum length are truncated, as in the references: existing indexes contain
/// such embeddings of the beginning of a text. Special tokens in a text are read as plain text.
pub(crate) struct SentenceProcessor {
    tokenizer: Tokenizer,
    pad_id: i64,
    /// The length to which every text is padded, if enabled.
    padded_tokens: Option<usize>,
    is_stripped: bool,
    is_lowercased: bool,
}

impl SentenceProcessor {
    /// Reads `tokenizer.json` and `tokenizer_config.json`.
    pub(in crate::preprocess) fn open(
        bundle: &Bundle,
        limits: &TextLimits,
    ) -> Result<Self, BundleError> {
        let invalid =
            |source: Cause| BundleError::InvalidJson { file: TOKENIZER.to_owned(), source };
        let mut tokenizer = tokenizer::open(bundle)?;
        let config: serde_json::Value =
            bundle.files.json_if_there("tokenizer_config.json")?.unwrap_or_default();
        let pad = &config["pad_token"];
        let pad = pad.as_str().or_else(|| pad["content"].as_str()).unwrap_or("[PAD]");
        let pad_id = i64::from(tokenizer.token_to_id(pad).unwrap_or(0));
        // The truncation and padding settings of the file are left over from training.
        tokenizer.with_padding(None);
        let direction = match config["truncation_side"].as_str() {
            Some("left") => TruncationDirection::Left,
            _ => TruncationDirection::Right,
        };
        let truncation = limits.tokens_max.map(|max_length| TruncationParams {
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction,
        });
        tokenizer.with_truncation(truncation).map_err(invalid)?;
        tokenizer.set_encode_special_tokens(true);
        Ok(Self {
            tokenizer,
            pad_id,
            padded_tokens: limits.tokens_max.filter(|_| limits.pads_to_max),
            is_stripped: limits.is_stripped,
            is_lowercased: limits.is_lowercased,
        })
    }

    /// Returns the padding token.
    pub(in crate::preprocess) fn pad_id(&self) -> i64 {
        self.pad_id
    }

    /// Tokenises the text of a record; empty if an image or audio is embedded.
    pub(in crate::preprocess) fn token_ids(
        &self,
        record: &Record,
    ) -> Result<Vec<i64>, ProcessError> {
        let text = record.text.as_deref().filter(|text| !text.is_empty());
        let n_things = record.images.len() + record.audios.len() + usize::from(text.is_some());
        if n_things != 1 {
            return Err(ProcessError::NotOneThing { actual: n_things });
        }
        let Some(text) = text else { return Ok(Vec::new()) };
        // The order is that of `Transformer.tokenize` in sentence-transformers.
        let text = if self.is_stripped { text.trim_matches(is_python_space) } else { text };
        let lowered;
        let text = if self.is_lowercased {
            lowered = text.to_lowercase();
            &lowered
        } else {
            text
        };
        let encoding = tokenizer::encode(&self.tokenizer, text, true)?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        if let Some(n_tokens) = self.padded_tokens {
            ids.resize(n_tokens, self.pad_id);
        }
        if ids.is_empty() { Err(ProcessError::EmptyRecord) } else { Ok(ids) }
    }
}

/// Strips a text like `str.strip` of Python.
pub(crate) fn stripped(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

/// Returns whether `str.strip` of Python strips a character.
pub(crate) fn is_python_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}
