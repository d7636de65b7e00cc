//! Growing to in-place: self-attention over a KV cache that grows by `Concat` becomes
//! `GroupQueryAttention`, which writes into a cache of fixed size.
//!
//! # Pattern
//!
//! ```text
//! present.N.key = Concat(past.N.key, K)       scores  = MatMul(Q * c, repeat(present.N.key)^T * c)
//! present.N.value = Concat(past.N.value, V)   weights = Softmax(softcap(scores) + mask)
//! result = Reshape(Transpose(MatMul(weights, repeat(present.N.value))))
//! ```
//!
//! `repeat` stands for the nodes that repeat KV heads, `c` for constant factors. Rotary embedding,
//! biases and norms stay as they are, before `Q` and `K`.
//!
//! # Conditions
//!
//! Every layer with a KV cache matches. The rest of the graph depends neither on the mask nor on the
//! length of the cache, except for positions: a graph that counts them from the length of the cache
//! gets the input `position_ids`. The mask of a layer is causal, within a sliding window if its nodes
//! contain the window of the config; they contain no other number but axes. Whether the result is the
//! same is tested when the model loads (`exec::trial`).
//!
//! # Source
//!
//! `GroupQueryAttention` in ONNX Runtime 1.31, `docs/ContribOperators.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Refusal,
    last_logits::keep_last_logits,
    scalar::{scalar, whole_numbers},
    wires::{Wires, remove_unused, rename_output, replace_uses},
};
use crate::graph::{
    GQA,
    onnx::{
        CONTRIB_DOMAIN, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, data_type,
    },
};

const MASK: &str = "attention_mask";
const POSITIONS: &str = "position_ids";
/// The prefix of added values.
const PREFIX: &str = "legenda/in_place/";

/// What the config of a decoder declares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderFacts {
    /// Query heads of a layer.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) head_dim: usize,
    /// The number of tokens that layers with a sliding window attend to.
    pub(crate) sliding_window: Option<usize>,
    /// Whether the KV cache must be in half precision, else in single precision. CUDA has the new
    /// operator in half precision only. The CPU computes half precision in single precision and rounds
    /// at other places then, without a gain in speed.
    pub(crate) is_half: bool,
}

/// The attention of one layer.
struct Layer {
    past_key: String,
    past_value: String,
    /// The node that makes the present keys or values.
    key_concat: usize,
    value_concat: usize,
    query: String,
    scale: f64,
    softcap: Option<f64>,
    /// The value that is added to the scores.
    masks: Vec<String>,
    /// The node that makes the result, `[B, S, heads * dim]`.
    result: usize,
    kv_heads: i64,
    head_dim: i64,
}

/// Rewrites a decoder.
///
/// # Errors
///
/// [`Refusal`] if the graph does not match.
pub(crate) fn in_place(model: &mut ModelProto, facts: DecoderFacts) -> Result<(), Refusal> {
    let graph = model.graph.as_mut().ok_or_else(|| Refusal::pattern("graph", "no graph"))?;
    let has = |name: &str| graph.input.iter().any(|input| input.name() == name);
    if !has(MASK) || has("num_logits_to_keep") {
        return Err(Refusal::Port { name: MASK.to_owned() });
    }
    let layers = find_layers(graph, facts)?;
    let windows = windows(graph, &layers, facts)?;
    add_lengths(graph);
    for (layer, window) in layers.iter().zip(windows) {
        replace_attention(graph, layer, facts, window);
    }
    // The new nodes are at the end.
    sort(graph)?;
    remove_unused(graph);
    if !graph.input.iter().any(|input| input.name() == POSITIONS) {
        take_positions(graph)?;
        remove_unused(graph);
    }
    expect_independent(graph)?;
    keep_last_logits(graph);
    // The shapes of intermediate values have changed.
    graph.value_info.clear();
    model.import(CONTRIB_DOMAIN);
    Ok(())
}

