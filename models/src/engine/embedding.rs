//! Embeddings, and what they are made of.

use std::fmt;

/// The kind of input to embed; one kind per run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// Text.
    Text,
    /// Images.
    Image,
    /// Audio.
    Audio,
}

impl EmbeddingInput {
    /// Returns the name used in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
        }
    }
}

/// The embedding of one text, image or audio input.
#[derive(Clone, PartialEq)]
pub struct Embedding {
    /// `f32 [D]`, no unit.
    pub values: Vec<f32>,
    /// The number of text tokens after truncation; `None` for an image or audio input.
    pub n_tokens: Option<usize>,
}

/// Prints only the size.
impl fmt::Debug for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedding({} numbers, {:?} tokens)", self.values.len(), self.n_tokens)
    }
}
