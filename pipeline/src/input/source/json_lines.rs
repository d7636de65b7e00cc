//! Rows as JSON objects: the lines of JSON Lines, or the items of a list.
//!
//! The whole file is scanned before the first row is read, so a type that appears late applies to the whole
//! column. Missing members are null. A row that is not an object is rejected alone.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, ListArray, StructArray},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Fields, SchemaRef},
};

use super::{
    foreign::{Foreign, ONE_OBJECT},
    json::{self, short, text_of},
    numbers::Numbers,
    records::{RawRecord, Separation},
    rows::{Damaged, ReadRows},
    shape::{Members, Shape, Spelling},
    typed::{self, Cell},
};

/// The maximum number of columns.
const COLUMNS_MAX: usize = 10_000;
/// The maximum nesting of types within a column; deeper values are text.
const TYPE_DEPTH_MAX: usize = 32;

/// The columns of a file, inferred so far.
#[derive(Debug, Default)]
pub(super) struct Columns(Members);

impl Columns {
    /// Adds a row. A damaged row is reported when it is read.
    pub(super) fn see(&mut self, row: &[u8]) {
        let mut members = Vec::new();
        let found = object_of(row, |name, value| members.push((name, value)));
        if found.is_err() || self.0.len() > COLUMNS_MAX {
            return;
        }
        for (place, (name, value)) in members.into_iter().enumerate() {
            widen(self.0.member(&name, place), value, 0);
        }
    }

    /// Returns the columns.
    ///
    /// # Errors
    ///
    /// Too many columns for a table.
    pub(super) fn finish(self) -> Result<Members, String> {
        if self.0.len() > COLUMNS_MAX {
            return Err(format!("the objects have more than {COLUMNS_MAX} different members"));
        }
        Ok(self.0)
    }
}

/// Detects how rows are separated in a file that begins with `head`, which may be all of it. `is_json` is set
/// for the extension `.json`, which does not imply one row per line.
///
/// # Errors
///
/// [`Foreign`] if it is a single object that may contain rows.
pub(super) fn separation_of(
    head: &[u8],
    is_whole: bool,
    is_json: bool,
) -> Result<Separation, Foreign> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let behind = head.get(1..).unwrap_or_default().trim_ascii_start();
    if head.first() == Some(&b'[') && matches!(behind.first(), None | Some(b'{' | b']')) {
        return Ok(Separation::Items);
    }
    if head.first() != Some(&b'{') {
        return Ok(Separation::Lines);
    }
    let Some(line) = head.split_inclusive(|byte| *byte == b'\n').next() else {
        return Ok(Separation::Lines);
    };
    // A first line that is not an object may be damaged, or may continue on the next line.
    let is_one_line = line.len() == head.len() || object_of(line, |_, _| ()).is_ok();
    match Separation::Items.first(head, is_whole, 2).as_slice() {
        [object] if is_json && is_whole && holds_rows(object) => Err(ONE_OBJECT),
        [] if is_json && !is_one_line => Err(ONE_OBJECT),
        [object, ..] if !is_one_line && object_of(object, |_, _| ()).is_ok() => {
            Ok(Separation::Items)
        }
        _ => Ok(Separation::Lines),
    }
}

/// Returns whether every member of an object is a list or an object, as in `{"data": [...]}` and in
/// column-oriented tables.
fn holds_rows(object: &[u8]) -> bool {
    let (mut n_members, mut n_nested) = (0, 0);
    let found = object_of(object, |_, value| {
        n_members += 1;
        n_nested += usize::from(value.starts_with(['{', '[']));
    });
    found.is_ok() && n_members > 0 && n_nested == n_members
}

/// Calls `member` with the name and the raw value of every member of a row.
fn object_of<'a>(row: &'a [u8], member: impl FnMut(Cow<'a, str>, &'a str)) -> Result<(), String> {
    let text = std::str::from_utf8(row).map_err(|error| format!("invalid UTF-8: {error}"))?;
    json::object(text, member).map_err(|error| match text.trim_start().as_bytes() {
        [b'{', ..] => error.to_string(),
        _ => "expected a JSON object".to_owned(),
    })
}

/// Widens a shape to include a well-formed value.
fn widen(shape: &mut Shape, value: &str, depth: usize) {
    let has_depth = depth < TYPE_DEPTH_MAX;
    match (&mut *shape, value.as_bytes().first()) {
        (Shape::Text, _) | (_, None | Some(b'n')) => {}
        (Shape::Object(members), Some(b'{')) if has_depth => {
            widen_members(members, value, depth);
            shape.limit();
        }
        (Shape::List(item), Some(b'[')) if has_depth => widen_item(item, value, depth),
        (_, Some(first)) => shape.widen(match first {
            b't' | b'f' => Shape::Truth(Spelling::Lower),
            b'{' if has_depth => {
                let mut members = Members::default();
                widen_members(&mut members, value, depth);
                Shape::Object(members)
            }
            b'[' if has_depth => {
                let mut item = Shape::Null;
                widen_item(&mut item, value, depth);
                Shape::List(Box::new(item))
            }
            b'-' | b'0'..=b'9' => Numbers::read(value).map_or(Shape::Text, Shape::Number),
            _ => Shape::Text,
        }),
    }
}

