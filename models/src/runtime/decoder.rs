//! The inputs and outputs of a decoder graph, and its batching rules, detected from the graph.

use super::{Dtype, Embeds, GraphSession, SessionError};
use crate::{
    config::TextConfig,
    graph::{
        Dialect, ENCODER_STATES, GQA, GraphSource, dialect_of, is_cross_attention, read_nodes,
    },
};

/// The cross-attention inputs and outputs of a decoder.
#[derive(Clone, Debug)]
pub(crate) struct CrossPorts {
    /// The type of the encoder states, `[B, T, C]`; `None` if their keys and values suffice.
    pub(crate) states: Option<Dtype>,
    pub(crate) takes_mask: bool,
    /// Whether one graph has two branches, for the first run and for later ones.
    pub(crate) takes_branch: bool,
    /// The keys and values of the states per layer, as pairs of past and present in the order of
    /// their names. Only the first run returns them; later runs take them, or recompute them if the
    /// graph has no such inputs.
    pub(crate) cache: Vec<(String, String)>,
    /// Whether the encoder returns them instead of the states.
    pub(crate) is_given: bool,
}

impl CrossPorts {
    pub(super) const STATES: &str = ENCODER_STATES;
    pub(super) const MASK: &str = "encoder_attention_mask";
    pub(super) const BRANCH: &str = "use_cache_branch";

    /// Reads the ports of an opened graph; `cache` are its cross-attention KV inputs.
    pub(super) fn read(
        graph: &GraphSession,
        cache: Vec<(String, String)>,
    ) -> Result<Self, SessionError> {
        let has = |name: &str| graph.input_names().any(|input| input == name);
        let states = has(Self::STATES).then(|| match graph.dtype_of(Self::STATES) {
            Some(Dtype::F16) => Dtype::F16,
            _ => Dtype::F32,
        });
        if let Some(dtype) = states {
            graph.expect_input(Self::STATES, dtype)?;
        }
        let takes_mask = has(Self::MASK);
        if takes_mask {
            graph.expect_input(Self::MASK, Dtype::I64)?;
        }
        Ok(Self { states, takes_mask, takes_branch: has(Self::BRANCH), cache, is_given: false })
    }
}

/// The sizes of a decoder graph that its config declares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderDims {
    /// Key and value heads of a layer.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) head_dim: usize,
    /// Logits of a position.
    pub(crate) vocab_size: usize,
}

impl DecoderDims {
    /// Returns the sizes that a config declares.
    pub(crate) fn new(text: &TextConfig) -> Self {
        let (heads, head_dim) = (text.num_key_value_heads(), text.head_dim());
        Self { heads, head_dim, vocab_size: text.vocab_size }
    }
}

/// The inputs and outputs of a decoder graph.
#[derive(Clone, Debug)]
pub(crate) struct DecoderPorts {
    pub(crate) dialect: Dialect,
    /// Whether graphs of this kind may be padded on either side, so that the dialect has to be
    /// tested.
    pub(crate) pads_on_either_side: bool,
    pub(crate) takes_positions: bool,
    /// The number of position axes: one, or three for time, height and width.
    pub(crate) position_axes: usize,
    pub(crate) takes_mask: bool,
    pub(crate) takes_logits_to_keep: bool,
    /// The past and present of every layer, keys and values.
    pub(crate) cache: Vec<(String, String)>,
    pub(crate) cache_dtype: Dtype,
    pub(crate) logits_dtype: Dtype,
    /// The cross-attention ports, if there are any.
    pub(crate) cross: Option<CrossPorts>,
    /// The type of `inputs_embeds`, else of `input_ids`.
    pub(crate) tokens_dtype: Dtype,
    /// The type of `per_layer_inputs`, if the graph has them.
    pub(crate) per_layer_dtype: Option<Dtype>,
}

