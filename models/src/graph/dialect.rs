//! The batching rules of a decoder graph, detected from its file.

use super::{GraphSource, Node, read_inputs, read_nodes};

/// The input of a decoder that attends to the states of an encoder.
pub(crate) const ENCODER_STATES: &str = "encoder_hidden_states";

/// The handling of KV cache, masks and positions in a decoder graph (`ARCHITECTURE.md`,
/// "Dialects").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A KV cache of fixed size, in which each row has its own write position; lengths are given by
    /// `write_indices` and `nonpad_kv_seqlen` (opset 24 `TensorScatter` and `Attention`).
    InPlace,
    /// Like `InPlace`, but lengths are the sums of `attention_mask` (`GroupQueryAttention`);
    /// right-padded.
    InPlaceMask,
    /// The KV cache grows by concatenation; left-padded, each row has its own positions.
    Growing,
    /// Like `Growing`, but positions are those of the columns: a row cannot join a running batch.
    Shifted,
    /// Like `Growing`, but without a mask: only rows of the same length can be batched. Used by
    /// decoders of encoder-decoders and by some text decoders.
    Cohort,
}

impl Dialect {
    /// Returns the name used in `ARCHITECTURE.md`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => "in-place",
            Self::InPlaceMask => "in-place by mask",
            Self::Growing => "growing",
            Self::Shifted => "shifted",
            Self::Cohort => "cohort",
        }
    }
}

/// Detects the dialect of a decoder from its file. Does not check whether it can be run.
pub(crate) fn dialect_in(source: &GraphSource<'_>) -> std::io::Result<Dialect> {
    let inputs = read_inputs(source)?;
    let has = |name: &str| inputs.iter().any(|input| input == name);
    if has("write_indices") && has("nonpad_kv_seqlen") {
        return Ok(Dialect::InPlace);
    }
    let is_masked = has("attention_mask");
    if !is_masked || has(ENCODER_STATES) || inputs.iter().any(|input| is_cross_attention(input)) {
        return Ok(Dialect::Cohort);
    }
    Ok(dialect_of(&read_nodes(source)?, has("position_ids")))
}

/// Returns whether a cache input is for cross-attention (`past_key_cross_0`: onnxruntime-genai).
pub(crate) fn is_cross_attention(past: &str) -> bool {
    [".encoder.", "_cross_"].iter().any(|mark| past.contains(mark))
}

/// A fused attention operator of ONNX Runtime (contrib operators), and its inputs that determine
/// the layout of rows with different lengths.
pub(crate) const GQA: &str = "GroupQueryAttention";
const GQA_SEQLENS_K: usize = 5;
const GQA_ATTENTION_BIAS: usize = 10;

/// Detects the dialect of a masked decoder from its nodes.
pub(crate) fn dialect_of(nodes: &[Node], takes_positions: bool) -> Dialect {
    let plain = if takes_positions { Dialect::Growing } else { Dialect::Shifted };
    let Some(attention) = nodes.iter().find(|node| node.op_type == GQA) else {
        return plain;
    };
    let input = |idx: usize| attention.inputs.get(idx).map_or("", String::as_str);
    if !input(GQA_ATTENTION_BIAS).is_empty() {
        // The mask is a bias on columns; rotary positions are derived from the common length of all
        // rows.
        return plain;
    }
    // If the length of each row is the sum of its mask, rows are in place and right-padded.
    if comes_from(nodes, input(GQA_SEQLENS_K), "ReduceSum") { Dialect::InPlaceMask } else { plain }
}

/// Returns whether an operator of this type is among those that compute `value`.
fn comes_from(nodes: &[Node], value: &str, op_type: &str) -> bool {
    let mut wanted = vec![value];
    let mut seen = std::collections::HashSet::new();
    while let Some(value) = wanted.pop() {
        if value.is_empty() || !seen.insert(value) {
            continue;
        }
        let maker = nodes.iter().find(|node| node.outputs.iter().any(|output| output == value));
        if let Some(node) = maker {
            if node.op_type == op_type {
                return true;
            }
            wanted.extend(node.inputs.iter().map(String::as_str));
        }
    }
    false
}
