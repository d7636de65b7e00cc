//! CSV: a header and one record per row, with a lossless way back to the original types.
//!
//! A cell is the value that [`json_lines`] writes, without the quotes of a JSON string: text as it is, numbers,
//! dates and timestamps in their JSON form, lists, structs and embeddings as JSON, bytes as base64. A null, and
//! a NaN or infinity, is an empty cell; an empty text is `""`. Cells are quoted as in RFC 4180; records end with
//! a line feed. The schema, stored beside the files, restores the types.

use std::{borrow::Cow, io::Write};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
    json::writer::{EncoderOptions, make_encoder},
};
use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::json_lines;

/// Writes the header of a table.
///
/// # Errors
///
/// The writer's.
pub(super) fn write_header(schema: &Schema, out: &mut impl Write) -> Result<(), ArrowError> {
    let mut line = Vec::new();
    for (idx, field) in schema.fields().iter().enumerate() {
        if idx > 0 {
            line.push(b',');
        }
        push_cell(field.name().as_bytes(), &mut line);
    }
    line.push(b'\n');
    out.write_all(&line).map_err(failed)
}

/// Writes `rows` without a header.
///
/// # Errors
///
/// The encoder's, for types that JSON cannot represent, and the writer's.
pub(super) fn write_rows(rows: &RecordBatch, out: &mut impl Write) -> Result<(), ArrowError> {
    let plain = json_lines::plain(rows)?;
    let schema = plain.schema();
    let options = EncoderOptions::default();
    let columns = schema.fields().iter().zip(plain.columns());
    let encoders = columns.map(|(field, column)| make_encoder(field, column.as_ref(), &options));
    let mut encoders = encoders.collect::<Result<Vec<_>, _>>()?;
    let is_only = encoders.len() == 1;
    let (mut line, mut json) = (Vec::new(), Vec::new());
    for row in 0..plain.num_rows() {
        line.clear();
        for (idx, encoder) in encoders.iter_mut().enumerate() {
            if idx > 0 {
                line.push(b',');
            }
            json.clear();
            if !encoder.is_null(row) {
                encoder.encode(row, &mut json);
            }
            match json.as_slice() {
                // An empty line would not be a record.
                b"" | b"null" if is_only => line.extend(b"\"\""),
                b"" | b"null" => {}
                [b'"', ..] => {
                    let text: Cow<'_, str> = serde_json::from_slice(&json)
                        .map_err(|error| ArrowError::JsonError(error.to_string()))?;
                    push_cell(text.as_bytes(), &mut line);
                }
                value => push_cell(value, &mut line),
            }
        }
        line.push(b'\n');
        out.write_all(&line).map_err(failed)?;
    }
    Ok(())
}

/// Appends a cell that is not null. The crate `csv-core` does not quote an empty text, which tells it apart
/// from a null.
fn push_cell(cell: &[u8], line: &mut Vec<u8>) {
    let is_plain = memchr2(b',', b'"', cell).is_none() && memchr2(b'\n', b'\r', cell).is_none();
    if is_plain && !cell.is_empty() {
        line.extend(cell);
        return;
    }
    line.push(b'"');
    for byte in cell {
        if *byte == b'"' {
            line.push(b'"');
        }
        line.push(*byte);
    }
    line.push(b'"');
}

/// Reads a header and rows of the given schema.
///
/// # Errors
///
/// The decoder's, or a record with another number of cells than the schema.
pub(super) fn read(bytes: &[u8], schema: &SchemaRef) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut rest = bytes;
    let mut lines = Vec::with_capacity(bytes.len() * 2);
    let mut is_header = true;
    while !rest.is_empty() {
        let mut separator = b'{';
        for (idx, field) in schema.fields().iter().enumerate() {
            let Cell { text, ends_record } = next_cell(&mut rest)?;
            if ends_record != (idx + 1 == schema.fields().len()) {
                let n_cells = schema.fields().len();
                return Err(ArrowError::CsvError(format!("expected {n_cells} cells in a record")));
            }
            if is_header {
                continue;
            }
            let Some(text) = text else { continue };
            lines.push(std::mem::replace(&mut separator, b','));
            let cell = std::str::from_utf8(&text)
                .map_err(|error| ArrowError::CsvError(format!("invalid UTF-8: {error}")))?;
            push_json(field.name(), &mut lines)?;
            lines.push(b':');
            match json_lines::plain_type(field.data_type()) {
                DataType::Boolean => lines.extend(cell.as_bytes()),
                data_type if data_type.is_nested() => lines.extend(cell.as_bytes()),
                _ => push_json(cell, &mut lines)?,
            }
        }
        if !std::mem::take(&mut is_header) {
            lines.extend(if separator == b'{' { b"{}\n".as_slice() } else { b"}\n" });
        }
    }
    json_lines::read(Bytes::from(lines), schema)
}

