//! CSV: a header that names the columns, and types that lose nothing.
//!
//! A column is of whole numbers, numbers, or truth values where all of its cells among the first rows
//! are, and would be written again as they stand there (`007` would not be); else it is of text. An
//! empty cell is null. A cell that is not what its column is costs its row.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
        StringBuilder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use csv_core::ReadRecordResult;

use super::{
    records::{Layout, RawRecord},
    rows::{Damaged, ReadRows},
};

/// The records of one CSV file.
#[derive(Clone, Debug)]
pub(super) struct Csv {
    delimiter: u8,
    /// The columns as texts.
    texts: SchemaRef,
}

impl Csv {
    /// Reads the header and the types of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with the header.
    pub(super) fn of(layout: &Layout, delimiter: u8) -> Result<(Self, SchemaRef), String> {
        let header = layout.header.as_ref().ok_or("it is empty, and has no header")?;
        if let Some(problem) = &header.problem {
            return Err(format!("its header: {problem}"));
        }
        let names = fields(delimiter, &header.bytes);
        let names = names.map_err(|problem| format!("its header: {problem}"))?;
        for (idx, name) in names.iter().enumerate() {
            if names[..idx].contains(name) {
                return Err(format!("its header names the column `{name}` twice"));
            }
        }
        let text = |name: &String| Field::new(name, DataType::Utf8, true);
        let texts = Arc::new(Schema::new(names.iter().map(text).collect::<Vec<_>>()));
        let this = Self { delimiter, texts };
        let (sample, _) = this.texts(&layout.sample);
        let typed = this.texts.fields().iter().zip(sample.columns()).map(|(field, column)| {
            Field::new(field.name(), type_of(column.as_string::<i32>()), true)
        });
        let schema = Arc::new(Schema::new(typed.collect::<Vec<_>>()));
        Ok((this, schema))
    }

    /// Reads `records` as rows of `schema`, whose columns are some of the file's.
    pub(super) fn decode(&self, records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
        let (texts, mut damaged) = self.texts(records);
        let columns = schema.fields().iter().map(|field| {
            let Some(column) = texts.column_by_name(field.name()) else {
                return arrow::array::new_null_array(field.data_type(), records.len());
            };
            typed(column, field, records, &mut damaged)
        });
        ReadRows::new(Arc::clone(schema), columns.collect(), records.len(), damaged)
    }

    /// Reads every column as text; a record that cannot be read is a row of nulls.
    fn texts(&self, records: &[RawRecord]) -> (RecordBatch, Vec<Damaged>) {
        let n_columns = self.texts.fields().len();
        let mut columns: Vec<StringBuilder> = Vec::new();
        columns.resize_with(n_columns, StringBuilder::new);
        let mut damaged = Vec::new();
        for (row, record) in records.iter().enumerate() {
            let read = match &record.problem {
                Some(problem) => Err(problem.clone()),
                None => fields(self.delimiter, &record.bytes),
            };
            let read = read.and_then(|cells| match cells.len() {
                n_cells if n_cells == n_columns => Ok(cells),
                n_cells => {
                    Err(format!("it has {n_cells} fields, where the header has {n_columns}"))
                }
            });
            let cells = read.unwrap_or_else(|problem| {
                damaged.push(Damaged::at_line(row, record.line, &problem));
                vec![String::new(); n_columns]
            });
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.append_option((!cell.is_empty()).then_some(cell));
            }
        }
        let columns = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        let schema = Arc::clone(&self.texts);
        let ReadRows { rows, damaged } =
            ReadRows::new(schema, columns.collect(), records.len(), damaged);
        (rows, damaged)
    }
}

/// Splits a record, which is well formed, into its fields.
fn fields(delimiter: u8, record: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    // Fields together are no longer than the record.
    let mut bytes = vec![0; record.len() + 1];
    let mut ends = vec![0; memchr::memchr_iter(delimiter, record).count() + 2];
    let (mut n_read, mut n_bytes, mut n_ends) = (0, 0, 0);
    loop {
        // Where nothing is left the reader takes what it has for the last record.
        let (state, read, written, ended) =
            reader.read_record(&record[n_read..], &mut bytes[n_bytes..], &mut ends[n_ends..]);
        n_read += read;
        n_bytes += written;
        n_ends += ended;
        match state {
            ReadRecordResult::Record => break,
            ReadRecordResult::InputEmpty => {}
            _ => return Err("it cannot be split into fields".to_owned()),
        }
    }
    let mut left = record[n_read..].iter();
    if !left.all(|byte| b"\r\n".contains(byte)) {
        return Err("a carriage return stands within it".to_owned());
    }
    let mut start = 0;
    let cell = |&end: &usize| {
        let cell = std::str::from_utf8(&bytes[start..end]).map(str::to_owned);
        start = end;
        cell.map_err(|error| format!("it is no UTF-8: {error}"))
    };
    ends[..n_ends].iter().map(cell).collect()
}

/// Returns the narrowest type that writes every cell as it stands.
fn type_of(cells: &StringArray) -> DataType {
    let all = |fits: fn(&str) -> bool| cells.iter().flatten().all(fits);
    if cells.null_count() == cells.len() {
        DataType::Utf8
    } else if all(|cell| cell.parse::<i64>().is_ok_and(|n| n.to_string() == cell)) {
        DataType::Int64
    } else if all(is_number) {
        DataType::Float64
    } else if all(|cell| truth(cell).is_some()) {
        DataType::Boolean
    } else {
        DataType::Utf8
    }
}

/// Returns whether `cell` is a number, and no code that happens to be made of digits.
fn is_number(cell: &str) -> bool {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let is_padded = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let begins = digits.starts_with(|first: char| first.is_ascii_digit());
    // Beyond 2^53 not every whole number is one of 64 bits with a fraction.
    let is_exact = digits.len() <= 15 || !digits.bytes().all(|digit| digit.is_ascii_digit());
    begins && !is_padded && is_exact && cell.parse::<f64>().is_ok_and(f64::is_finite)
}

fn truth(cell: &str) -> Option<bool> {
    match cell {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Turns texts into what the column is; a cell that is not is null, and its row is damaged.
fn typed(
    texts: &ArrayRef,
    field: &Field,
    records: &[RawRecord],
    damaged: &mut Vec<Damaged>,
) -> ArrayRef {
    let texts = texts.as_string::<i32>();
    let mut refuse = |row: usize, cell: &str| {
        let cell: String = cell.chars().take(40).collect();
        let expected = match field.data_type() {
            DataType::Int64 => "a whole number",
            DataType::Float64 => "a number",
            _ => "true or false",
        };
        let problem = format!("`{}` is `{cell}`, and not {expected}", field.name());
        damaged.push(Damaged::at_line(row, records[row].line, &problem));
    };
    macro_rules! column {
        ($array:ty, $parse:expr) => {
            Arc::new(
                texts
                    .iter()
                    .enumerate()
                    .map(|(row, cell)| {
                        let parsed = $parse(cell?);
                        if parsed.is_none() {
                            refuse(row, cell?);
                        }
                        parsed
                    })
                    .collect::<$array>(),
            )
        };
    }
    match field.data_type() {
        DataType::Int64 => column!(Int64Array, |cell: &str| cell.trim().parse().ok()),
        DataType::Float64 => column!(Float64Array, |cell: &str| cell.trim().parse().ok()),
        DataType::Boolean => column!(BooleanArray, |cell: &str| truth(cell.trim())),
        _ => Arc::new(texts.clone()),
    }
}
