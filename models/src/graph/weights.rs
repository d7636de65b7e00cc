//! Reads a graph file without its weights: each large tensor becomes external data, a place in the file
//! that it was read from.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use prost::Message;

use super::{
    fields::{Wire, invalid, next_field, skip},
    onnx::{EXTERNAL, ModelProto, StringStringEntryProto, TensorProto},
};

/// The smallest tensor that stays in the file, in bytes. Smaller ones are shapes and scalars, which
/// rewritings read.
const WEIGHT_BYTES_MIN: u64 = 1024;

/// The largest graph without weights, in bytes. Published ones have less than 10 MB; the weights of a
/// branch are not taken out.
const BYTES_MAX: usize = 128 << 20;

const MODEL_GRAPH: u64 = 7;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_RAW_DATA: u64 = 9;

/// Reads a graph file. Its large initializers name places in the file as external data.
///
/// # Errors
///
/// An error of the operating system, or one of kind [`io::ErrorKind::InvalidData`] if the file is not
/// a graph that can be rewritten.
pub(super) fn read_model(path: &Path) -> io::Result<ModelProto> {
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| invalid("the name of the file is not valid text"))?;
    let mut file = BufReader::new(File::open(path)?);
    let bytes = without_weights(&mut file, name)?;
    ModelProto::decode(bytes.as_slice()).map_err(|error| invalid(&error.to_string()))
}

fn without_weights(file: &mut (impl Read + Seek), name: &str) -> io::Result<Vec<u8>> {
    let end = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut model = Vec::new();
    while let Some((field, wire)) = next_field(file, end)? {
        match wire {
            Wire::Bytes(len) if field == MODEL_GRAPH => {
                let end = file.stream_position()? + len;
                let mut graph = Vec::new();
                while let Some((field, wire)) = next_field(file, end)? {
                    match wire {
                        Wire::Bytes(len) if field == GRAPH_INITIALIZER => {
                            let tensor = tensor_without_weights(file, len, name)?;
                            put_bytes(&mut graph, field, &tensor);
                        }
                        wire => copy_field(file, field, wire, &mut graph)?,
                    }
                }
                put_bytes(&mut model, field, &graph);
            }
            wire => copy_field(file, field, wire, &mut model)?,
        }
    }
    Ok(model)
}

fn tensor_without_weights(
    file: &mut (impl Read + Seek),
    len: u64,
    name: &str,
) -> io::Result<Vec<u8>> {
    let end = file.stream_position()? + len;
    let (mut tensor, mut place) = (Vec::new(), None);
    while let Some((field, wire)) = next_field(file, end)? {
        match wire {
            Wire::Bytes(len) if field == TENSOR_RAW_DATA && len >= WEIGHT_BYTES_MIN => {
                let entry = |key: &str, value: String| StringStringEntryProto {
                    key: Some(key.to_owned()),
                    value: Some(value),
                };
                place = Some(TensorProto {
                    external_data: vec![
                        entry("location", name.to_owned()),
                        entry("offset", file.stream_position()?.to_string()),
                        entry("length", len.to_string()),
                    ],
                    data_location: Some(EXTERNAL),
                    ..TensorProto::default()
                });
                skip(file, len)?;
            }
            wire => copy_field(file, field, wire, &mut tensor)?,
        }
    }
    // The fields of a message may come in pieces, and the last value of one counts.
    tensor.extend(place.map(|place| place.encode_to_vec()).unwrap_or_default());
    Ok(tensor)
}

/// Copies a field whose start was read.
fn copy_field(
    file: &mut (impl Read + Seek),
    field: u64,
    wire: Wire,
    to: &mut Vec<u8>,
) -> io::Result<()> {
    let kind = match wire {
        Wire::Varint(_) => 0,
        Wire::Fixed64 => 1,
        Wire::Bytes(_) => 2,
        Wire::Fixed32 => 5,
    };
    put_varint(to, field << 3 | kind);
    match wire {
        Wire::Varint(value) => put_varint(to, value),
        Wire::Bytes(len) => put_varint(to, len),
        Wire::Fixed64 | Wire::Fixed32 => {}
    }
    if wire.len().saturating_add(to.len() as u64) > BYTES_MAX as u64 {
        return Err(invalid("the graph is too large without its weights"));
    }
    let n_read = file.by_ref().take(wire.len()).read_to_end(to)?;
    if n_read as u64 == wire.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn put_bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(to, field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_varint(to: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, to);
}
