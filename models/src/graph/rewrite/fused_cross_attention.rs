//! Fused attention of a decoder to cached keys and values of the encoder states, without a transposed
//! and scaled copy of all keys in each step.
//!
//! # Pattern
//!
//! ```text
//! scores = MatMul(Q * c, Transpose(K) * c) + mask     result = Reshape(Transpose(MatMul(Softmax(scores), V)))
//! ```
//!
//! `K` and `V` are the inputs `past_key_values.N.encoder.key` and `.value`, `[B, heads, T, dim]`, and `Q`
//! is a `Transpose` of a `Reshape` of `[B, S, C]` to `[B, S, heads, dim]`.
//!
//! # Conditions
//!
//! The cache is `f32`, and the keys are transposed to `[B, heads, dim, T]`.

use super::{
    Refusal,
    fused_attention::{FusedAttention, fuse, result_of, trunk},
    scalar::scalar,
    wires::Wires,
};
use crate::graph::onnx::{CONTRIB_DOMAIN, GraphProto, ModelProto, NodeProto, data_type};

/// Fuses the attention to cached encoder states in a graph of later runs.
///
/// # Errors
///
/// [`Refusal`] if there is no such attention.
pub(super) fn fuse_cross_attention(model: &mut ModelProto) -> Result<(), Refusal> {
    let graph = model.graph.as_mut().ok_or_else(|| Refusal::pattern("graph", "no graph"))?;
    let found: Vec<FusedAttention> = {
        let wires = Wires::new(graph);
        let softmaxes = wires.nodes.iter().filter(|node| node.op_type() == "Softmax");
        softmaxes.filter_map(|softmax| read(graph, &wires, softmax)).collect()
    };
    if found.is_empty() {
        return Err(Refusal::pattern("encoder.key", "no attention to cached encoder states"));
    }
    fuse(graph, found);
    model.import(CONTRIB_DOMAIN);
    Ok(())
}

/// Reads the attention around a `Softmax`; `None` if it is another attention.
fn read(graph: &GraphProto, wires: &Wires<'_>, softmax: &NodeProto) -> Option<FusedAttention> {
    let (scores, bias) = scores(wires, softmax.input.first()?)?;
    let mixed = wires.only_user(softmax.output.first()?, "MatMul")?;
    let value = mixed.input.get(1).filter(|value| value.ends_with(".encoder.value"))?;
    let input = graph.input.iter().find(|input| input.name() == value)?;
    let (dtype, dims) = input.tensor()?;
    let [_, Some(heads), _, Some(head_dim)] = dims[..] else { return None };
    let head_dim = usize::try_from(head_dim).ok().filter(|_| dtype == data_type::FLOAT)?;
    let (key, key_scale) = transposed_key(wires, scores.input.get(1)?, head_dim)?;
    let query = trunk(wires, scores.input.first()?, head_dim)?;
    Some(FusedAttention {
        query: query.value,
        key: key.to_owned(),
        value: value.clone(),
        bias,
        heads,
        scale: query.scale * key_scale,
        result: result_of(wires, mixed)?,
    })
}

/// Returns the product that makes the scores, and the mask that is added to it.
fn scores<'g>(wires: &Wires<'g>, value: &str) -> Option<(&'g NodeProto, Option<String>)> {
    let node = wires.maker(value)?;
    match node.op_type() {
        "MatMul" => Some((node, None)),
        "Cast" if casts_to_float(node) => scores(wires, node.input.first()?),
        "Add" => {
            let (first, second) = (node.input.first()?, node.input.get(1)?);
            let product = |value: &str| wires.maker(value).filter(|n| n.op_type() == "MatMul");
            let is_mask = |value: &str| wires.scores_product(value).is_none();
            match (product(first), product(second)) {
                (Some(product), None) if is_mask(second) => Some((product, Some(second.clone()))),
                (None, Some(product)) if is_mask(first) => Some((product, Some(first.clone()))),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns whether a node casts to `f32`, which the scores have already.
fn casts_to_float(node: &NodeProto) -> bool {
    let to = node.attribute("to").and_then(|attribute| attribute.i);
    to == Some(i64::from(data_type::FLOAT))
}

/// Walks from transposed keys up to the input of the graph, through scales. Returns it with the product
/// of the scales.
fn transposed_key<'g>(
    wires: &Wires<'g>,
    value: &'g str,
    head_dim: usize,
) -> Option<(&'g str, f64)> {
    let (mut value, mut scale, mut axes) = (value, 1.0, vec![0, 1, 2, 3]);
    while let Some(node) = wires.maker(value) {
        match node.op_type() {
            "Mul" => scale *= scalar(wires, node.input.get(1)?, head_dim)?,
            "Transpose" => {
                let perm = &node.attribute("perm")?.ints;
                let turned = axes.iter().map(|axis: &i64| perm.get(usize::try_from(*axis).ok()?));
                axes = turned.map(Option::<&i64>::copied).collect::<Option<_>>()?;
            }
            _ => return None,
        }
        value = node.input.first()?;
    }
    (value.ends_with(".encoder.key") && axes == [0, 1, 3, 2]).then_some((value, scale))
}
