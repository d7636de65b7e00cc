//! Which node makes a value, and which nodes use it.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::onnx::{GraphProto, NodeProto, TensorProto};

/// An index of a graph by its values. It is valid until the graph changes.
pub(super) struct Wires<'g> {
    pub(super) nodes: &'g [NodeProto],
    makers: HashMap<&'g str, usize>,
    users: HashMap<&'g str, Vec<usize>>,
    initializers: HashMap<&'g str, &'g TensorProto>,
}

impl<'g> Wires<'g> {
    pub(super) fn new(graph: &'g GraphProto) -> Self {
        let (mut makers, mut users) = (HashMap::new(), HashMap::<&str, Vec<usize>>::new());
        for (idx, node) in graph.node.iter().enumerate() {
            makers.extend(node.output.iter().map(|output| (output.as_str(), idx)));
            for input in used_by(node) {
                users.entry(input).or_default().push(idx);
            }
        }
        let initializers = graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        Self { nodes: &graph.node, makers, users, initializers }
    }

    /// Returns the index of the node that makes a value; `None` for inputs and initializers.
    pub(super) fn maker_idx(&self, value: &str) -> Option<usize> {
        self.makers.get(value).copied()
    }

    /// Returns the node that makes a value.
    pub(super) fn maker(&self, value: &str) -> Option<&'g NodeProto> {
        self.maker_idx(value).map(|idx| &self.nodes[idx])
    }

    /// Returns the nodes that use a value, also within their branches.
    pub(super) fn users(&self, value: &str) -> impl Iterator<Item = &'g NodeProto> {
        self.users.get(value).into_iter().flatten().map(|idx| &self.nodes[*idx])
    }

    /// Returns the only user of a value of this type.
    pub(super) fn only_user(&self, value: &str, op_type: &str) -> Option<&'g NodeProto> {
        let mut users = self.users(value).filter(|node| node.op_type() == op_type);
        users.next().filter(|_| users.next().is_none())
    }

    /// Returns the initializer with this name.
    pub(super) fn initializer(&self, name: &str) -> Option<&'g TensorProto> {
        self.initializers.get(name).copied()
    }

    /// Walks from the input of a `Softmax` up to the product that makes the scores, through masks,
    /// scales and casts.
    pub(super) fn scores_product(&self, value: &str) -> Option<&'g NodeProto> {
        let node = self.maker(value)?;
        match node.op_type() {
            "MatMul" => Some(node),
            "Add" | "Where" | "Mul" | "Div" | "Cast" => {
                node.input.iter().find_map(|input| self.scores_product(input))
            }
            _ => None,
        }
    }

    /// Returns the product of the weights of a `Softmax` with the values. Between them, rows without
    /// any token may be set to zero.
    pub(super) fn weighted_product(&self, softmax: &'g NodeProto) -> Option<&'g NodeProto> {
        let mut weights = softmax.output.first()?;
        loop {
            if let Some(product) = self.only_user(weights, "MatMul") {
                return Some(product);
            }
            let next = ["Where", "Cast", "Identity"];
            let next = next.iter().find_map(|op_type| self.only_user(weights, op_type))?;
            weights = next.output.first()?;
        }
    }

    /// Returns the nodes in an order in which each one comes after those that make its inputs, and
    /// otherwise as they are; `None` if there is a cycle.
    pub(super) fn order(&self) -> Option<Vec<usize>> {
        let makers = |idx: usize| -> HashSet<usize> {
            used_by(&self.nodes[idx]).filter_map(|value| self.maker_idx(value)).collect()
        };
        let mut n_missing: Vec<usize> =
            (0..self.nodes.len()).map(|idx| makers(idx).len()).collect();
        let ready = n_missing.iter().enumerate().filter(|(_, n)| **n == 0);
        let mut ready: BTreeSet<usize> = ready.map(|(idx, _)| idx).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(idx) = ready.pop_first() {
            order.push(idx);
            let users: HashSet<usize> = self.nodes[idx]
                .output
                .iter()
                .flat_map(|output| self.users.get(output.as_str()).into_iter().flatten().copied())
                .collect();
            for user in users {
                n_missing[user] -= 1;
                if n_missing[user] == 0 {
                    ready.insert(user);
                }
            }
        }
        (order.len() == self.nodes.len()).then_some(order)
    }

    /// Returns the nodes that compute `value`, but not those that compute only its shape.
    pub(super) fn ancestors(&self, value: &str) -> Vec<&'g NodeProto> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut wanted: Vec<usize> = self.maker_idx(value).into_iter().collect();
        while let Some(idx) = wanted.pop() {
            if !seen.insert(idx) {
                continue;
            }
            let node = &self.nodes[idx];
            found.push(node);
            if node.op_type() != "Shape" {
                wanted.extend(used_by(node).filter_map(|value| self.maker_idx(value)));
            }
        }
        found
    }

    /// Returns whether `accepts` is true for a node among the ancestors of a value.
    pub(super) fn comes_from(&self, value: &str, accepts: impl Fn(&NodeProto) -> bool) -> bool {
        self.ancestors(value).into_iter().any(accepts)
    }
}

/// Returns the values that a node uses, including those that its branches take from outside.
fn used_by(node: &NodeProto) -> impl Iterator<Item = &str> {
    let in_branches = node
        .attribute
        .iter()
        .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
        .flat_map(outer_values);
    node.input.iter().map(String::as_str).filter(|input| !input.is_empty()).chain(in_branches)
}

/// Returns the values that a branch takes from outside, and possibly some of its own.
fn outer_values(branch: &GraphProto) -> Vec<&str> {
    let of_nodes = branch.node.iter().flat_map(|node| used_by(node).collect::<Vec<_>>());
    let of_outputs = branch.output.iter().map(|output| output.name());
    of_nodes.chain(of_outputs).collect()
}

/// Removes the nodes and initializers that no output depends on.
pub(super) fn remove_unused(graph: &mut GraphProto) {
    let live: HashSet<usize> = {
        let wires = Wires::new(graph);
        let mut wanted: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
        let mut live = HashSet::new();
        while let Some(value) = wanted.pop() {
            if let Some(idx) = wires.maker_idx(value)
                && live.insert(idx)
            {
                wanted.extend(used_by(&graph.node[idx]));
            }
        }
        live
    };
    let mut idx = 0..;
    graph.node.retain(|_| idx.next().is_some_and(|idx| live.contains(&idx)));
    let used: HashSet<String> = graph
        .node
        .iter()
        .flat_map(used_by)
        .chain(graph.output.iter().map(|output| output.name()))
        .map(str::to_owned)
        .collect();
    graph.initializer.retain(|tensor| used.contains(tensor.name()));
}

/// Makes all users of a value use another one. The node that makes it is unchanged.
pub(super) fn replace_uses(graph: &mut GraphProto, from: &str, to: &str) {
    for node in &mut graph.node {
        for input in node.input.iter_mut().filter(|input| *input == from) {
            to.clone_into(input);
        }
    }
}

/// Gives the result of a node another name, so that another node can make the value.
pub(super) fn rename_output(graph: &mut GraphProto, node_idx: usize, from: &str, to: &str) {
    for output in graph.node[node_idx].output.iter_mut().filter(|output| *output == from) {
        to.clone_into(output);
    }
    replace_uses(graph, from, to);
}
