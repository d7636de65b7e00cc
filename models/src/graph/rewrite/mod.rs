//! Rewritings that make a published graph faster. Each one is a file with the pattern that it looks
//! for and its conditions; a graph that does not match is left as it is.

mod branches;
mod cross_attention;
mod encoder_attention;
mod fused_attention;
mod fused_cross_attention;
mod in_place;
mod last_logits;
mod per_token;
mod refusal;
mod rewrite;
mod scalar;
mod wires;

pub(crate) use in_place::DecoderFacts;
use refusal::Refusal;
pub(crate) use rewrite::{DecoderGraphs, PER_TOKEN, rewrite_decoder, rewrite_encoder};
