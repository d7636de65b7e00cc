//! Batch files of OpenAI's API: a request per line.
//!
//! | column | |
//! |---|---|
//! | `custom_id` | the client's name for the request |
//! | `url` | `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings` |
//! | `parameters` | how the answer is decoded, by the keys of a job, as JSON |
//! | `messages` | of a chat its messages, as JSON |
//! | `text` | of other requests what is asked |
//! | `images`, `has_images` | the pictures of the last message, and whether there are any |
//! | `line` | the line of the file, counted from 1 |
//!
//! A request that asks for what no model here does costs its row, which keeps its name.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryBuilder, BooleanArray, Int64Array, ListBuilder, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    conversation::Conversation,
    records::RawRecord,
    rows::{Damaged, ReadRows},
};

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    custom_id: Option<String>,
    #[serde(default)]
    url: String,
    #[serde(default)]
    body: Map<String, Value>,
}

/// A request as a row.
#[derive(Default)]
struct Asked {
    messages: Option<String>,
    text: Option<String>,
    images: Vec<Vec<u8>>,
    parameters: Option<String>,
}

/// The name and the endpoint of a request, and what it asks.
type Row = (Option<String>, Option<String>, Asked);

/// Whether a value of a parameter can be meant.
type Fits = fn(&Value) -> bool;

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
    ]))
}

/// Reads requests as rows of `schema`, whose columns are some of [`schema`]'s.
pub(super) fn decode(records: &[RawRecord], schema: &SchemaRef) -> ReadRows {
    let mut damaged = Vec::new();
    let mut requests: Vec<Row> = Vec::with_capacity(records.len());
    for (row, record) in records.iter().enumerate() {
        let read = match &record.problem {
            Some(problem) => Err(problem.clone()),
            None => serde_json::from_slice::<Request>(&record.bytes)
                .map_err(|error| format!("it is no request: {error}")),
        };
        let (names, asked) = match read {
            Ok(Request { custom_id, url, body }) => {
                let asked = match custom_id {
                    Some(_) => ask(&url, &body),
                    None => Err("it has no `custom_id`".to_owned()),
                };
                ((custom_id, Some(url)), asked)
            }
            Err(problem) => ((None, None), Err(problem)),
        };
        let asked = asked.unwrap_or_else(|problem| {
            damaged.push(Damaged::at_line(row, record.line, &problem));
            Asked::default()
        });
        requests.push((names.0, names.1, asked));
    }
    let texts = |of: fn(&Row) -> Option<&String>| -> ArrayRef {
        Arc::new(requests.iter().map(of).collect::<StringArray>())
    };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "custom_id" => texts(|request| request.0.as_ref()),
        "url" => texts(|request| request.1.as_ref()),
        "parameters" => texts(|request| request.2.parameters.as_ref()),
        "messages" => texts(|request| request.2.messages.as_ref()),
        "text" => texts(|request| request.2.text.as_ref()),
        "has_images" => {
            let any = requests.iter().map(|request| Some(!request.2.images.is_empty()));
            Arc::new(any.collect::<BooleanArray>())
        }
        "line" => {
            let lines = records.iter().map(|record| i64::try_from(record.line).ok());
            Arc::new(lines.collect::<Int64Array>())
        }
        _ => {
            let mut images = ListBuilder::new(BinaryBuilder::new());
            for (_, _, asked) in &requests {
                images.append_value(asked.images.iter().map(Some));
            }
            Arc::new(images.finish()) as ArrayRef
        }
    });
    ReadRows::new(Arc::clone(schema), columns.collect(), records.len(), damaged)
}

fn ask(url: &str, body: &Map<String, Value>) -> Result<Asked, String> {
    let mut asked = Asked { parameters: Some(parameters(body)?), ..Asked::default() };
    match url {
        "/v1/chat/completions" => {
            let messages = body.get("messages").and_then(Value::as_array);
            asked.hear(messages.ok_or("its body has no list of `messages`")?)?;
        }
        "/v1/completions" => asked.text = Some(one_text(body, "prompt")?),
        "/v1/embeddings" => asked.text = Some(one_text(body, "input")?),
        other => {
            return Err(format!(
                "its `url` is `{other}`; `/v1/chat/completions`, `/v1/completions` and \
                 `/v1/embeddings` are answered"
            ));
        }
    }
    Ok(asked)
}

/// Returns the text of a member that may be a list of one.
fn one_text(body: &Map<String, Value>, key: &str) -> Result<String, String> {
    let value = match body.get(key) {
        Some(Value::Array(values)) if values.len() == 1 => values.first(),
        value => value,
    };
    let text = value.and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| format!("its `{key}` is no text: a request asks for one thing, in words"))
}

