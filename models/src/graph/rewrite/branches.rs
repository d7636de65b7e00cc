//! The two graphs of a merged decoder: an `If` on `use_cache_branch` chooses between them.
//!
//! Nodes before the `If` belong to both: tools that quantize a merged decoder put the quantization of an
//! input there.
//!
//! # Source
//!
//! `merge_decoders` of optimum (`optimum/onnx/graph_transformations.py`, version 2.1): the main graph
//! has one node, and the branches use its inputs and initializers. `quantize_dynamic` of ONNX Runtime
//! 1.31.

use super::{Refusal, wires::remove_unused};
use crate::graph::onnx::{GraphProto, ModelProto, NodeProto};

const BRANCH: &str = "use_cache_branch";

/// The graphs of a decoder for the first run and for later ones.
pub(super) struct Branches {
    pub(super) first: ModelProto,
    pub(super) step: ModelProto,
}

/// Splits a merged decoder.
///
/// # Errors
///
/// [`Refusal`] if the model does not end in an `If`.
pub(super) fn split(model: &ModelProto) -> Result<Branches, Refusal> {
    let refuse = |problem| Refusal::pattern(BRANCH, problem);
    let graph = model.graph.as_ref().ok_or_else(|| refuse("no graph"))?;
    let Some((choice, shared)) = graph.node.split_last() else {
        return Err(refuse("not a merged decoder"));
    };
    if choice.op_type() != "If" || choice.input != [BRANCH] {
        return Err(refuse("not a merged decoder"));
    }
    let branch = |name| {
        let branch = choice.attribute(name).and_then(|attribute| attribute.g.as_ref());
        branch.map(|branch| alone(model, graph, (shared, choice), branch))
    };
    let then = branch("then_branch").ok_or_else(|| refuse("no branch"))?;
    let other = branch("else_branch").ok_or_else(|| refuse("no branch"))?;
    Ok(Branches { first: other, step: then })
}

/// Makes a model of a branch.
fn alone(
    model: &ModelProto,
    graph: &GraphProto,
    (shared, choice): (&[NodeProto], &NodeProto),
    branch: &GraphProto,
) -> ModelProto {
    let mut alone = GraphProto {
        node: [shared, branch.node.as_slice()].concat(),
        name: branch.name.clone(),
        initializer: [graph.initializer.as_slice(), &branch.initializer].concat(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        ..GraphProto::default()
    };
    let outputs = choice.output.iter().zip(&branch.output);
    for (outer, inner) in outputs.filter(|(outer, inner)| *outer != inner.name()) {
        alone.node.push(NodeProto::new("Identity", &[inner.name()], &[outer]));
    }
    remove_unused(&mut alone);
    let used =
        |name: &str| alone.node.iter().any(|node| node.input.iter().any(|input| input == name));
    let inputs = alone.input.iter().filter(|input| used(input.name())).cloned().collect();
    let alone = GraphProto { input: inputs, ..alone };
    ModelProto { graph: Some(alone), ..model.clone() }
}
