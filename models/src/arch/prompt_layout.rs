//! What stands for a medium in the prompt.

use crate::config::{BundleError, ModelConfig, ProcessorConfig};

/// What the template's marker of one medium becomes before the prompt is tokenised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expansion {
    /// A fixed number of placeholder tokens.
    Repeated(usize),
    /// A token for each patch of an image, and some more or fewer.
    PerPatch {
        /// The edge of a patch in pixels.
        patch: usize,
        more: usize,
        fewer: usize,
    },
    /// For each tile two marks and some tokens, then the same for the whole image.
    Tiles {
        n_tokens: usize,
        /// The mark before each tile and around the whole.
        separator: &'static str,
        /// The mark of the whole image.
        global: &'static str,
    },
    /// Some tokens between two marks, with empty lines around.
    Framed { n_tokens: usize, before: String, after: String },
    /// A token for each square of patches.
    PerSquare {
        /// Patches along the edge of a square.
        edge: usize,
    },
    /// A mark, then some tokens for each clip.
    PerClip { n_tokens: usize, before: &'static str },
    /// A token for each stack of encoder states, and some more.
    PerStack {
        /// Frames of a state.
        stride: usize,
        /// States of a stack.
        factor: usize,
        more: usize,
    },
    /// A token for each feature of an image's crops.
    PerCrop,
}

/// An expansion and the marker that it replaces.
#[derive(Debug)]
pub(crate) struct PromptLayout {
    /// What the chat template writes for one medium; the placeholder token where left out.
    pub(crate) marker: Option<String>,
    pub(crate) expansion: Expansion,
}

impl From<Expansion> for PromptLayout {
    fn from(expansion: Expansion) -> Self {
        Self { marker: None, expansion }
    }
}

/// What the layout of a prompt follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromptConfigs<'a> {
    pub(crate) model: &'a ModelConfig,
    pub(crate) processor: &'a ProcessorConfig,
    /// The contents and ids of the tokenizer's special tokens.
    pub(crate) special_tokens: &'a [(String, u32)],
}

impl PromptConfigs<'_> {
    /// Returns the content of the special token that `config.json` names by `key`.
    pub(crate) fn special_token(&self, id: Option<i64>, key: &str) -> Result<String, BundleError> {
        let id = id.ok_or_else(|| inconsistent(format!("`{key}` of `config.json` is missing")))?;
        let found = self.special_tokens.iter().find(|(_, other)| i64::from(*other) == id);
        found.map(|(text, _)| text.clone()).ok_or_else(|| {
            inconsistent(format!(
                "`{key}` = {id} of `config.json` is no special token of `tokenizer.json`"
            ))
        })
    }

    /// Returns the tokens of an image by the processor's `image_seq_length`.
    pub(super) fn image_tokens(&self, default: Option<usize>) -> Result<usize, BundleError> {
        at_least_one("image", self.processor.image_seq_length.or(default))
    }

    /// Returns the tokens of audio by the processor's `audio_seq_length`.
    pub(super) fn audio_tokens(&self, default: Option<usize>) -> Result<usize, BundleError> {
        at_least_one("audio", self.processor.audio_seq_length.or(default))
    }

    /// Returns a whole number of the image processor's config that not every class has.
    pub(super) fn of_image_processor(&self, key: &str) -> Option<u64> {
        self.processor.image_processor.as_ref()?.rest.get(key)?.as_u64()
    }
}

/// Returns a number of tokens if it is there and above 0.
pub(super) fn at_least_one(modality: &str, n: Option<usize>) -> Result<usize, BundleError> {
    n.filter(|n| *n > 0)
        .ok_or_else(|| inconsistent(format!("`{modality}_seq_length` is missing or 0")))
}

/// Describes configs from which no prompt can be laid out.
pub(crate) fn inconsistent(message: String) -> BundleError {
    BundleError::Inconsistent { file: "processor_config.json", message }
}
