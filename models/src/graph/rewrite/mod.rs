//! Rewritings that make a published graph faster. Each one is a file with the pattern that it looks
//! for and its conditions; a graph that does not match is left as it is.

mod in_place;
mod last_logits;
mod refusal;
mod rewrite;
mod scalar;
mod wires;

pub(crate) use in_place::DecoderFacts;
use refusal::Refusal;
pub(crate) use rewrite::rewrite_decoder;
