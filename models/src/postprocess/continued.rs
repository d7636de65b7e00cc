//! What BLIP writes after a text that it was given: text and answer are one caption.

use std::sync::Arc;

use crate::{
    engine::{Asked, Detokenizer},
    preprocess::TextProcessor,
};

/// Turns ids into a caption that begins with what was given.
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
