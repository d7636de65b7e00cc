//! The graphs of a bundle at work: samples to prompts before the engine, slots under it.

mod causal;
mod decoder;
mod embedding;
mod encoder;
mod encoder_decoder;
mod encoder_graph;
mod error;
mod extra_inputs;
mod growing;
mod image_text;
mod in_place;
mod media;
mod multimodal;
mod open;
mod padding;
mod pooling;
mod positions;
mod run;
mod sizes;
mod slot_size;
mod tokens;
mod trial;

pub(crate) use decoder::Slots;
pub use decoder::rewritings;
pub(crate) use embedding::EmbeddingEncoder;
pub use encoder::{EncodeError, Encoder};
pub use error::ModelError;
pub(crate) use open::{GraphSetup, Graphs, open};
use run::{decode_error, run_or_split, to_i64};
pub(crate) use slot_size::RowCount;
pub(crate) use tokens::TokenEmbedding;
