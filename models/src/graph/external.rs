//! The external data files of a graph.
//!
//! A tensor may name a file next to the graph (`onnx.proto`: `TensorProto.external_data` = 13, an
//! entry with the key `location`). ONNX Runtime opens any file that is named, so the names are read
//! first, wherever a tensor can occur: in initializers, attributes, subgraphs and functions.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use super::fields::{each_field, read_string};

/// The messages of `onnx.proto` that may contain tensors.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    Entry,
}

impl Message {
    /// Returns the message in a field of this message, if it may contain tensors.
    fn nested(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) => Self::Tensor,
            (Self::Graph, 15) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Tensor, 13) => Self::Entry,
            _ => return None,
        })
    }
}

/// The maximum nesting of messages. Published graphs are not deeper.
const DEPTH_MAX: usize = 64;

/// Returns the files that a graph file names, relative to its folder, sorted.
pub(crate) fn locations(path: &Path) -> io::Result<BTreeSet<String>> {
    locations_in(BufReader::new(File::open(path)?))
}

fn locations_in(mut file: impl Read + Seek) -> io::Result<BTreeSet<String>> {
    let end = file.seek(io::SeekFrom::End(0))?;
    file.rewind()?;
    let mut found = BTreeSet::new();
    walk(&mut file, Message::Model, end, 0, &mut found)?;
    Ok(found)
}

fn walk<F: Read + Seek>(
    file: &mut F,
    message: Message,
    end: u64,
    depth: usize,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "graphs are nested too deeply"));
    }
    each_field(file, end, |file, field, len| {
        let Some(inner) = message.nested(field) else { return Ok(false) };
        let end = file.stream_position()? + len;
        if matches!(inner, Message::Entry) {
            found.extend(location_of(file, end)?);
        } else {
            walk(file, inner, end, depth + 1, found)?;
        }
        Ok(true)
    })
}

/// Reads a `StringStringEntryProto` (`key` = 1, `value` = 2); returns `None` if it is not a
/// location.
fn location_of<F: Read + Seek>(file: &mut F, end: u64) -> io::Result<Option<String>> {
    let (mut key, mut value) = (String::new(), String::new());
    each_field(file, end, |file, field, len| {
        let text = match field {
            1 => &mut key,
            2 => &mut value,
            _ => return Ok(false),
        };
        *text = read_string(file, len)?;
        Ok(true)
    })?;
    Ok((key == "location").then_some(value))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(0x80 | u8::try_from(value & 0x7f).unwrap());
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    }

    /// Encodes a length-delimited field.
    fn field(number: usize, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len()), content.to_vec()].concat()
    }

    fn tensor(location: &[u8]) -> Vec<u8> {
        let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
        [
            field(8, b"w"),
            field(13, &entry(b"location", location)),
            field(13, &entry(b"offset", b"4096")),
        ]
        .concat()
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            let _found = locations_in(Cursor::new(&bytes));
            // A corrupt model is rejected, or parsed as one that names its weights.
            let mut model = model_with(&[7 << 3 | 2], varint);
            let at = at.index(model.len());
            model[at] = bytes.first().copied().unwrap_or_default();
            let _found = locations_in(Cursor::new(&model));
        }
    }

    #[test]
    fn every_place_where_a_tensor_may_stand_is_looked_at() {
        let attribute = |content: Vec<u8>| field(1, &field(5, &content));
        let inner = field(5, &tensor(b"branch"));
        let graph = [
            field(5, &tensor(b"weights")),
            field(15, &field(1, &tensor(b"sparse"))),
            attribute(field(5, &tensor(b"constant"))),
            attribute(field(22, &field(2, &tensor(b"indices")))),
            attribute(field(6, &inner)),
            field(2, b"a name"),
        ];
        let function = field(7, &field(5, &field(10, &tensor(b"function"))));
        let model = [vec![8, 9], field(7, &graph.concat()), field(25, &function)].concat();
        let found = locations_in(Cursor::new(&model)).unwrap();
        let expected = ["branch", "constant", "function", "indices", "sparse", "weights"];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        assert!(locations_in(Cursor::new(&model[..model.len() - 3])).is_err(), "truncated");
    }

    /// Encodes a model with external data; `tag` and `len` encode its first tag and length.
    fn model_with(tag: &[u8], len: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
        let graph = field(5, &tensor(b"hidden"));
        [tag.to_vec(), len(graph.len()), graph].concat()
    }

    #[test]
    fn what_other_readers_understand_in_another_way_is_refused() {
        let graph_tag = [7 << 3 | 2];
        let plain = model_with(&graph_tag, varint);
        assert_eq!(locations_in(Cursor::new(&plain)).unwrap().len(), 1);
        let overlong = |value: usize| vec![u8::try_from(value & 0x7f).unwrap() | 0x80, 0x80, 0];
        let empty = field(7, b"");
        let hidden = [
            // Overlong tag, length and value.
            model_with(&[graph_tag[0] | 0x80, 0], varint),
            model_with(&graph_tag, overlong),
            [vec![8, 0x89, 0x80, 0], plain.clone()].concat(),
            // A tag of 35 bits. Other parsers truncate it to 32 and see the graph; this one would
            // not.
            model_with(&[graph_tag[0] | 0x80, 0x80, 0x80, 0x80, 0x10], varint),
            // A varint of more than ten bytes, and one of more than 64 bits.
            [vec![8], vec![0xff; 10], vec![1], plain.clone()].concat(),
            [vec![8], vec![0xff; 9], vec![2], plain.clone()].concat(),
            // Field 0, as bytes and as a number.
            model_with(&[2], varint),
            [vec![0, 1], plain.clone()].concat(),
            // A group around the graph, and one without a start.
            [vec![7 << 3 | 3], plain.clone(), vec![7 << 3 | 4]].concat(),
            [vec![7 << 3 | 4], plain.clone()].concat(),
            // Invalid wire types.
            [vec![8 | 6], plain.clone()].concat(),
            [vec![8 | 7], plain.clone()].concat(),
            // Eight bytes in a message of four, which would swallow the start of the following
            // graph.
            [field(7, &[9, 0, 0, 0]), plain.clone()].concat(),
            [field(7, &[8, 0x80]), plain.clone()].concat(),
        ];
        for model in hidden {
            let found = locations_in(Cursor::new(&model));
            assert!(found.is_err(), "{found:?} in {:?}", &model[..16]);
        }
        // The tenth byte of a negative number is a one.
        let negative = [vec![8], vec![0xff; 9], vec![1], plain.clone()].concat();
        assert_eq!(locations_in(Cursor::new(&negative)).unwrap().len(), 1);
        // Other parsers merge repeated fields. All of them are visited, in any order.
        let twice = [plain.clone(), empty, model_with(&graph_tag, varint), field(2, b"x")].concat();
        assert_eq!(locations_in(Cursor::new(&twice)).unwrap().len(), 1);
        let renamed = [field(1, b"offset"), field(1, b"location"), field(2, b"a"), field(2, b"b")];
        let model = field(7, &field(5, &field(13, &renamed.concat())));
        assert_eq!(locations_in(Cursor::new(&model)).unwrap(), BTreeSet::from(["b".to_owned()]));
        // Packed numbers (`TensorProto.dims`) are bytes without nested messages.
        let packed = [field(1, &[3, 4]), tensor(b"packed")].concat();
        let model = field(7, &field(5, &packed));
        assert_eq!(
            locations_in(Cursor::new(&model)).unwrap(),
            BTreeSet::from(["packed".to_owned()])
        );
    }
}