impl Asked {
    /// Takes the messages of a chat, each as one text; pictures are those of the last.
    fn hear(&mut self, messages: &[Value]) -> Result<(), String> {
        let mut heard = Vec::with_capacity(messages.len());
        for (idx, message) in messages.iter().enumerate() {
            let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
            let mut said = Self::default();
            said.take(message.get("content").unwrap_or(&Value::Null))?;
            let may_show = idx + 1 == messages.len() && role == "user";
            if !said.images.is_empty() && !may_show {
                return Err("pictures stand in the last message of a user alone".to_owned());
            }
            self.images.append(&mut said.images);
            let content = said.text.unwrap_or_default();
            heard.push(json!({ "role": role, "content": content }));
        }
        Conversation::of(&heard)?;
        self.messages = Some(Value::from(heard).to_string());
        Ok(())
    }

    fn take(&mut self, content: &Value) -> Result<(), String> {
        let parts = match content {
            Value::String(text) => {
                self.text = Some(text.clone());
                return Ok(());
            }
            Value::Array(parts) => parts,
            _ => return Err("a message has no `content`".to_owned()),
        };
        for part in parts {
            match part.get("type").and_then(Value::as_str) {
                Some("text") => {
                    let text = part.get("text").and_then(Value::as_str).unwrap_or_default();
                    self.text = Some(match self.text.take() {
                        Some(before) => format!("{before}\n{text}"),
                        None => text.to_owned(),
                    });
                }
                Some("image_url") => {
                    let url = part.get("image_url").and_then(|image| image.get("url"));
                    let url = url.and_then(Value::as_str).unwrap_or_default();
                    self.images.push(data_of(url)?);
                }
                other => {
                    let kind = other.unwrap_or("of no type");
                    return Err(format!(
                        "a part of a message is `{kind}`; text and image_url are read"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Decodes a `data:` URL in base64.
fn data_of(url: &str) -> Result<Vec<u8>, String> {
    let data = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    let (_, data) = data.ok_or(
        "an `image_url` is no `data:…;base64,` URL, and nothing is fetched from the network",
    )?;
    BASE64_STANDARD.decode(data).map_err(|error| format!("the data of an `image_url`: {error}"))
}

/// Returns the keys of `generation` that a request sets, as JSON in the order of their names.
fn parameters(body: &Map<String, Value>) -> Result<String, String> {
    let given = |key: &str| body.get(key).filter(|value| !value.is_null());
    let refused: [(&str, Fits); 6] = [
        ("n", |value| value.as_u64() == Some(1)),
        ("best_of", |value| value.as_u64() == Some(1)),
        ("frequency_penalty", |value| value.as_f64() == Some(0.0)),
        ("presence_penalty", |value| value.as_f64() == Some(0.0)),
        ("tools", |value| value.as_array().is_some_and(Vec::is_empty)),
        ("response_format", |value| value.get("type").is_some_and(|kind| kind == "text")),
    ];
    for (key, is_plain) in refused {
        if given(key).is_some_and(|value| !is_plain(value)) {
            return Err(format!("it sets `{key}`, which no model here heeds: leave it out"));
        }
    }
    let mut set = Map::new();
    let tokens = given("max_completion_tokens").or_else(|| given("max_tokens"));
    let numbers: [(&str, Option<&Value>, Fits); 4] = [
        ("max_new_tokens", tokens, |value| value.as_u64().is_some_and(|n| n > 0)),
        ("seed", given("seed"), Value::is_u64),
        ("temperature", given("temperature"), |value| value.as_f64().is_some_and(|t| t >= 0.0)),
        ("top_p", given("top_p"), |value| value.as_f64().is_some_and(|p| p > 0.0 && p <= 1.0)),
    ];
    for (key, value, fits) in numbers {
        let Some(value) = value else { continue };
        if !fits(value) {
            return Err(format!("`{key}` cannot be {value}"));
        }
        set.insert(key.to_owned(), value.clone());
    }
    if let Some(stop) = given("stop") {
        let stop = if stop.is_string() { Value::Array(vec![stop.clone()]) } else { stop.clone() };
        let is_texts = |stop: &Value| stop.as_str().is_some_and(|stop| !stop.is_empty());
        if !stop.as_array().is_some_and(|stops| stops.iter().all(is_texts)) {
            return Err("its `stop` is no text and no list of texts".to_owned());
        }
        set.insert("stop".to_owned(), stop);
    }
    Ok(Value::Object(set).to_string())
}