/// Finds the attention of every layer with a KV cache.
fn find_layers(graph: &GraphProto, facts: DecoderFacts) -> Result<Vec<Layer>, Refusal> {
    let wires = Wires::new(graph);
    let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
    for softmax in wires.nodes.iter().filter(|node| node.op_type() == "Softmax") {
        if let Some(layer) = find_layer(graph, &wires, softmax, facts)? {
            layers.insert(layer.past_key.clone(), layer);
        }
    }
    let pasts = graph.input.iter().map(ValueInfoProto::name);
    for past in pasts.filter(|name| is_past(name)) {
        let is_found =
            |layer: &Layer| [&layer.past_key, &layer.past_value].into_iter().any(|p| p == past);
        if !layers.values().any(is_found) {
            return Err(Refusal::pattern(past, "no attention over this KV cache"));
        }
    }
    if layers.is_empty() {
        return Err(Refusal::pattern("past_key_values", "no KV cache"));
    }
    Ok(layers.into_values().collect())
}

fn is_past(input: &str) -> bool {
    input.starts_with("past_key_values.")
}

/// Reads the attention around a `Softmax`; `None` if it is not over a KV cache.
fn find_layer(
    graph: &GraphProto,
    wires: &Wires<'_>,
    softmax: &NodeProto,
    facts: DecoderFacts,
) -> Result<Option<Layer>, Refusal> {
    let mut scores = Scores { scale: 1.0, softcap: None, masks: Vec::new() };
    let Some((query, key)) = first(softmax)
        .and_then(|value| scores.find_product(wires, value, facts))
        .map(|product| (product.input[0].as_str(), product.input[1].as_str()))
    else {
        return Ok(None);
    };
    let Some(key_concat) = scores.find_concat(wires, key, facts) else { return Ok(None) };
    let refuse = |problem| Refusal::pattern(softmax.output.first().map_or("", |v| v), problem);
    let query = scores.unscaled(wires, query, facts);
    let mixed = wires.weighted_product(softmax).ok_or_else(|| refuse("no product with values"))?;
    let value = mixed.input.get(1).ok_or_else(|| refuse("no values"))?;
    let mut plain = Scores { scale: 1.0, softcap: None, masks: Vec::new() };
    let value_concat =
        plain.find_concat(wires, value, facts).ok_or_else(|| refuse("no KV cache of values"))?;
    if (plain.scale - 1.0).abs() > f64::EPSILON {
        return Err(refuse("scaled values"));
    }
    let result = first_output(mixed)
        .and_then(|value| wires.only_user(value, "Transpose"))
        .filter(|node| node.attribute("perm").is_some_and(|perm| perm.ints == [0, 2, 1, 3]))
        .and_then(first_output)
        .and_then(|value| wires.only_user(value, "Reshape"))
        .and_then(first_output)
        .and_then(|value| wires.maker_idx(value))
        .ok_or_else(|| refuse("unexpected layout of the result"))?;
    let past = |concat: usize| wires.nodes[concat].input[0].clone();
    let (past_key, past_value) = (past(key_concat), past(value_concat));
    let info = graph.input.iter().find(|input| input.name() == past_key);
    let (dtype, dims) = info.and_then(ValueInfoProto::tensor).unwrap_or_default();
    let [_, Some(kv_heads), _, Some(head_dim)] = dims[..] else {
        return Err(Refusal::Port { name: past_key });
    };
    if dtype != if facts.is_half { data_type::FLOAT16 } else { data_type::FLOAT } {
        return Err(refuse("a precision without this operator on the device"));
    }
    Ok(Some(Layer {
        past_key,
        past_value,
        key_concat,
        value_concat,
        query: query.to_owned(),
        scale: scores.scale,
        softcap: scores.softcap,
        masks: scores.masks,
        result,
        kv_heads,
        head_dim,
    }))
}

/// What was found on the way from a `Softmax` to its product.
struct Scores {
    /// The product of all constant factors.
    scale: f64,
    softcap: Option<f64>,
    masks: Vec<String>,
}