impl DecoderPorts {
    /// Reads the ports from an opened graph and its file.
    ///
    /// # Errors
    ///
    /// [`SessionError`] for an unknown or missing input.
    pub(crate) fn read(
        graph: &GraphSession,
        source: &GraphSource<'_>,
    ) -> Result<Self, SessionError> {
        let has = |name: &str| graph.input_names().any(|input| input == name);
        let mut cache = Vec::new();
        for input in graph.input_names() {
            match input {
                "input_ids"
                | "inputs_embeds"
                | Embeds::PER_LAYER
                | "attention_mask"
                | "position_ids"
                | "write_indices"
                | "nonpad_kv_seqlen"
                | "num_logits_to_keep"
                | CrossPorts::STATES
                | CrossPorts::MASK
                | CrossPorts::BRANCH => {}
                past => match present_of(past) {
                    Some(present) => cache.push((past.to_owned(), present)),
                    None => {
                        return Err(SessionError::UnknownInput {
                            graph: graph.name().to_owned(),
                            name: past.to_owned(),
                        });
                    }
                },
            }
        }
        let (mut cross_cache, cache): (Vec<_>, Vec<_>) =
            cache.into_iter().partition(|(past, _)| is_cross_attention(past));
        cross_cache.sort_unstable();
        let cross = (has(CrossPorts::STATES) || !cross_cache.is_empty())
            .then(|| CrossPorts::read(graph, cross_cache))
            .transpose()?;
        let cache_dtype = match cache.first().and_then(|(past, _)| graph.dtype_of(past)) {
            Some(dtype @ (Dtype::F32 | Dtype::F16)) => dtype,
            _ => Dtype::F32,
        };
        if cache.is_empty() {
            graph.expect_input("past_key_values.0.key", Dtype::F32)?;
        }
        for (past, present) in &cache {
            graph.expect_input(past, cache_dtype)?;
            graph.expect_output(present, cache_dtype)?;
        }
        let per_layer_dtype = graph.dtype_of(Embeds::PER_LAYER);
        if per_layer_dtype.is_some() {
            graph.expect_float_input(Embeds::PER_LAYER)?;
        }
        let logits_dtype = graph.dtype_of("logits").unwrap_or(Dtype::F32);
        graph.expect_output("logits", logits_dtype)?;
        for (past, _) in cross.iter().flat_map(|cross| &cross.cache) {
            graph.expect_input(past, cache_dtype)?;
        }
        for name in ["position_ids", "attention_mask", "write_indices", "nonpad_kv_seqlen"] {
            if has(name) {
                graph.expect_input(name, Dtype::I64)?;
            }
        }
        let position_axes = match graph.rank_of("position_ids") {
            Some(3) => {
                graph.expect_dims("position_ids", &[3, -1, -1])?;
                3
            }
            Some(_) => {
                graph.expect_dims("position_ids", &[-1, -1])?;
                1
            }
            None => 1,
        };
        let (dialect, pads_on_either_side) = if has("write_indices") && has("nonpad_kv_seqlen") {
            (Dialect::InPlace, false)
        } else if cross.is_some() || !has("attention_mask") {
            (Dialect::Cohort, false)
        } else {
            let nodes = read_nodes(source)
                .map_err(|source| SessionError::Nodes { graph: graph.name().to_owned(), source })?;
            // A fused operator may derive lengths from the mask. If rows depend on each other
            // anyway, a test cannot tell.
            let is_fused = nodes.iter().any(|node| node.op_type == GQA);
            (dialect_of(&nodes, has("position_ids")), is_fused && !graph.mixes_rows())
        };
        Ok(Self {
            dialect,
            pads_on_either_side,
            takes_positions: has("position_ids"),
            position_axes,
            takes_mask: has("attention_mask"),
            takes_logits_to_keep: has("num_logits_to_keep"),
            cache,
            cache_dtype,
            logits_dtype,
            cross,
            tokens_dtype: ["inputs_embeds", "input_ids"]
                .iter()
                .find_map(|name| graph.dtype_of(name))
                .unwrap_or(Dtype::I64),
            per_layer_dtype,
        })
    }
}

/// Returns the output for a cache input: `past_key_values.0.key` to `present.0.key`,
/// `past_key_self_0` to `present_key_self_0` (onnxruntime-genai's Whisper), and
/// `input.past_key_values.layers.0.keys` to `output.…` (transformers' own exporter).
fn present_of(past: &str) -> Option<String> {
    if let Some(rest) = past.strip_prefix("past_key_values.") {
        Some(format!("present.{rest}"))
    } else if let Some(rest) = past.strip_prefix("past_")
        && ["key_self_", "value_self_", "key_cross_", "value_cross_"]
            .iter()
            .any(|start| rest.starts_with(start))
    {
        Some(format!("present_{rest}"))
    } else {
        past.strip_prefix("input.past_key_values.")
            .map(|rest| format!("output.past_key_values.{rest}"))
    }
}
