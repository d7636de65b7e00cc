//! ONNX files, read without a runtime: their nodes, their external data, the dialect of a decoder.

mod dialect;
mod external;
mod fields;
mod nodes;
pub(crate) mod onnx;
mod rewrite;
mod source;
mod weights;

pub(crate) use dialect::{
    Dialect, ENCODER_STATES, GQA, dialect_in, dialect_of, is_cross_attention,
};
pub(crate) use external::locations as external_locations;
pub(crate) use nodes::{Node, is_quantized, mixes_rows, read_inputs, read_nodes};
pub(crate) use rewrite::{
    DecoderFacts, DecoderGraphs, PER_TOKEN, rewrite_decoder, rewrite_encoder,
};
pub(crate) use source::{GraphSource, RewrittenGraph};