impl Scores {
    /// Walks from the scores up to the product of queries and keys.
    fn find_product<'g>(
        &mut self,
        wires: &Wires<'g>,
        value: &str,
        facts: DecoderFacts,
    ) -> Option<&'g NodeProto> {
        let mut node = wires.maker(value)?;
        loop {
            node = match node.op_type() {
                "MatMul" => return Some(node),
                "Cast" => wires.maker(first(node)?)?,
                "Add" | "Where" => {
                    let mut operands = node.input.iter().filter_map(|value| {
                        let maker = wires.maker(value)?;
                        let is_data = ["MatMul", "Mul", "Div", "Add", "Where", "Cast"];
                        is_data.contains(&maker.op_type()).then_some((value, maker))
                    });
                    let (value, data) = operands.find(|(value, _)| leads_to_cache(wires, value))?;
                    self.masks.extend(node.input.iter().filter(|mask| *mask != value).cloned());
                    data
                }
                "Mul" | "Div" => {
                    let (factor, data) = factor(wires, node, facts)?;
                    let data = wires.maker(data)?;
                    if data.op_type() == "Tanh" {
                        self.softcap = Some(factor);
                        // The division by the cap.
                        let inner = wires.maker(first(data)?)?;
                        let (inverse, scores) = self::factor(wires, inner, facts)?;
                        if (inverse * factor - 1.0).abs() > 1e-4 {
                            return None;
                        }
                        wires.maker(scores)?
                    } else {
                        self.scale *= factor;
                        data
                    }
                }
                _ => return None,
            }
        }
    }

    /// Walks from an operand of a product up to the `Concat` with the past, through nodes that repeat
    /// heads, transpose and scale.
    fn find_concat(
        &mut self,
        wires: &Wires<'_>,
        value: &str,
        facts: DecoderFacts,
    ) -> Option<usize> {
        let mut idx = wires.maker_idx(value)?;
        loop {
            let node = &wires.nodes[idx];
            let next = match node.op_type() {
                "Concat" if node.input.len() == 2 && is_past(&node.input[0]) => return Some(idx),
                "Transpose" | "Reshape" | "Expand" | "Unsqueeze" | "Cast" => first(node)?,
                "Mul" | "Div" => {
                    let (factor, data) = factor(wires, node, facts)?;
                    self.scale *= factor;
                    data
                }
                _ => return None,
            };
            idx = wires.maker_idx(next)?;
        }
    }

    /// Removes constant factors from the queries and multiplies the scale by them.
    fn unscaled<'g>(&mut self, wires: &Wires<'g>, query: &'g str, facts: DecoderFacts) -> &'g str {
        let mut query = query;
        while let Some(node) = wires.maker(query)
            && let Some((factor, data)) = factor(wires, node, facts)
        {
            self.scale *= factor;
            query = data;
        }
        query
    }
}

/// Returns whether a value is computed from a product with a KV cache.
fn leads_to_cache(wires: &Wires<'_>, value: &str) -> bool {
    wires.comes_from(value, |node| node.op_type() == "MatMul" && node.input.len() == 2)
        && wires.comes_from(value, |node| {
            node.op_type() == "Concat" && first(node).is_some_and(is_past)
        })
}

/// Splits a product with a constant, or a division by one, into the factor and the other operand.
fn factor<'g>(
    wires: &Wires<'g>,
    node: &'g NodeProto,
    facts: DecoderFacts,
) -> Option<(f64, &'g str)> {
    let [a, b] = node.input.as_slice() else { return None };
    let constant = |value: &str| scalar(wires, value, facts.head_dim);
    match node.op_type() {
        "Mul" => match (constant(a), constant(b)) {
            (None, Some(factor)) => Some((factor, a)),
            (Some(factor), None) => Some((factor, b)),
            _ => None,
        },
        "Div" => Some((1.0 / constant(b)?, a)),
        _ => None,
    }
}

/// Whole numbers in the nodes of a mask from here on may be sliding windows; smaller ones are axes.
const WINDOW_TOKENS_MIN: i64 = 4;

