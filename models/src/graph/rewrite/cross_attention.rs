//! Cross-attention once per row: keys and values of the encoder states are computed in the first run
//! and kept, in the place of once per step.
//!
//! # Pattern
//!
//! ```text
//! scores = MatMul(Q * c, Transpose(K, [0, 2, 3, 1]) * c)      K: [B, T, heads, dim]
//! scores = MatMul(Q * c, Transpose(K, [0, 1, 3, 2]) * c)      K: [B, heads, T, dim]
//! result = MatMul(Softmax(scores + mask), V)                  V: [B, heads, T, dim]
//! ```
//!
//! `K` and `V` depend on `encoder_hidden_states` and weights alone. The graph of the first run returns
//! them as `present.N.encoder.key` and `.value`, and the graph of later runs takes them as
//! `past_key_values.N.encoder.key` and `.value`: the names that optimum gives to them in other models.
//!
//! # Conditions
//!
//! Both graphs have the same number of such layers, and do not keep the keys and values already.

use prost::Message;

use super::{
    Refusal,
    scalar::scalar,
    wires::{Wires, remove_unused, replace_uses},
};
use crate::graph::{
    ENCODER_STATES,
    onnx::{
        DimensionProto, GraphProto, ModelProto, NodeProto, TensorShapeProto, TensorTypeProto,
        TypeProto, ValueInfoProto,
    },
};

const PREFIX: &str = "legenda/cross_attention/";

/// Keys and values of the encoder states in one layer.
struct Layer {
    key: String,
    /// Whether keys are `[B, T, heads, dim]`, not `[B, heads, T, dim]`.
    is_key_by_position: bool,
    value: String,
}

/// Keeps keys and values between the graphs of the first run and of later ones.
///
/// # Errors
///
/// [`Refusal`] if the graphs do not match.
pub(super) fn keep_cross_attention(
    first: &mut ModelProto,
    step: &mut ModelProto,
) -> Result<(), Refusal> {
    let (Some(first), Some(step)) = (&mut first.graph, &mut step.graph) else {
        return Err(Refusal::pattern("graph", "no graph"));
    };
    let (given, taken) = (find_layers(first), find_layers(step));
    if given.is_empty() || given.len() != taken.len() {
        return Err(Refusal::pattern(ENCODER_STATES, "no cross-attention to keep"));
    }
    let kind = cache_type(step)?;
    for (idx, (given, taken)) in given.iter().zip(&taken).enumerate() {
        return_layer(first, given, idx, &kind);
        take_layer(step, taken, idx, &kind);
    }
    remove_unused(step);
    first.value_info.clear();
    step.value_info.clear();
    Ok(())
}

/// Adds the outputs of a layer to the graph of the first run.
fn return_layer(graph: &mut GraphProto, layer: &Layer, idx: usize, kind: &[u8]) {
    let (key, value) = (name("present", idx, "key"), name("present", idx, "value"));
    graph.node.push(if layer.is_key_by_position {
        NodeProto::new("Transpose", &[&layer.key], &[&key]).with_ints("perm", &[0, 2, 1, 3])
    } else {
        NodeProto::new("Identity", &[&layer.key], &[&key])
    });
    graph.node.push(NodeProto::new("Identity", &[&layer.value], &[&value]));
    graph.output.extend([port(&key, kind), port(&value, kind)]);
}

/// Makes the graph of later runs take the keys and values of a layer.
fn take_layer(graph: &mut GraphProto, layer: &Layer, idx: usize, kind: &[u8]) {
    let (key, value) = (name("past_key_values", idx, "key"), name("past_key_values", idx, "value"));
    if layer.is_key_by_position {
        let turned = format!("{PREFIX}{idx}/key");
        replace_uses(graph, &layer.key, &turned);
        let node = NodeProto::new("Transpose", &[&key], &[&turned]);
        graph.node.insert(0, node.with_ints("perm", &[0, 2, 1, 3]));
    } else {
        replace_uses(graph, &layer.key, &key);
    }
    replace_uses(graph, &layer.value, &value);
    graph.input.extend([port(&key, kind), port(&value, kind)]);
}

fn name(side: &str, idx: usize, part: &str) -> String {
    format!("{side}.{idx}.encoder.{part}")
}

fn port(name: &str, kind: &[u8]) -> ValueInfoProto {
    let kind = Some(kind.to_vec());
    ValueInfoProto { name: Some(name.to_owned()), kind, ..ValueInfoProto::default() }
}

/// Encodes the type of the keys and values: that of the KV cache of self-attention.
fn cache_type(graph: &GraphProto) -> Result<Vec<u8>, Refusal> {
    let past = graph.input.iter().find(|input| input.name().starts_with("past_key_values."));
    let (dtype, dims) = past
        .and_then(ValueInfoProto::tensor)
        .ok_or_else(|| Refusal::Port { name: "past_key_values.0.key".to_owned() })?;
    let symbolic = |name: &str| DimensionProto {
        dim_param: Some(name.to_owned()),
        ..DimensionProto::default()
    };
    let fixed = |idx: usize| DimensionProto {
        dim_value: dims.get(idx).copied().flatten(),
        ..DimensionProto::default()
    };
    let dim = vec![symbolic("batch_size"), fixed(1), symbolic("encoder_sequence_length"), fixed(3)];
    let tensor = TensorTypeProto { elem_type: Some(dtype), shape: Some(TensorShapeProto { dim }) };
    Ok(TypeProto { tensor_type: Some(tensor) }.encode_to_vec())
}

/// Finds the cross-attention of all layers, in the order of the nodes.
fn find_layers(graph: &GraphProto) -> Vec<Layer> {
    let wires = Wires::new(graph);
    let softmaxes = wires.nodes.iter().filter(|node| node.op_type() == "Softmax");
    softmaxes.filter_map(|softmax| find_layer(graph, &wires, softmax)).collect()
}

/// Reads the cross-attention around a `Softmax`; `None` if it is another attention.
fn find_layer(graph: &GraphProto, wires: &Wires<'_>, softmax: &NodeProto) -> Option<Layer> {
    let of_states = |value: &str| depends_on_states_alone(graph, wires, value);
    let scores = wires.scores_product(softmax.input.first()?)?;
    let mut turned = wires.maker(scores.input.get(1)?)?;
    // Exporters scale the keys.
    while turned.op_type() == "Mul"
        && let Some(factor) = turned.input.get(1)
        && scalar(wires, factor, 1).is_some()
    {
        turned = wires.maker(turned.input.first()?)?;
    }
    let perm = turned.attribute("perm").filter(|_| turned.op_type() == "Transpose")?;
    let is_key_by_position = match perm.ints[..] {
        [0, 2, 3, 1] => true,
        [0, 1, 3, 2] => false,
        _ => return None,
    };
    let key = turned.input.first().filter(|key| of_states(key))?;
    let mixed = wires.weighted_product(softmax)?;
    let value = mixed.input.get(1).filter(|value| of_states(value))?;
    Some(Layer { key: key.clone(), is_key_by_position, value: value.clone() })
}

/// Returns whether a value depends on the encoder states, and on no other input but for its shape.
fn depends_on_states_alone(graph: &GraphProto, wires: &Wires<'_>, value: &str) -> bool {
    let is_input = |name: &str| graph.input.iter().any(|input| input.name() == name);
    let takes = |name: &str| {
        wires.comes_from(value, |node| {
            node.op_type() != "Shape" && node.input.iter().any(|input| input == name)
        })
    };
    !is_input(value)
        && takes(ENCODER_STATES)
        && graph.input.iter().all(|input| input.name() == ENCODER_STATES || !takes(input.name()))
}
