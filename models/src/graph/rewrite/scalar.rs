//! The values of scalars that a graph computes from constants.

use half::f16;

use super::{
    super::onnx::{NodeProto, TensorProto, data_type},
    wires::Wires,
};

/// The number of nodes that a scalar may depend on in a chain.
const DEPTH_MAX: usize = 16;

/// Returns the value of a scalar, or of a tensor with one element.
///
/// The last dimension of any shape counts as `head_dim`: exporters compute the scale of attention
/// from it.
pub(super) fn scalar(wires: &Wires<'_>, value: &str, head_dim: usize) -> Option<f64> {
    evaluate(wires, value, head_dim, DEPTH_MAX)
}

fn evaluate(wires: &Wires<'_>, value: &str, head_dim: usize, depth: usize) -> Option<f64> {
    let depth = depth.checked_sub(1)?;
    if let Some(tensor) = wires.initializer(value) {
        return element(tensor);
    }
    let node = wires.maker(value)?;
    let input = |idx: usize| evaluate(wires, node.input.get(idx)?, head_dim, depth);
    match node.op_type() {
        "Constant" => constant(node),
        "Cast" | "Identity" | "Squeeze" | "Unsqueeze" => input(0),
        "Sqrt" => Some(input(0)?.sqrt()),
        "Reciprocal" => Some(1.0 / input(0)?),
        "Neg" => Some(-input(0)?),
        "Add" => Some(input(0)? + input(1)?),
        "Sub" => Some(input(0)? - input(1)?),
        "Mul" => Some(input(0)? * input(1)?),
        "Div" => Some(input(0)? / input(1)?),
        "Pow" => Some(input(0)?.powf(input(1)?)),
        "Gather" | "Slice" if is_last_dim(wires, node, head_dim, depth) => {
            u32::try_from(head_dim).ok().map(f64::from)
        }
        _ => None,
    }
}

/// Returns whether a node takes the last dimension of a shape.
fn is_last_dim(wires: &Wires<'_>, node: &NodeProto, head_dim: usize, depth: usize) -> bool {
    let is_shape = |value: &String| wires.maker(value).is_some_and(|n| n.op_type() == "Shape");
    let idx = node.input.get(1).and_then(|idx| evaluate(wires, idx, head_dim, depth));
    node.input.first().is_some_and(is_shape) && matches!(idx, Some(-1.0 | 3.0))
}

/// Returns the value of a `Constant` node with one element.
fn constant(node: &NodeProto) -> Option<f64> {
    if let Some(tensor) = node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return element(tensor);
    }
    if let Some(float) = node.attribute("value_float").and_then(|attribute| attribute.f) {
        return Some(f64::from(float));
    }
    node.attribute("value_int").and_then(|attribute| attribute.i).and_then(as_f64)
}

/// Returns the whole numbers that a node is, or takes as constants.
pub(super) fn whole_numbers(wires: &Wires<'_>, node: &NodeProto) -> Vec<i64> {
    let own = node.attribute("value").and_then(|attribute| attribute.t.as_ref());
    let taken = node.input.iter().filter_map(|input| wires.initializer(input));
    let is_whole =
        |tensor: &&TensorProto| [data_type::INT64, data_type::INT32].contains(&tensor.data_type());
    let of_tensors = own.into_iter().chain(taken).filter(is_whole).filter_map(element);
    #[expect(clippy::cast_possible_truncation, reason = "elements of integers are small")]
    let of_tensors = of_tensors.map(|number| number as i64);
    of_tensors.chain(node.attribute("value_int").and_then(|attribute| attribute.i)).collect()
}

/// Returns the only element of a tensor.
fn element(tensor: &TensorProto) -> Option<f64> {
    if tensor.dims.iter().any(|dim| *dim != 1) {
        return None;
    }
    let raw = tensor.raw_data.as_deref();
    match tensor.data_type() {
        data_type::FLOAT => {
            let raw = raw.and_then(|raw| raw.try_into().ok()).map(f32::from_le_bytes);
            raw.or(tensor.float_data.first().copied()).map(f64::from)
        }
        data_type::FLOAT16 => {
            let raw = raw.and_then(|raw| raw.try_into().ok()).map(f16::from_le_bytes);
            let in_ints = tensor.int32_data.first().and_then(|bits| u16::try_from(*bits).ok());
            raw.or(in_ints.map(f16::from_bits)).map(f64::from)
        }
        data_type::DOUBLE => {
            let raw = raw.and_then(|raw| raw.try_into().ok()).map(f64::from_le_bytes);
            raw.or(tensor.double_data.first().copied())
        }
        data_type::INT64 => {
            let raw = raw.and_then(|raw| raw.try_into().ok()).map(i64::from_le_bytes);
            raw.or(tensor.int64_data.first().copied()).and_then(as_f64)
        }
        data_type::INT32 => {
            let raw = raw.and_then(|raw| raw.try_into().ok()).map(i32::from_le_bytes);
            raw.or(tensor.int32_data.first().copied()).map(f64::from)
        }
        _ => None,
    }
}

/// Converts sizes and indices, which are small.
fn as_f64(value: i64) -> Option<f64> {
    i32::try_from(value).ok().map(f64::from)
}
