//! Reads the operators of a graph file without its weights.
//!
//! The batching rules of a decoder depend on its nodes, which ONNX Runtime does not expose. This
//! parser walks the fields of the protobuf (`onnx.proto`: `ModelProto.graph` = 7, `GraphProto.node`
//! = 1, `GraphProto.input` = 11, `NodeProto.input` = 1, `output` = 2, `op_type` = 4, `attribute` =
//! 5, `AttributeProto.g` = 6, `graphs` = 11) and skips everything else, so a graph with gigabytes
//! of embedded weights costs a few reads.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
};

use super::{
    GraphSource,
    fields::{each_field, read_string},
};

const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INPUT: u64 = 11;
const VALUE_NAME: u64 = 1;
const NODE_INPUT: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_OP_TYPE: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const ATTRIBUTE_GRAPHS: [u64; 2] = [6, 11];

/// The maximum nesting of branches; protobuf's own parsers stop at 100 messages.
const DEPTH_MAX: usize = 30;

/// An operator: its type, inputs and outputs. An omitted input has an empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) op_type: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
}

/// Reads all nodes. The nodes of branches precede the node that they belong to.
pub(crate) fn read_nodes(source: &GraphSource<'_>) -> io::Result<Vec<Node>> {
    match source {
        GraphSource::Path(path) => nodes_of(BufReader::new(File::open(path)?)),
        GraphSource::Bytes(bytes) => nodes_of(Cursor::new(bytes)),
        GraphSource::Rewritten(graph) => nodes_of(Cursor::new(&graph.bytes)),
    }
}

/// Returns whether the graph computes a scale over the whole batch, so that the result of a row
/// depends on the other rows (`DynamicQuantizeLinear`: one scale per tensor).
pub(crate) fn mixes_rows(source: &GraphSource<'_>) -> io::Result<bool> {
    let nodes = read_nodes(source)?;
    Ok(nodes.iter().any(|node| node.op_type.starts_with("DynamicQuantize")))
}

/// Returns whether the graph has quantized weights.
pub(crate) fn is_quantized(source: &GraphSource<'_>) -> io::Result<bool> {
    let nodes = read_nodes(source)?;
    let starts = ["DynamicQuantize", "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"];
    Ok(nodes.iter().any(|node| starts.iter().any(|start| node.op_type.starts_with(start))))
}

/// Reads the names of the main graph's inputs, in file order.
pub(crate) fn read_inputs(source: &GraphSource<'_>) -> io::Result<Vec<String>> {
    match source {
        GraphSource::Path(path) => inputs_of(BufReader::new(File::open(path)?)),
        GraphSource::Bytes(bytes) => inputs_of(Cursor::new(bytes)),
        GraphSource::Rewritten(graph) => inputs_of(Cursor::new(&graph.bytes)),
    }
}

fn nodes_of(mut file: impl Read + Seek) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for_each_graph_field(&mut file, GRAPH_NODE, |file, len| {
        read_node(file, len, DEPTH_MAX, &mut nodes)
    })?;
    Ok(nodes)
}

fn inputs_of(mut file: impl Read + Seek) -> io::Result<Vec<String>> {
    let mut inputs = Vec::new();
    for_each_graph_field(&mut file, GRAPH_INPUT, |file, len| {
        for_each_subfield(file, len, &[VALUE_NAME], |file, len| {
            inputs.push(read_string(file, len)?);
            Ok(())
        })
    })?;
    Ok(inputs)
}

/// Calls `visit` for each field of the main graph with this number, with its length.
fn for_each_graph_field<F: Read + Seek>(
    file: &mut F,
    wanted: u64,
    mut visit: impl FnMut(&mut F, u64) -> io::Result<()>,
) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    for_each_subfield(file, end, &[MODEL_GRAPH], |file, len| {
        for_each_subfield(file, len, &[wanted], &mut visit)
    })
}

