//! JSON Lines: an object per line, read by Arrow's reader; columns by what the first lines hold.
//!
//! A member that the first lines do not have is no column, and one that a line lacks is null. Where the
//! first lines mix texts, numbers and truth values in a column it is of text. A line that does not fit
//! costs its row.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array},
    compute::take,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    json::ReaderBuilder,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    records::RawRecord,
    rows::{Damaged, ReadRows},
};

/// Finds the columns of a file by its first lines, in the order in which they appear.
pub(super) fn schema_of(sample: &[RawRecord]) -> SchemaRef {
    let mut members = Members::default();
    for record in sample {
        // A line that is damaged is told when it is read.
        if let Ok(Shape::Object(line)) = serde_json::from_slice(&record.bytes) {
            members.merge(line);
        }
    }
    Arc::new(Schema::new(members.fields()))
}

/// Reads `records` as rows of `schema`, whose columns are some of the file's.
pub(super) fn decode(records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
    let mut damaged = Vec::new();
    let mut sound: Vec<(usize, &RawRecord)> = Vec::with_capacity(records.len());
    for (row, record) in records.iter().enumerate() {
        match record.problem.clone().or_else(|| problem_of(&record.bytes)) {
            Some(problem) => damaged.push(Damaged::at_line(row, record.line, &problem)),
            None => sound.push((row, record)),
        }
    }
    let lines: Vec<&RawRecord> = sound.iter().map(|(_, record)| *record).collect();
    let batch = read(&lines, schema).unwrap_or_else(|_| {
        // One of them does not fit, so each is read alone.
        let mut fitting = Vec::with_capacity(sound.len());
        let alone = sound.iter().filter_map(|&(row, record)| match read(&[record], schema) {
            Ok(batch) => {
                fitting.push((row, record));
                Some(batch)
            }
            Err(error) => {
                damaged.push(Damaged::at_line(row, record.line, &shorten(&error)));
                None
            }
        });
        let batches: Vec<RecordBatch> = alone.collect();
        sound = fitting;
        arrow::compute::concat_batches(schema, &batches)
            .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(schema)))
    });
    if damaged.is_empty() && batch.num_rows() == records.len() {
        return batch.into();
    }
    // Puts the sound rows back into their places.
    let mut places: Vec<Option<u32>> = vec![None; records.len()];
    for (place, (row, _)) in sound.iter().enumerate() {
        places[*row] = u32::try_from(place).ok().filter(|_| place < batch.num_rows());
    }
    let places = UInt32Array::from(places);
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| {
            take(column.as_ref(), &places, None)
                .unwrap_or_else(|_| new_null_array(column.data_type(), places.len()))
        })
        .collect();
    ReadRows::new(Arc::clone(schema), columns, records.len(), damaged)
}

/// Tells what is wrong with a line that is no JSON object.
///
/// Arrow's reader does not look at line ends: two broken lines could make one object for it.
fn problem_of(line: &[u8]) -> Option<String> {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => return Some(format!("it is no UTF-8: {error}")),
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Some(format!("it is no JSON: {error}"));
    }
    (!text.trim_start().starts_with('{')).then(|| "it is no object".to_owned())
}

fn read(records: &[&RawRecord], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(records.len().max(1))
        .with_coerce_primitive(true)
        .build_decoder()?;
    for record in records {
        decoder.decode(&record.bytes)?;
    }
    let empty = || RecordBatch::new_empty(Arc::clone(schema));
    let batch = decoder.flush()?.unwrap_or_else(empty);
    if batch.num_rows() == records.len() {
        return Ok(batch);
    }
    Err(ArrowError::JsonError("it is not one object".to_owned()))
}

/// The reader's own message without the wrapper around it.
fn shorten(error: &ArrowError) -> String {
    error.to_string().replace("Json error: ", "")
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Null,
    Truth,
    Whole,
    Number,
    Text,
    List(Box<Shape>),
    Object(Members),
    /// Values that no column can hold together.
    Mixed,
}

/// The members of objects, in the order in which they appear.
#[derive(Clone, Debug, Default, PartialEq)]
struct Members(Vec<(String, Shape)>);

impl Members {
    fn merge(&mut self, other: Self) {
        for (name, shape) in other.0 {
            self.add(name, shape);
        }
    }

    fn add(&mut self, name: String, shape: Shape) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = std::mem::replace(known, Shape::Null).merge(shape),
            None => self.0.push((name, shape)),
        }
    }

    fn fields(&self) -> Vec<Field> {
        let field = |(name, shape): &(String, Shape)| Field::new(name, shape.data_type(), true);
        self.0.iter().map(field).collect()
    }
}

impl Shape {
    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (one, other) if one == other => one,
            (Self::Null, other) | (other, Self::Null) => other,
            (Self::Whole, Self::Number) | (Self::Number, Self::Whole) => Self::Number,
            (Self::List(one), Self::List(other)) => Self::List(Box::new(one.merge(*other))),
            (Self::Object(mut one), Self::Object(other)) => {
                one.merge(other);
                Self::Object(one)
            }
            (one, other) if one.is_scalar() && other.is_scalar() => Self::Text,
            _ => Self::Mixed,
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Self::Truth | Self::Whole | Self::Number | Self::Text)
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Truth => DataType::Boolean,
            Self::Whole => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::List(item) => {
                DataType::List(Arc::new(Field::new_list_field(item.data_type(), true)))
            }
            // A struct without members is no column of Parquet.
            Self::Object(members) if !members.0.is_empty() => {
                DataType::Struct(members.fields().into())
            }
            _ => DataType::Utf8,
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Truth)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Whole)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(if i64::try_from(value).is_ok() { Shape::Whole } else { Shape::Number })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Shape, A::Error> {
        let mut item = Shape::Null;
        while let Some(value) = values.next_element()? {
            item = item.merge(value);
        }
        Ok(Shape::List(Box::new(item)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut members = Members::default();
        while let Some((name, shape)) = entries.next_entry()? {
            members.add(name, shape);
        }
        Ok(Shape::Object(members))
    }
}