fn push_json(text: &str, lines: &mut Vec<u8>) -> Result<(), ArrowError> {
    serde_json::to_writer(lines, text).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// A cell of a record.
struct Cell<'a> {
    /// The text without quotes; `None` for a null.
    text: Option<Cow<'a, [u8]>>,
    ends_record: bool,
}

/// Takes the next cell from `rest`.
fn next_cell<'a>(rest: &mut &'a [u8]) -> Result<Cell<'a>, ArrowError> {
    let malformed = || ArrowError::CsvError("malformed record".to_owned());
    let (text, after) = match rest.strip_prefix(b"\"") {
        None => {
            let end = memchr2(b',', b'\n', rest).ok_or_else(malformed)?;
            let cell = (end > 0).then_some(Cow::Borrowed(&rest[..end]));
            (cell, &rest[end..])
        }
        Some(mut quoted) => {
            let mut cell = Vec::new();
            loop {
                let end = memchr(b'"', quoted).ok_or_else(malformed)?;
                cell.extend(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix(b"\"") {
                    Some(more) => {
                        cell.push(b'"');
                        quoted = more;
                    }
                    None => break (Some(Cow::Owned(cell)), quoted),
                }
            }
        }
    };
    let (separator, after) = after.split_first().ok_or_else(malformed)?;
    *rest = after;
    match separator {
        b',' => Ok(Cell { text, ends_record: false }),
        b'\n' => Ok(Cell { text, ends_record: true }),
        _ => Err(malformed()),
    }
}

fn failed(error: std::io::Error) -> ArrowError {
    ArrowError::from(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use proptest::prelude::*;

    use super::{read, write_header, write_rows};
    use crate::output::sink::json_lines::tests::every_type;

    fn written(rows: &RecordBatch) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_header(&rows.schema(), &mut bytes).unwrap();
        write_rows(rows, &mut bytes).unwrap();
        bytes
    }

    fn round_trip(rows: &RecordBatch) -> RecordBatch {
        let read = read(&written(rows), &rows.schema()).unwrap();
        arrow::compute::concat_batches(&rows.schema(), &read).unwrap()
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        let rows = every_type();
        assert_eq!(round_trip(&rows), rows);
        assert_eq!(round_trip(&rows.slice(1, 2)), rows.slice(1, 2));
    }

    #[test]
    fn cells_are_quoted_where_rfc_4180_requires_it() {
        let texts = [Some("plain"), Some("a,b"), Some("\"q\""), Some("x\r\ny"), Some(""), None];
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let numbers: ArrayRef = Arc::new(arrow::array::Float32Array::from(vec![
            Some(1.5),
            None,
            Some(f32::NAN),
            Some(-2.0),
            Some(0.0),
            Some(3.0),
        ]));
        let columns = [("text", texts, true), ("a \"number\"", numbers, true)];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        assert_eq!(
            String::from_utf8(written(&rows)).unwrap(),
            "text,\"a \"\"number\"\"\"\nplain,1.5\n\"a,b\",\n\"\"\"q\"\"\",\n\"x\r\ny\",-2.0\n\"\",0.0\n,3.0\n"
        );
    }

    proptest! {
        #[test]
        fn texts_come_back_as_they_were(
            texts in prop::collection::vec(any::<Option<String>>(), 1..20),
            others in prop::collection::vec("[a,\"\r\n]{0,5}", 20),
        ) {
            let others: StringArray = others.iter().take(texts.len()).map(Some).collect();
            let texts: StringArray = texts.iter().map(Option::as_deref).collect();
            let columns: [(&str, ArrayRef, bool); 2] =
                [("text", Arc::new(texts), true), ("other", Arc::new(others), true)];
            let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            prop_assert_eq!(round_trip(&rows), rows);
        }
    }
}