/// Calls `visit` for each field of the next `len` bytes with one of these numbers, with its length.
/// `visit` consumes the field.
fn for_each_subfield<F: Read + Seek>(
    file: &mut F,
    len: u64,
    wanted: &[u64],
    mut visit: impl FnMut(&mut F, u64) -> io::Result<()>,
) -> io::Result<()> {
    let end = file.stream_position()? + len;
    each_field(file, end, |file, field, len| {
        let is_wanted = wanted.contains(&field);
        if is_wanted {
            visit(file, len)?;
        }
        Ok(is_wanted)
    })
}

/// Reads a node, preceded by the nodes of its branches, which are nested at most `depth` levels.
fn read_node<F: Read + Seek>(
    file: &mut F,
    len: u64,
    depth: usize,
    nodes: &mut Vec<Node>,
) -> io::Result<()> {
    let end = file.stream_position()? + len;
    let mut node = Node::default();
    each_field(file, end, |file, field, len| {
        if field == NODE_ATTRIBUTE {
            read_branches(file, len, depth, nodes)?;
            return Ok(true);
        }
        if ![NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE].contains(&field) {
            return Ok(false);
        }
        let text = read_string(file, len)?;
        match field {
            NODE_INPUT => node.inputs.push(text),
            NODE_OUTPUT => node.outputs.push(text),
            _ => node.op_type = text,
        }
        Ok(true)
    })?;
    nodes.push(node);
    Ok(())
}

/// Reads the nodes of the branches in an attribute.
fn read_branches<F: Read + Seek>(
    file: &mut F,
    len: u64,
    depth: usize,
    nodes: &mut Vec<Node>,
) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "branches are nested too deeply"));
    };
    for_each_subfield(file, len, &ATTRIBUTE_GRAPHS, |file, len| {
        for_each_subfield(file, len, &[GRAPH_NODE], |file, len| read_node(file, len, depth, nodes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn nodes_are_found_between_other_fields() {
        let node =
            [field(1, b"x"), field(1, b""), field(2, b"y"), field(3, b"n"), field(4, b"Add")];
        let graph = [field(1, &node.concat()), field(5, &[7; 90]), field(1, &field(4, b"Mul"))];
        // A version and a name, then the graph.
        let model = [vec![8, 0x96, 1], field(2, b"us"), field(7, &graph.concat())].concat();
        let nodes = read_nodes(&GraphSource::Bytes(&model)).unwrap();
        let add = Node {
            op_type: "Add".to_owned(),
            inputs: vec!["x".to_owned(), String::new()],
            outputs: vec!["y".to_owned()],
        };
        assert_eq!(nodes, [add, Node { op_type: "Mul".to_owned(), ..Node::default() }]);
        let input = field(11, &[field(2, b"type"), field(1, b"input_ids")].concat());
        let model = field(7, &input);
        assert_eq!(read_inputs(&GraphSource::Bytes(&model)).unwrap(), ["input_ids"]);
        let cut = read_nodes(&GraphSource::Bytes(&model[..model.len() - 3]));
        assert!(cut.is_err(), "a truncated file is an error");
    }

    #[test]
    fn nodes_of_branches_are_found() {
        let branch = field(1, &field(4, b"DynamicQuantizeLinear"));
        let attribute = [field(1, b"then_branch"), field(6, &branch)].concat();
        let whole = field(1, &[field(4, b"If"), field(5, &attribute)].concat());
        let model = field(7, &whole);
        let nodes = read_nodes(&GraphSource::Bytes(&model)).unwrap();
        let names: Vec<&str> = nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(names, ["DynamicQuantizeLinear", "If"]);
        assert!(mixes_rows(&GraphSource::Bytes(&model)).unwrap());
        assert!(!mixes_rows(&GraphSource::Bytes(&field(7, &field(1, &field(4, b"If"))))).unwrap());
    }

    #[test]
    fn endless_branches_are_an_error() {
        let long = |number: u8, content: &[u8]| {
            let len = content.len();
            let [low, high] = [len & 0x7f | 0x80, len >> 7].map(|byte| u8::try_from(byte).unwrap());
            [&[number << 3 | 2, low, high], content].concat()
        };
        let deep = (0..100).fold(Vec::new(), |graph, _| long(1, &long(5, &long(6, &graph))));
        assert!(read_nodes(&GraphSource::Bytes(&long(7, &deep))).is_err());
    }
}
