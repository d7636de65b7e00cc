//! Replaces products, scales and `Softmax` by `MultiHeadAttention`.
//!
//! # Source
//!
//! `MultiHeadAttention` in ONNX Runtime 1.31, `docs/ContribOperators.md`.

use super::{
    scalar::scalar,
    wires::{Wires, remove_unused},
};
use crate::graph::onnx::{CONTRIB_DOMAIN, GraphProto, NodeProto, TensorProto};

const PREFIX: &str = "legenda/fused_attention/";

/// The attention around a `Softmax`.
pub(super) struct FusedAttention {
    /// `[B, S, heads * dim]`
    pub(super) query: String,
    /// `[B, T, heads * dim]`, or `[B, heads, T, dim]` for cached keys.
    pub(super) key: String,
    /// Like `key`.
    pub(super) value: String,
    /// A value that is added to the scores, `[B, heads, S, T]`, where `B` and `heads` may be 1.
    pub(super) bias: Option<String>,
    pub(super) heads: i64,
    pub(super) scale: f64,
    /// The index of the node that makes the result, `[B, S, heads * dim]`.
    pub(super) result: usize,
}

/// A value of shape `[B, T, heads * dim]`, from which an input of attention is made.
pub(super) struct Trunk {
    pub(super) value: String,
    /// The product of the scales between the value and the input.
    pub(super) scale: f64,
    /// The number of heads, if it is constant.
    pub(super) heads: Option<i64>,
}

/// Puts the operator in the place of each attention. The query is scaled before it: the products of
/// one query are faster without a scale (0.75 times the CPU time of 16 queries, each with 197 keys).
pub(super) fn fuse(graph: &mut GraphProto, mut found: Vec<FusedAttention>) {
    // From the last one, so that the indices of others stay the same.
    found.sort_unstable_by_key(|attention| std::cmp::Reverse(attention.result));
    for (idx, attention) in found.iter().enumerate() {
        let FusedAttention { query, key, value, bias, heads, scale, result } = attention;
        let name = |part: &str| format!("{PREFIX}{idx}/{part}");
        let output = std::mem::replace(&mut graph.node[*result].output[0], name("old"));
        let (factor, scaled) = (name("scale"), name("query"));
        #[expect(clippy::cast_possible_truncation, reason = "the graph computes with f32")]
        graph.initializer.push(TensorProto::of_float(&factor, *scale as f32));
        let scaling = NodeProto::new("Mul", &[query, &factor], &[&scaled]);
        let mut inputs = vec![scaled.as_str(), key, value];
        if let Some(bias) = bias {
            inputs.extend(["", "", bias]);
        }
        let node = NodeProto::new("MultiHeadAttention", &inputs, &[&output])
            .in_domain(CONTRIB_DOMAIN)
            .with_int("num_heads", *heads)
            .with_float("scale", 1.0);
        graph.node.splice(*result..*result, [scaling, node]);
    }
    remove_unused(graph);
    graph.value_info.clear();
}

/// Returns the index of the node that makes the result of attention from the product of weights and
/// values: a `Reshape` of a `Transpose`.
pub(super) fn result_of(wires: &Wires<'_>, mixed: &NodeProto) -> Option<usize> {
    let turned = wires.only_user(mixed.output.first()?, "Transpose")?;
    let is_back = turned.attribute("perm").is_some_and(|perm| perm.ints == [0, 2, 1, 3]);
    let result = wires.only_user(turned.output.first()?, "Reshape").filter(|_| is_back)?;
    wires.maker_idx(result.output.first()?)
}

/// Walks up to the value of shape `[B, T, C]`, through scales, which may be computed from `head_dim`.
pub(super) fn trunk(wires: &Wires<'_>, value: &str, head_dim: usize) -> Option<Trunk> {
    let (mut value, mut scale) = (value, 1.0);
    loop {
        let node = wires.maker(value)?;
        let input = node.input.first()?;
        match node.op_type() {
            "Transpose" => value = input,
            "Mul" => {
                scale *= scalar(wires, node.input.get(1)?, head_dim)?;
                value = input;
            }
            "Reshape" => {
                let heads = heads(wires, node.input.get(1)?);
                return Some(Trunk { value: input.clone(), scale, heads });
            }
            _ => return None,
        }
    }
}

/// Returns the third dimension of a shape `[B, T, heads, dim]`, if it is constant.
fn heads(wires: &Wires<'_>, shape: &str) -> Option<i64> {
    let dims = wires.maker(shape).filter(|node| node.op_type() == "Concat")?;
    let heads = scalar(wires, dims.input.get(2)?, 0).filter(|heads| *heads > 0.0)?;
    #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
    (dims.input.len() == 4).then_some(heads as i64)
}
