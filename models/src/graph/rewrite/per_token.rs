//! int8 that batches: activations get one scale per token in the place of one per tensor, so that rows
//! do not depend on each other and run together.
//!
//! # Pattern
//!
//! ```text
//! q, scale, zero = DynamicQuantizeLinear(x)
//! product = Cast(MatMulInteger(q, weight, zero, weight_zero)) * (scale * weight_scale)
//! ```
//!
//! becomes
//!
//! ```text
//! scale = max(|x|, last axis) / 127        q = Cast(Round(x / scale) + 128)
//! product = Cast(MatMulInteger(q, weight, 128, weight_zero)) * (1 * weight_scale) * scale
//! ```
//!
//! The scale of the token is a multiplication of its own: in the place of the scale of the tensor, ONNX
//! Runtime 1.31.1 would fuse it to `MatMulIntegerToFloat`, which reads its first value only.
//!
//! # Conditions
//!
//! Every `DynamicQuantizeLinear` matches. The results are not bit-equal to those of the published
//! graph, but closer to those in single precision.
//!
//! # Source
//!
//! `DynamicQuantizeLinear` and `MatMulInteger` of ONNX, opset 11. Symmetric quantization per token as
//! in ZeroQuant (Yao et al. 2022), section 3.1.

use std::collections::HashMap;

use super::{Refusal, wires::Wires};
use crate::graph::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, data_type};

const PREFIX: &str = "legenda/per_token/";
const QUANTIZE: &str = "DynamicQuantizeLinear";

/// The opset since which `ReduceMax` takes its axes as an input.
const AXES_INPUT_OPSET: i64 = 18;

/// Rewrites all quantized products of a model. Returns the number of quantized values.
///
/// # Errors
///
/// [`Refusal`] if one does not match.
pub(super) fn per_token(model: &mut ModelProto) -> Result<usize, Refusal> {
    let opset = model.opset_import.iter().find(|set| set.domain().is_empty());
    let takes_axes = opset.is_some_and(|set| set.version() >= AXES_INPUT_OPSET);
    let graph = model.graph.as_mut().ok_or_else(|| Refusal::pattern("graph", "no graph"))?;
    let mut n_done = 0;
    rewrite_graph(graph, takes_axes, &mut n_done)?;
    if n_done == 0 {
        return Ok(0);
    }
    let name = |name: &str| format!("{PREFIX}{name}");
    graph.initializer.extend([
        TensorProto::of_float(&name("smallest"), 1e-9),
        TensorProto::of_float(&name("127"), 127.0),
        TensorProto::of_float(&name("128"), 128.0),
        TensorProto::of_float(&name("one"), 1.0),
        TensorProto::of_ints(&name("last_axis"), &[1], &[-1]),
        TensorProto {
            name: Some(name("zero")),
            data_type: Some(data_type::UINT8),
            int32_data: vec![128],
            ..TensorProto::default()
        },
    ]);
    Ok(n_done)
}

/// Rewrites a graph and its branches.
fn rewrite_graph(
    graph: &mut GraphProto,
    takes_axes: bool,
    n_done: &mut usize,
) -> Result<(), Refusal> {
    for node in &mut graph.node {
        if node.op_type().starts_with("DynamicQuantize") && node.op_type() != QUANTIZE {
            return Err(Refusal::pattern(node.op_type(), "fused quantization"));
        }
        for attribute in &mut node.attribute {
            for branch in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                rewrite_graph(branch, takes_axes, n_done)?;
            }
        }
    }
    let plan = Plan::of(graph)?;
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        if node.op_type() == QUANTIZE {
            nodes.extend(quantize_tokens(&node, takes_axes, *n_done));
            *n_done += 1;
            continue;
        }
        for input in &mut node.input {
            if let Some(replaced) = plan.replaced.get(input) {
                input.clone_from(replaced);
            }
        }
        let scale = node.output.first().and_then(|output| plan.scales.get(output)).cloned();
        if let Some(scale) = scale {
            let output = node.output[0].clone();
            let unscaled = format!("{PREFIX}unscaled/{output}");
            node.output[0].clone_from(&unscaled);
            nodes.push(node);
            nodes.push(NodeProto::new("Mul", &[&unscaled, &scale], &[&output]));
        } else {
            nodes.push(node);
        }
    }
    graph.node = nodes;
    Ok(())
}

