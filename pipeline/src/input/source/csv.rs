//! CSV: a header with column names, and type inference that never changes a cell.
//!
//! A column is numeric or boolean if every cell in the file is, and would be written back identically
//! (`007` would not); else it is text. An empty cell is null.

use std::{borrow::Cow, str::Utf8Error, sync::Arc};

use arrow::{
    array::{ArrayRef, new_null_array},
    datatypes::SchemaRef,
};
use csv_core::ReadRecordResult;
use memchr::{memchr, memchr_iter};

use super::{
    json::short,
    numbers::Numbers,
    records::{RawRecord, Seen, Separation},
    rows::{Damaged, ReadRows},
    shape::{Members, Shape, Spelling},
    typed::{self, Cell},
};

/// The layout of a CSV file.
#[derive(Clone, Debug)]
pub(super) struct Csv {
    delimiter: u8,
    /// The name of each field of the header.
    names: Vec<String>,
    /// The minimum number of fields of a record: up to the last named one.
    n_required: usize,
}

/// The columns of a file, inferred so far.
#[derive(Debug)]
pub(super) struct Columns {
    splitter: Splitter,
    /// The header, and for each column whether it is unnamed.
    header: Result<(Csv, Vec<bool>), String>,
    shapes: Vec<Shape>,
}

impl Columns {
    pub(super) fn new(delimiter: u8) -> Self {
        let header = Err("the file is empty and has no header".to_owned());
        Self { splitter: Splitter::new(delimiter), header, shapes: Vec::new() }
    }

    /// Adds a record. A damaged record is reported when it is read.
    pub(super) fn see(&mut self, seen: Seen<'_>) {
        match (seen, &self.header) {
            (Seen::Header(header), _) => {
                self.header = Csv::from_header(header, &mut self.splitter);
                let n_columns = self.header.as_ref().map_or(0, |(csv, _)| csv.names.len());
                self.shapes.resize_with(n_columns, Shape::default);
            }
            (Seen::Row(record), Ok((csv, _))) => {
                let Ok(cells) = csv.cells(record, &mut self.splitter) else { return };
                for (shape, cell) in self.shapes.iter_mut().zip(cells) {
                    if *shape != Shape::Text && !cell.is_empty() {
                        shape.widen(shape_of(&cell));
                    }
                }
            }
            (Seen::Row(_), Err(_)) => {}
        }
    }

    /// Returns the layout of the file and its columns, without unnamed empty columns.
    ///
    /// # Errors
    ///
    /// A problem of the header.
    pub(super) fn finish(self) -> Result<(Csv, Members), String> {
        let (csv, unnamed) = self.header?;
        let mut columns = Members::default();
        for ((name, is_unnamed), shape) in csv.names.iter().zip(unnamed).zip(self.shapes) {
            if !is_unnamed || shape != Shape::Null {
                columns.member(name, usize::MAX).widen(shape);
            }
        }
        Ok((csv, columns))
    }
}

impl Csv {
    /// Parses the header.
    fn from_header(
        header: &RawRecord,
        splitter: &mut Splitter,
    ) -> Result<(Self, Vec<bool>), String> {
        let names = match &header.problem {
            Some(problem) => Err(problem.clone()),
            None => splitter.split(&header.bytes),
        };
        let names = names.map_err(|problem| format!("header: {problem}"))?;
        let unnamed: Vec<bool> = names.iter().map(|name| name.is_empty()).collect();
        let n_required = unnamed.iter().rposition(|is_unnamed| !is_unnamed).map_or(1, |n| n + 1);
        let name = |(idx, name): (usize, Cow<'_, str>)| match name.is_empty() {
            true => format!("column_{}", idx + 1),
            false => name.into_owned(),
        };
        let names: Vec<String> = names.into_iter().enumerate().map(name).collect();
        for (idx, name) in names.iter().enumerate() {
            if names[..idx].contains(name) {
                return Err(format!("header: duplicate column name `{name}`"));
            }
        }
        Ok((Self { delimiter: splitter.delimiter, names, n_required }, unnamed))
    }

    /// Splits a record into a cell for each column. Trailing empty cells may be missing or superfluous, as
    /// written by spreadsheets.
    fn cells<'a>(
        &self,
        record: &'a [u8],
        splitter: &mut Splitter,
    ) -> Result<Vec<Cow<'a, str>>, String> {
        let mut cells = splitter.split(record)?;
        let n_columns = self.names.len();
        let are_extra_empty = cells.iter().skip(n_columns).all(|cell| cell.is_empty());
        if cells.len() < self.n_required || !are_extra_empty {
            let n_cells = cells.len();
            return Err(format!("expected {n_columns} fields, got {n_cells}"));
        }
        cells.resize(n_columns, Cow::Borrowed(""));
        Ok(cells)
    }

    /// Decodes `records` as rows of `schema`, a subset of the file's columns.
    pub(super) fn decode(&self, records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
        let place = |name: &String| self.names.iter().position(|known| known == name);
        let places: Vec<Option<usize>> =
            schema.fields().iter().map(|field| place(field.name())).collect();
        let mut columns: Vec<Vec<Cell<'_>>> = vec![vec![None; records.len()]; places.len()];
        let mut damaged = Vec::new();
        let mut splitter = Splitter::new(self.delimiter);
        for (row, record) in records.iter().enumerate() {
            let read = match &record.problem {
                Some(problem) => Err(problem.clone()),
                None => self.cells(&record.bytes, &mut splitter),
            };
            let mut cells = read.unwrap_or_else(|problem| {
                damaged.push(Damaged::at_line(row, record.line, &problem));
                Vec::new()
            });
            for (column, place) in columns.iter_mut().zip(&places) {
                let cell = place.and_then(|place| cells.get_mut(place)).map(std::mem::take);
                column[row] = cell.filter(|cell| !cell.is_empty());
            }
        }
        let fields = schema.fields().iter().zip(&places).zip(&columns);
        let columns = fields.map(|((field, place), cells)| -> ArrayRef {
            if place.is_none() {
                return new_null_array(field.data_type(), records.len());
            }
            let (column, bad) = typed::column(field.data_type(), cells);
            for row in bad {
                let cell = short(cells[row].as_deref().unwrap_or_default());
                let expected = typed::expected(field.data_type());
                let problem =
                    format!("column `{}`: expected {expected}, got `{cell}`", field.name());
                damaged.push(Damaged::at_line(row, records[row].line, &problem));
            }
            column
        });
        let columns = columns.collect();
        ReadRows::new(Arc::clone(schema), columns, records.len(), damaged)
    }
}