/// Returns the sliding window of each layer, which is a number in the nodes of its mask.
///
/// # Errors
///
/// [`Refusal`] for a number that is not the window of the config.
fn windows(
    graph: &GraphProto,
    layers: &[Layer],
    facts: DecoderFacts,
) -> Result<Vec<Option<usize>>, Refusal> {
    let wires = Wires::new(graph);
    let window = |layer: &Layer| {
        let nodes = layer.masks.iter().flat_map(|mask| wires.ancestors(mask));
        let numbers = nodes.flat_map(|node| whole_numbers(&wires, node)).map(i64::saturating_abs);
        let numbers: BTreeSet<i64> = numbers.filter(|n| *n >= WINDOW_TOKENS_MIN).collect();
        match *numbers.into_iter().collect::<Vec<_>>() {
            [] => Ok(None),
            [number] if usize::try_from(number).ok() == facts.sliding_window => {
                Ok(facts.sliding_window)
            }
            _ => Err(Refusal::pattern(&layer.past_key, "an unknown number in the mask")),
        }
    };
    layers.iter().map(window).collect()
}

/// Adds the lengths of rows, from the mask: `seqlens_k` (`i32 [B]`, the last index) and
/// `total_sequence_length` (`i32`).
fn add_lengths(graph: &mut GraphProto) {
    let name = |name: &str| format!("{PREFIX}{name}");
    let node = |op_type: &str, inputs: &[&str], output: &str| {
        NodeProto::new(op_type, inputs, &[&name(output)])
    };
    let to_int32 = i64::from(data_type::INT32);
    graph.initializer.extend([
        TensorProto::of_ints(&name("axis_1"), &[1], &[1]),
        TensorProto::of_ints(&name("one"), &[], &[1]),
        TensorProto::of_ints(&name("index_1"), &[], &[1]),
    ]);
    graph.node.extend([
        node("ReduceSum", &[MASK, &name("axis_1")], "lengths").with_int("keepdims", 0),
        node("Sub", &[&name("lengths"), &name("one")], "last"),
        node("Cast", &[&name("last")], "seqlens_k").with_int("to", to_int32),
        node("Shape", &[MASK], "mask_shape"),
        node("Gather", &[&name("mask_shape"), &name("index_1")], "columns"),
        node("Cast", &[&name("columns")], "total").with_int("to", to_int32),
    ]);
}

/// Puts one operator in the place of a layer's attention.
#[expect(clippy::cast_possible_truncation, reason = "attributes of the operator are f32")]
fn replace_attention(
    graph: &mut GraphProto,
    layer: &Layer,
    facts: DecoderFacts,
    window: Option<usize>,
) {
    let base = format!("{PREFIX}{}/", layer.past_key);
    let heads = i64::try_from(facts.heads).unwrap_or(i64::MAX);
    let flatten = |graph: &mut GraphProto, value: &str, name: &str, heads: i64| {
        let (shape, turned) = (format!("{base}{name}_shape"), format!("{base}{name}_rows"));
        let flat = format!("{base}{name}");
        graph.initializer.push(TensorProto::of_ints(&shape, &[3], &[0, 0, heads * layer.head_dim]));
        graph.node.extend([
            NodeProto::new("Transpose", &[value], &[&turned]).with_ints("perm", &[0, 2, 1, 3]),
            NodeProto::new("Reshape", &[&turned, &shape], &[&flat]),
        ]);
        flat
    };
    let new = |graph: &GraphProto, concat: usize| graph.node[concat].input[1].clone();
    let (key, value) = (new(graph, layer.key_concat), new(graph, layer.value_concat));
    let query = flatten(graph, &layer.query, "query", heads);
    let key = flatten(graph, &key, "key", layer.kv_heads);
    let value = flatten(graph, &value, "value", layer.kv_heads);
    // The operator makes the values of these nodes from now on.
    let take = |graph: &mut GraphProto, idx: usize, name: &str| {
        let output = graph.node[idx].output[0].clone();
        rename_output(graph, idx, &output, &format!("{base}old_{name}"));
        output
    };
    let present_key = take(graph, layer.key_concat, "key");
    let present_value = take(graph, layer.value_concat, "value");
    let result = graph.node[layer.result].output[0].clone();
    graph.node[layer.result].output[0] = format!("{base}old_result");
    let (seqlens, total) = (format!("{PREFIX}seqlens_k"), format!("{PREFIX}total"));
    let inputs =
        [query.as_str(), &key, &value, &layer.past_key, &layer.past_value, &seqlens, &total];
    let mut node = NodeProto::new(GQA, &inputs, &[&result, &present_key, &present_value])
        .in_domain(CONTRIB_DOMAIN)
        .with_int("num_heads", heads)
        .with_int("kv_num_heads", layer.kv_heads)
        .with_float("scale", layer.scale as f32);
    if let Some(softcap) = layer.softcap {
        node = node.with_float("softcap", softcap as f32);
    }
    if let Some(window) = window {
        node = node.with_int("local_window_size", i64::try_from(window).unwrap_or(i64::MAX));
    }
    graph.node.push(node);
}