/// The changes to the nodes after the quantization.
#[derive(Default)]
struct Plan {
    /// Inputs in the place of others: the zero points, and the scales of tensors.
    replaced: HashMap<String, String>,
    /// The products that are multiplied by the scale of the token.
    scales: HashMap<String, String>,
}

impl Plan {
    fn of(graph: &GraphProto) -> Result<Self, Refusal> {
        let wires = Wires::new(graph);
        let mut plan = Self::default();
        for node in graph.node.iter().filter(|node| node.op_type() == QUANTIZE) {
            let [quantized, scale, zero] = node.output.as_slice() else {
                return Err(Refusal::pattern(QUANTIZE, "unexpected outputs"));
            };
            let refuse = |problem| Refusal::pattern(quantized, problem);
            let is_first = |user: &NodeProto| {
                user.op_type() == "MatMulInteger" && user.input.first() == Some(quantized)
            };
            if !wires.users(quantized).all(is_first) {
                return Err(refuse("quantized values are used by another operator"));
            }
            let is_zero = |user: &NodeProto| is_first(user) && user.input.get(2) == Some(zero);
            if !wires.users(zero).all(is_zero) {
                return Err(refuse("a zero point is used by another operator"));
            }
            plan.replaced.insert(zero.clone(), format!("{PREFIX}zero"));
            plan.replaced.insert(scale.clone(), format!("{PREFIX}one"));
            for scaling in wires.users(scale) {
                // The scale of the weights times that of the tensor, then times the product.
                let scaled = scaling.output.first().filter(|_| scaling.op_type() == "Mul");
                let scaled = scaled.ok_or_else(|| refuse("unexpected use of a scale"))?;
                for product in wires.users(scaled) {
                    let is_ours = product.op_type() == "Mul"
                        && product
                            .input
                            .iter()
                            .filter(|input| *input != scaled)
                            .all(|input| is_cast_product(&wires, input, quantized));
                    if !is_ours {
                        return Err(refuse("unexpected use of a scale"));
                    }
                    plan.scales.insert(product.output[0].clone(), token_scale(scale));
                }
            }
        }
        Ok(plan)
    }
}

/// Returns whether a value is a product with quantized values, cast to floats.
fn is_cast_product(wires: &Wires<'_>, value: &str, quantized: &str) -> bool {
    let cast = wires.maker(value).filter(|node| node.op_type() == "Cast");
    let product = cast.and_then(|node| wires.maker(node.input.first()?));
    product.is_some_and(|node| {
        node.op_type() == "MatMulInteger" && node.input.first().is_some_and(|v| v == quantized)
    })
}

/// Returns the name of the scale of each token.
fn token_scale(tensor_scale: &str) -> String {
    format!("{PREFIX}scale/{tensor_scale}")
}

/// Creates the nodes in the place of a `DynamicQuantizeLinear`.
fn quantize_tokens(node: &NodeProto, takes_axes: bool, idx: usize) -> [NodeProto; 8] {
    let (values, quantized) = (node.input[0].as_str(), node.output[0].as_str());
    let scale = token_scale(&node.output[1]);
    let own = |name: &str| format!("{PREFIX}{idx}/{name}");
    let shared = |name: &str| format!("{PREFIX}{name}");
    let max = if takes_axes {
        NodeProto::new("ReduceMax", &[&own("abs"), &shared("last_axis")], &[&own("max")])
    } else {
        NodeProto::new("ReduceMax", &[&own("abs")], &[&own("max")]).with_ints("axes", &[-1])
    };
    [
        NodeProto::new("Abs", &[values], &[&own("abs")]),
        max.with_int("keepdims", 1),
        NodeProto::new("Max", &[&own("max"), &shared("smallest")], &[&own("positive")]),
        NodeProto::new("Div", &[&own("positive"), &shared("127")], &[&scale]),
        NodeProto::new("Div", &[values, &scale], &[&own("units")]),
        NodeProto::new("Round", &[&own("units")], &[&own("rounded")]),
        NodeProto::new("Add", &[&own("rounded"), &shared("128")], &[&own("shifted")]),
        NodeProto::new("Cast", &[&own("shifted")], &[quantized])
            .with_int("to", i64::from(data_type::UINT8)),
    ]
}