fn shape_of(cell: &str) -> Shape {
    if let Some(numbers) = Numbers::read(cell) {
        return Shape::Number(numbers);
    }
    Spelling::read(cell).map_or(Shape::Text, |(spelling, _)| Shape::Truth(spelling))
}

/// Candidate delimiters, in order of preference.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// The number of records used to detect the delimiter.
const TRIED_MAX: usize = 100;
/// The share of records, in percent, that must have the same number of fields as the header.
const ALIKE_PERCENT: usize = 90;

/// Detects the delimiter of a file that begins with `head`, which may be all of it: the one that splits the
/// header into several fields and most records into the same number; else `usual`.
pub(super) fn delimiter_of(head: &[u8], is_whole: bool, usual: u8) -> u8 {
    let n_fields = |delimiter: u8| {
        let records = Separation::Csv { delimiter }.first(head, is_whole, TRIED_MAX + 1);
        let mut splitter = Splitter::new(delimiter);
        let mut counts =
            records.iter().map(|record| splitter.split(record).map_or(0, |it| it.len()));
        let n_header = counts.next().filter(|n_header| *n_header > 1)?;
        let n_alike = counts.filter(|n_fields| *n_fields == n_header).count();
        let n_rows = records.len() - 1;
        (n_alike * 100 >= n_rows * ALIKE_PERCENT).then_some(n_header)
    };
    let mut found = (usual, n_fields(usual));
    for delimiter in DELIMITERS {
        let n_fields = n_fields(delimiter);
        if n_fields > found.1 {
            found = (delimiter, n_fields);
        }
    }
    found.0
}

/// Splits records into fields.
#[derive(Debug)]
struct Splitter {
    delimiter: u8,
    /// Reused: building its tables takes longer than splitting a record.
    reader: csv_core::Reader,
}

impl Splitter {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, reader: csv_core::ReaderBuilder::new().delimiter(delimiter).build() }
    }

    /// Splits a well-formed record.
    fn split<'a>(&mut self, record: &'a [u8]) -> Result<Vec<Cow<'a, str>>, String> {
        if memchr(b'"', record).is_some() {
            return self.split_quoted(record);
        }
        let line = record.strip_suffix(b"\n").unwrap_or(record);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if memchr(b'\r', line).is_some() {
            return Err(CARRIAGE_RETURN.to_owned());
        }
        let line = std::str::from_utf8(line).map_err(not_utf8)?;
        Ok(line.split(char::from(self.delimiter)).map(Cow::Borrowed).collect())
    }

    fn split_quoted<'a>(&mut self, record: &[u8]) -> Result<Vec<Cow<'a, str>>, String> {
        let reader = &mut self.reader;
        reader.reset();
        // The fields together are no longer than the record.
        let mut bytes = vec![0; record.len() + 1];
        let mut ends = vec![0; memchr_iter(self.delimiter, record).count() + 2];
        let (mut n_read, mut n_bytes, mut n_ends) = (0, 0, 0);
        loop {
            // On empty input, the reader finishes the last record.
            let (state, read, written, ended) =
                reader.read_record(&record[n_read..], &mut bytes[n_bytes..], &mut ends[n_ends..]);
            n_read += read;
            n_bytes += written;
            n_ends += ended;
            match state {
                ReadRecordResult::Record => break,
                ReadRecordResult::InputEmpty => {}
                _ => return Err("failed to split the record into fields".to_owned()),
            }
        }
        let mut left = record[n_read..].iter();
        if !left.all(|byte| b"\r\n".contains(byte)) {
            return Err(CARRIAGE_RETURN.to_owned());
        }
        let mut start = 0;
        let cell = |&end: &usize| {
            let cell = std::str::from_utf8(&bytes[start..end]);
            start = end;
            cell.map(|cell| Cow::Owned(cell.to_owned())).map_err(not_utf8)
        };
        ends[..n_ends].iter().map(cell).collect()
    }
}

const CARRIAGE_RETURN: &str = "invalid carriage return within the record";

fn not_utf8(error: Utf8Error) -> String {
    format!("invalid UTF-8: {error}")
}
