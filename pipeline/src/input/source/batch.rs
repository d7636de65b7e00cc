//! Batch files of the OpenAI API: one request per line.
//!
//! | column | |
//! |---|---|
//! | `custom_id` | the client's id of the request |
//! | `url` | `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings` |
//! | `parameters` | generation parameters, by the keys of a job, as JSON |
//! | `seed` | the seed of the request, if it sets one |
//! | `messages` | the messages of a chat, as JSON |
//! | `text` | the input of other requests |
//! | `images`, `has_images` | the images of the last message, and whether it has any |
//! | `line` | the line of the file, counted from 1 |
//! | `request` | the line itself, as bytes |
//!
//! A request with unsupported parameters is rejected alone; its row keeps its id.

mod chat;
mod parameters;
mod request;

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, Int64Array, ListBuilder, StringArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use serde_json::Value;

pub(crate) use self::parameters::EmbeddingFormat;
pub(crate) use self::request::{Request, RequestInput};
pub use self::{parameters::Endpoint, request::Refusal};
use super::{
    records::RawRecord,
    rows::{Damaged, ReadRows},
};

pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let image = Arc::new(Field::new_list_field(DataType::Binary, true));
    Arc::new(Schema::new(vec![
        text("custom_id"),
        text("url"),
        text("parameters"),
        text("messages"),
        text("text"),
        Field::new("images", DataType::List(image), true),
        Field::new("has_images", DataType::Boolean, true),
        Field::new("line", DataType::Int64, true),
        Field::new("seed", DataType::Int64, true),
        Field::new("request", DataType::Binary, true),
    ]))
}

/// A request as a row.
#[derive(Default)]
struct Row {
    custom_id: Option<String>,
    url: Option<String>,
    parameters: Option<String>,
    seed: Option<i64>,
    input: RequestInput,
}

impl Row {
    /// Parses a line; returns the problem too, if any.
    fn read(record: &RawRecord) -> (Self, Option<String>) {
        if let Some(problem) = &record.problem {
            return (Self::default(), Some(problem.clone()));
        }
        let Request { custom_id, url, request } = Request::read(&record.bytes);
        let custom_id = custom_id.map(|id| match id {
            Value::String(id) => id,
            other => other.to_string(),
        });
        let named = Self { custom_id, url, ..Self::default() };
        let input = request.and_then(|(parameters, mut input)| match input.as_mut_slice() {
            [one] => Ok((parameters, std::mem::take(one))),
            several => Err(Refusal::new(
                "invalid_value",
                Some(parameters.endpoint.input()),
                format!("expected one input, got {}", several.len()),
            )),
        });
        match input {
            Ok((parameters, input)) => {
                let seed = parameters.seed;
                (Self { parameters: Some(parameters.generation()), seed, input, ..named }, None)
            }
            Err(refusal) => (named, Some(refusal.message)),
        }
    }
}

/// Decodes requests as rows of `schema`, a subset of the columns of [`schema`].
pub(super) fn decode(records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
    // If only the lines are needed, do not parse them.
    let is_parsed =
        schema.fields().iter().any(|field| !["line", "request"].contains(&field.name().as_str()));
    let mut damaged = Vec::new();
    let mut rows: Vec<Row> = Vec::with_capacity(records.len());
    for (idx, record) in records.iter().enumerate() {
        let (row, problem) = match (is_parsed, &record.problem) {
            (true, _) => Row::read(record),
            (false, problem) => (Row::default(), problem.clone()),
        };
        damaged.extend(problem.map(|problem| Damaged::at_line(idx, record.line, &problem)));
        rows.push(row);
    }
    let texts = |of: fn(&Row) -> Option<&String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "custom_id" => texts(|row| row.custom_id.as_ref()),
        "url" => texts(|row| row.url.as_ref()),
        "parameters" => texts(|row| row.parameters.as_ref()),
        "messages" => texts(|row| row.input.messages.as_ref()),
        "text" => texts(|row| row.input.text.as_ref()),
        "has_images" => {
            let any = rows.iter().map(|row| Some(!row.input.images.is_empty()));
            Arc::new(any.collect::<BooleanArray>())
        }
        "line" => {
            let lines = records.iter().map(|record| i64::try_from(record.line).ok());
            Arc::new(lines.collect::<Int64Array>())
        }
        "seed" => Arc::new(rows.iter().map(|row| row.seed).collect::<Int64Array>()),
        "request" => {
            let lines = records.iter().map(|record| Some(record.bytes.as_ref()));
            Arc::new(lines.collect::<BinaryArray>())
        }
        _ => {
            let mut images = ListBuilder::new(BinaryBuilder::new());
            for row in &rows {
                images.append_value(row.input.images.iter().map(Some));
            }
            Arc::new(images.finish()) as ArrayRef
        }
    });
    ReadRows::new(Arc::clone(schema), columns.collect(), records.len(), damaged)
}
