//! The placeholder tokens of a medium in the prompt.

use crate::config::{BundleError, ModelConfig, ProcessorConfig};

/// The expansion of a template marker into placeholder tokens, before tokenisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expansion {
    /// A fixed number of placeholder tokens.
    Repeated(usize),
    /// One token per patch of an image, with a correction.
    PerPatch {
        /// The edge of a patch in pixels.
        patch: usize,
        more: usize,
        fewer: usize,
    },
    /// For each tile two separators and some tokens, then the same for the whole image.
    Tiles {
        n_tokens: usize,
        /// The token before each tile and around the whole image.
        separator: &'static str,
        /// The token before the whole image.
        global: &'static str,
    },
    /// Some tokens between a start and an end token, with blank lines around.
    Framed { n_tokens: usize, before: String, after: String },
    /// One token per square of patches.
    PerSquare {
        /// The number of patches along the edge of a square.
        edge: usize,
    },
    /// A start token, then some tokens per clip.
    PerClip { n_tokens: usize, before: &'static str },
    /// One token per stack of encoder states, with a correction.
    PerStack {
        /// The number of frames per encoder state.
        stride: usize,
        /// The number of encoder states per stack.
        factor: usize,
        more: usize,
    },
    /// One token per feature of an image's crops.
    PerCrop,
}

/// An expansion and the marker that it replaces.
#[derive(Debug)]
pub(crate) struct PromptLayout {
    /// The text that the chat template writes for one medium. Defaults to the placeholder token.
    pub(crate) marker: Option<String>,
    pub(crate) expansion: Expansion,
}

impl From<Expansion> for PromptLayout {
    fn from(expansion: Expansion) -> Self {
        Self { marker: None, expansion }
    }
}

/// The configs that determine the prompt layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromptConfigs<'a> {
    pub(crate) model: &'a ModelConfig,
    pub(crate) processor: &'a ProcessorConfig,
    /// The contents and ids of the tokenizer's special tokens.
    pub(crate) special_tokens: &'a [(String, u32)],
}

impl PromptConfigs<'_> {
    /// Returns the content of the special token under `key` of `config.json`.
    pub(crate) fn special_token(&self, id: Option<i64>, key: &str) -> Result<String, BundleError> {
        let id = id.ok_or_else(|| inconsistent(format!("`{key}` of `config.json` is missing")))?;
        let found = self.special_tokens.iter().find(|(_, other)| i64::from(*other) == id);
        found.map(|(text, _)| text.clone()).ok_or_else(|| {
            inconsistent(format!(
                "`{key}` = {id} of `config.json` is not a special token of `tokenizer.json`"
            ))
        })
    }

    /// Returns the number of tokens per image, from `image_seq_length` of the processor config.
    pub(super) fn image_tokens(&self, default: Option<usize>) -> Result<usize, BundleError> {
        at_least_one("image", self.processor.image_seq_length.or(default))
    }

    /// Returns the number of tokens per audio input, from `audio_seq_length` of the processor
    /// config.
    pub(super) fn audio_tokens(&self, default: Option<usize>) -> Result<usize, BundleError> {
        at_least_one("audio", self.processor.audio_seq_length.or(default))
    }

    /// Returns a class-specific integer of the image processor config.
    pub(super) fn of_image_processor(&self, key: &str) -> Option<u64> {
        self.processor.image_processor.as_ref()?.rest.get(key)?.as_u64()
    }
}

/// Returns the number of tokens if it is set and above 0.
pub(super) fn at_least_one(modality: &str, n: Option<usize>) -> Result<usize, BundleError> {
    n.filter(|n| *n > 0)
        .ok_or_else(|| inconsistent(format!("`{modality}_seq_length` is missing or 0")))
}

/// Returns the error for configs that do not determine a prompt layout.
pub(crate) fn inconsistent(problem: String) -> BundleError {
    BundleError::Inconsistent { file: "processor_config.json", problem }
}
