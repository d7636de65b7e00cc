//! The fields of a protobuf message, read one by one from a file.
//!
//! Encodings that other protobuf parsers interpret differently are errors, because what this walk does
//! not see is neither checked nor part of the digest: varints that are longer than necessary or wider
//! than their type, where other parsers truncate them, fields without a number, groups, and fields that
//! exceed their message.

use std::io::{self, Read, Seek};

/// The start of a field. The bytes of all but varints are still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint(u64),
    Fixed64,
    /// A string, a message or packed numbers, with the length in bytes.
    Bytes(u64),
    Fixed32,
}

impl Wire {
    /// Returns the number of bytes that are still to be read.
    pub(super) fn len(self) -> u64 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64 => 8,
            Self::Bytes(len) => len,
            Self::Fixed32 => 4,
        }
    }
}

/// Reads the start of the next field of a message that ends at `end`, with its number; `None` at the
/// end.
pub(super) fn next_field(
    file: &mut (impl Read + Seek),
    end: u64,
) -> io::Result<Option<(u64, Wire)>> {
    let at = file.stream_position()?;
    if at >= end {
        let is_whole = at == end;
        return if is_whole { Ok(None) } else { Err(invalid("a field exceeds its message")) };
    }
    let tag = varint(file)?;
    let field = tag >> 3;
    if field == 0 || u32::try_from(tag).is_err() {
        return Err(invalid("invalid field number"));
    }
    let wire = match tag & 7 {
        0 => Wire::Varint(varint(file)?),
        1 => Wire::Fixed64,
        2 => {
            let len = varint(file)?;
            if file.stream_position()?.saturating_add(len) > end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Wire::Bytes(len)
        }
        5 => Wire::Fixed32,
        3 | 4 => return Err(invalid("unexpected group field, which ONNX does not use")),
        _ => return Err(invalid("invalid wire type")),
    };
    Ok(Some((field, wire)))
}

/// Calls `visit` for each length-delimited field before `end`, with its number and length. `visit`
/// returns whether it has consumed the field.
pub(super) fn each_field<F: Read + Seek>(
    file: &mut F,
    end: u64,
    mut visit: impl FnMut(&mut F, u64, u64) -> io::Result<bool>,
) -> io::Result<()> {
    while let Some((field, wire)) = next_field(file, end)? {
        if let Wire::Bytes(len) = wire
            && visit(file, field, len)?
        {
            continue;
        }
        skip(file, wire.len())?;
    }
    Ok(())
}

/// Skips `len` bytes.
pub(super) fn skip(file: &mut impl Seek, len: u64) -> io::Result<()> {
    file.seek_relative(i64::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?)
}

/// Reads a string of `len` bytes.
pub(super) fn read_string(file: &mut impl Read, len: u64) -> io::Result<String> {
    let mut text = String::new();
    if file.by_ref().take(len).read_to_string(&mut text)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}

/// Reads a varint in its only canonical encoding.
fn varint(file: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        let [byte] = byte;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let is_overlong = byte == 0 && shift > 0;
            return if is_overlong {
                Err(invalid("a varint is not canonical; save the graph again with `onnx`"))
            } else {
                Ok(value)
            };
        }
    }
    Err(invalid("a varint exceeds 64 bits"))
}

/// Creates an error about the content of a file.
pub(super) fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
