//! The output of BLIP: a caption that begins with the given text.

use std::sync::Arc;

use crate::{
    engine::{Asked, Detokenizer},
    preprocess::TextProcessor,
};

/// Decodes the prompt text and the answer into one caption.
///
/// # Source
///
/// `BlipForConditionalGeneration.generate` of transformers 4.57, which returns both.
pub(crate) struct Continued {
    pub(crate) text: Arc<TextProcessor>,
}

impl Detokenizer for Continued {
    fn text(&self, token_ids: &[i64]) -> String {
        self.text.text(token_ids)
    }

    fn given(&self, asked: Asked<'_>) -> String {
        self.text.text(asked.prompt_ids)
    }

    fn answer(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        self.text.text(&[asked.prompt_ids, token_ids].concat())
    }
}