/// Sorts nodes so that each one comes after those that make its inputs.
fn sort(graph: &mut GraphProto) -> Result<(), Refusal> {
    let order = {
        let wires = Wires::new(graph);
        wires.order().ok_or_else(|| Refusal::pattern("graph", "a cycle"))?
    };
    let mut nodes: Vec<Option<NodeProto>> =
        std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    graph.node = order.into_iter().filter_map(|idx| nodes[idx].take()).collect();
    Ok(())
}

/// Adds `position_ids` in the place of positions that are counted from the length of the cache.
fn take_positions(graph: &mut GraphProto) -> Result<(), Refusal> {
    let counted = {
        let wires = Wires::new(graph);
        let is_counted = |node: &&NodeProto| {
            node.op_type() == "Range"
                && first(node).is_some_and(|start| {
                    wires.comes_from(start, |node| {
                        node.op_type() == "Shape" && first(node).is_some_and(is_past)
                    })
                })
        };
        let ranges: Vec<&NodeProto> = wires.nodes.iter().filter(is_counted).collect();
        let mut rows = Vec::new();
        for range in &ranges {
            let value = first_output(range).unwrap_or_default();
            for user in wires.users(value) {
                match user.op_type() {
                    "Unsqueeze" => rows.extend(first_output(user).map(str::to_owned)),
                    // Its length is the number of new tokens in any case.
                    "Shape" => {}
                    _ => return Err(Refusal::pattern(value, "unexpected use of positions")),
                }
            }
        }
        rows
    };
    if counted.is_empty() {
        return Err(Refusal::pattern(POSITIONS, "no positions"));
    }
    for positions in counted {
        replace_uses(graph, &positions, POSITIONS);
    }
    let mask = graph.input.iter().find(|input| input.name() == MASK).cloned();
    let Some(mask) = mask else { return Err(Refusal::Port { name: MASK.to_owned() }) };
    graph.input.push(ValueInfoProto { name: Some(POSITIONS.to_owned()), ..mask });
    Ok(())
}

/// Checks that nothing but the new operators depends on the mask, or on the length of the cache.
fn expect_independent(graph: &GraphProto) -> Result<(), Refusal> {
    let wires = Wires::new(graph);
    let is_ours = |node: &NodeProto| {
        node.op_type() == GQA || node.output.iter().all(|output| output.starts_with(PREFIX))
    };
    for input in graph.input.iter().map(ValueInfoProto::name) {
        if input != MASK && !is_past(input) {
            continue;
        }
        for user in wires.users(input).filter(|user| !is_ours(user)) {
            let shape = first_output(user).unwrap_or_default();
            let is_length = |node: &NodeProto| {
                let idx = node.input.get(1).and_then(|idx| scalar(&wires, idx, 0));
                node.op_type() != "Gather" || !matches!(idx, Some(0.0 | 1.0 | 3.0))
            };
            let is_mask = input == MASK;
            if user.op_type() != "Shape" || is_mask || wires.users(shape).any(is_length) {
                return Err(Refusal::pattern(input, "used outside attention"));
            }
        }
    }
    Ok(())
}

fn first(node: &NodeProto) -> Option<&str> {
    node.input.first().map(String::as_str)
}

fn first_output(node: &NodeProto) -> Option<&str> {
    node.output.first().map(String::as_str)
}
