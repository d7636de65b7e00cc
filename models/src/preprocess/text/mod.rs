//! Text to token ids, and token ids to text.

mod placeholder;
mod sentence;
mod tasks;
mod text_processor;
mod token_bytes;
mod tokenizer;

pub(super) use placeholder::Clips;
pub(crate) use sentence::{SentenceProcessor, is_python_space, stripped};
pub(crate) use tasks::Tasks;
pub(crate) use text_processor::TextProcessor;
pub use tokenizer::ENCODING_BYTES;