fn widen_members(members: &mut Members, object: &str, depth: usize) {
    let mut place = 0;
    // The value is known to be well formed.
    drop(json::object(object, |name, value| {
        widen(members.member(&name, place), value, depth + 1);
        place += 1;
    }));
}

fn widen_item(item: &mut Shape, list: &str, depth: usize) {
    drop(json::list(list, |value| widen(item, value, depth + 1)));
}

/// A raw value and its row; `None` if null.
type Value<'a> = (usize, Option<&'a str>);

/// Decodes `records` as rows of `schema`, a subset of the file's columns.
pub(super) fn decode(records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
    let places = places_of(schema.fields());
    let nulls: Vec<Value<'_>> = (0..records.len()).map(|row| (row, None)).collect();
    let mut values = vec![nulls; schema.fields().len()];
    let mut damaged = Vec::new();
    for (row, record) in records.iter().enumerate() {
        let read = match &record.problem {
            Some(problem) => Err(problem.clone()),
            None => object_of(&record.bytes, |name, value| {
                if let Some(&place) = places.get(name.as_ref()) {
                    values[place][row].1 = not_null(value);
                }
            }),
        };
        if let Err(problem) = read {
            values.iter_mut().for_each(|column| column[row].1 = None);
            damaged.push(Damaged::at_line(row, record.line, &problem));
        }
    }
    let columns = schema.fields().iter().zip(&values).map(|(field, values)| {
        build(field.data_type(), values, &mut |row, problem| {
            let problem = format!("column `{}`: {problem}", field.name());
            damaged.push(Damaged::at_line(row, records[row].line, &problem));
        })
    });
    let columns = columns.collect();
    ReadRows::new(Arc::clone(schema), columns, records.len(), damaged)
}

/// Returns the positions of fields by name.
fn places_of(fields: &Fields) -> HashMap<&str, usize> {
    fields.iter().enumerate().map(|(place, field)| (field.name().as_str(), place)).collect()
}

fn not_null(value: &str) -> Option<&str> {
    Some(value).filter(|value| *value != "null")
}

/// Builds a column from values; calls `refuse` with the row of each value of the wrong type.
fn build(
    data_type: &DataType,
    values: &[Value<'_>],
    refuse: &mut dyn FnMut(usize, String),
) -> ArrayRef {
    match data_type {
        DataType::Struct(fields) => {
            let places = places_of(fields);
            let nulls: Vec<Value<'_>> = values.iter().map(|(row, _)| (*row, None)).collect();
            let mut members = vec![nulls; fields.len()];
            let validity = values.iter().enumerate().map(|(idx, (row, value))| {
                let Some(value) = value else { return false };
                let read = json::object(value, |name, member| {
                    if let Some(&place) = places.get(name.as_ref()) {
                        members[place][idx].1 = not_null(member);
                    }
                });
                if read.is_err() {
                    refuse(*row, format!("expected an object, got `{}`", short(value)));
                }
                read.is_ok()
            });
            let validity: NullBuffer = validity.collect();
            let children = fields.iter().zip(&members);
            let children =
                children.map(|(field, values)| build(field.data_type(), values, refuse)).collect();
            Arc::new(StructArray::new(fields.clone(), children, Some(validity)))
        }
        DataType::List(item) => {
            let mut items: Vec<Value<'_>> = Vec::new();
            let mut lengths = Vec::with_capacity(values.len());
            let validity = values.iter().map(|(row, value)| {
                let n_before = items.len();
                let read = value.map(|value| {
                    let read = json::list(value, |item| items.push((*row, not_null(item))));
                    if read.is_err() {
                        refuse(*row, format!("expected a list, got `{}`", short(value)));
                        items.truncate(n_before);
                    }
                    read
                });
                lengths.push(items.len() - n_before);
                matches!(read, Some(Ok(())))
            });
            let validity: NullBuffer = validity.collect();
            let children = build(item.data_type(), &items, refuse);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(Arc::clone(item), offsets, children, Some(validity)))
        }
        data_type => {
            let cells: Vec<Cell<'_>> = values
                .iter()
                .map(|(row, value)| {
                    text_of((*value)?).map_err(|problem| refuse(*row, problem)).ok()
                })
                .collect();
            let (column, bad) = typed::column(data_type, &cells);
            for place in bad {
                let (row, cell) = (values[place].0, cells[place].as_deref().unwrap_or_default());
                let expected = typed::expected(data_type);
                refuse(row, format!("expected {expected}, got `{}`", short(cell)));
            }
            column
        }
    }
}
