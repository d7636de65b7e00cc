//! Last-position logits: a graph that returns the logits of every position takes the number of last
//! positions instead, in the input `num_logits_to_keep`.
//!
//! # Pattern
//!
//! `logits` is a product of hidden states with an initializer; after it, only operators that work on
//! each value alone.
//!
//! # Source
//!
//! `num_logits_to_keep` is the name in the graphs that transformers.js publishes.

use super::wires::Wires;
use crate::graph::onnx::{
    DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, data_type,
};

const N_LOGITS: &str = "num_logits_to_keep";
const PREFIX: &str = "legenda/last_logits/";

/// Adds the input if the graph matches; else leaves the graph as it is.
pub(super) fn keep_last_logits(graph: &mut GraphProto) {
    let Some((product_idx, hidden)) = find_product(graph) else { return };
    let name = |name: &str| format!("{PREFIX}{name}");
    let axis = |tensor: &str, value| TensorProto::of_ints(&name(tensor), &[1], &[value]);
    graph.initializer.extend([axis("axis_0", 0), axis("axis_1", 1), axis("end", i64::MAX)]);
    graph.node[product_idx].input[0] = name("hidden");
    let node = |op_type: &str, inputs: &[&str], output: &str| {
        NodeProto::new(op_type, inputs, &[&name(output)])
    };
    let slice = [&hidden, &name("start"), &name("end"), &name("axis_1")];
    let nodes = [
        node("Neg", &[N_LOGITS], "first"),
        node("Unsqueeze", &[&name("first"), &name("axis_0")], "start"),
        node("Slice", &slice.map(String::as_str), "hidden"),
    ];
    graph.node.splice(product_idx..product_idx, nodes);
    graph.input.push(ValueInfoProto {
        name: Some(N_LOGITS.to_owned()),
        kind: Some(scalar_type()),
        ..ValueInfoProto::default()
    });
}

/// Returns the index of the product that makes the logits, and its hidden states.
fn find_product(graph: &GraphProto) -> Option<(usize, String)> {
    let wires = Wires::new(graph);
    let mut idx = wires.maker_idx("logits")?;
    loop {
        let node = &wires.nodes[idx];
        let next = match node.op_type() {
            "MatMul" | "MatMulNBits" => {
                let is_constant = |value: &String| {
                    let is_weight = |value: &str| wires.initializer(value).is_some();
                    let maker = wires.maker(value);
                    let is_turned = maker.is_some_and(|maker| {
                        ["Transpose", "Cast"].contains(&maker.op_type())
                            && maker.input.first().is_some_and(|value| is_weight(value))
                    });
                    is_weight(value) || is_turned
                };
                let is_weighted = node.input.get(1).is_some_and(is_constant);
                let hidden = node.input.first().filter(|_| is_weighted)?;
                return Some((idx, hidden.clone()));
            }
            "Cast" | "Tanh" | "Mul" | "Div" => node.input.first()?,
            _ => return None,
        };
        idx = wires.maker_idx(next)?;
    }
}

/// Encodes the type of an `i64` scalar.
fn scalar_type() -> Vec<u8> {
    let shape = TensorShapeProto { dim: Vec::<DimensionProto>::new() };
    let tensor = TensorTypeProto { elem_type: Some(data_type::INT64), shape: Some(shape) };
    prost::Message::encode_to_vec(&TypeProto { tensor_type: Some(tensor) })
}
