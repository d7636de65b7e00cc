//! The messages of a chat.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::request::{Refusal, RequestInput, kind};
use crate::input::source::conversation::Conversation;

const PARAM: &str = "messages";

/// Parses the messages of a chat, each as one text; images are those of the last message.
pub(super) fn read(input: Option<&Value>) -> Result<RequestInput, Refusal> {
    let messages = match input {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        None | Some(Value::Null) => {
            let message = "`messages` is missing: expected a list of messages";
            return Err(Refusal::new("missing_required_parameter", Some(PARAM), message));
        }
        Some(_) => return Err(wrong("`messages` is not a list of messages")),
    };
    let mut input = RequestInput::default();
    let mut turns = Vec::with_capacity(messages.len());
    for (idx, message) in messages.iter().enumerate() {
        let message = message.as_object();
        let message = message.ok_or_else(|| wrong(&format!("message {idx} is not an object")))?;
        check_members(idx, message)?;
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        let mut content = Content::read(idx, message.get("content"))?;
        if !content.images.is_empty() && (idx + 1 < messages.len() || role != "user") {
            return Err(wrong(
                "images are only supported in the last message, if it is a user message",
            ));
        }
        input.images.append(&mut content.images);
        turns.push(json!({ "role": role, "content": content.text }));
    }
    Conversation::from_messages(&turns).map_err(|problem| wrong(&problem))?;
    input.messages = Some(Value::from(turns).to_string());
    Ok(input)
}

fn wrong(problem: &str) -> Refusal {
    Refusal::value(PARAM, problem)
}

/// Rejects members of a message that the model would ignore.
fn check_members(idx: usize, message: &Map<String, Value>) -> Result<(), Refusal> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let supported = ["role", "content"];
    let unsupported = message
        .iter()
        .find(|(name, value)| !supported.contains(&name.as_str()) && !is_empty(value));
    match unsupported {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("`{name}` of message {idx} is not supported: remove it");
            Err(Refusal::new("unsupported_parameter", Some(PARAM), message))
        }
    }
}

/// The text and images of a message.
#[derive(Default)]
struct Content {
    text: String,
    images: Vec<Vec<u8>>,
}

impl Content {
    fn read(idx: usize, content: Option<&Value>) -> Result<Self, Refusal> {
        let mut this = Self::default();
        let parts = match content {
            Some(Value::String(text)) => return Ok(Self { text: text.clone(), ..this }),
            Some(Value::Array(parts)) => parts,
            None | Some(Value::Null) => {
                return Err(wrong(&format!("message {idx} has no `content`")));
            }
            Some(other) => {
                let problem = format!("`content` of message {idx} is {}", kind(other));
                return Err(wrong(&problem));
            }
        };
        let mut texts: Vec<&str> = Vec::new();
        for part in parts {
            match part.get("type").and_then(Value::as_str) {
                Some("text") => {
                    let text = part.get("text").and_then(Value::as_str);
                    texts.push(text.ok_or_else(|| {
                        wrong(&format!("a text part of message {idx} has no `text`"))
                    })?);
                }
                Some("image_url") => this.images.push(image(part.get("image_url"))?),
                other => {
                    let kind = other.unwrap_or("none");
                    return Err(wrong(&format!(
                        "a part of message {idx} has the unsupported type `{kind}`: expected `text` or `image_url`"
                    )));
                }
            }
        }
        this.text = texts.join("\n");
        Ok(this)
    }
}

/// Decodes the base64 `data:` URL of an image.
fn image(image: Option<&Value>) -> Result<Vec<u8>, Refusal> {
    let member = |name: &str| image.and_then(|image| image.get(name)).filter(|it| !it.is_null());
    if let Some(detail) = member("detail").filter(|detail| *detail != "auto") {
        let message = format!(
            "`detail` {detail} of an `image_url` is not supported: the model's processor decides the image \
             size; remove it"
        );
        return Err(Refusal::new("unsupported_parameter", Some(PARAM), message));
    }
    let url = member("url").and_then(Value::as_str).unwrap_or_default();
    let data = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    let (_, data) = data.ok_or_else(|| {
        wrong("an `image_url` is not a `data:…;base64,` URL; URLs are not fetched")
    })?;
    BASE64_STANDARD
        .decode(data)
        .map_err(|error| wrong(&format!("invalid base64 in an `image_url`: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::read;

    fn problem(messages: Value) -> String {
        read(Some(&messages)).unwrap_err().message
    }

    #[test]
    fn messages_become_turns_and_images() {
        let url = "data:image/png;base64,QUJD";
        let input = read(Some(&json!([
            {"role": "developer", "content": [{"type": "text", "text": "Be short."}], "name": null},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "tool_calls": [], "refusal": null},
            {"role": "user", "content": [
                {"type": "text", "text": "What"}, {"type": "text", "text": "is it?"},
                {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
            ]},
        ])))
        .unwrap();
        assert_eq!(input.images, [b"ABC"]);
        let turns: Value = serde_json::from_str(&input.messages.unwrap()).unwrap();
        assert_eq!(turns[0], json!({"role": "developer", "content": "Be short."}));
        assert_eq!(turns[3], json!({"role": "user", "content": "What\nis it?"}));
    }

    #[test]
    fn unsupported_members_are_rejected() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let image = |image: Value| user(json!([{"type": "image_url", "image_url": image}]));
        for (messages, expected) in [
            (json!([]), "not a list"),
            (json!("Hi"), "not a list"),
            (json!(["Hi"]), "message 0 is not an object"),
            (user(Value::Null), "no `content`"),
            (user(json!(7)), "is a number"),
            (user(json!([{"type": "text", "text": 7}])), "no `text`"),
            (user(json!([{"type": "input_audio"}])), "`input_audio`"),
            (image(json!({"url": "https://x/y.png"})), "not fetched"),
            (image(json!({"url": "data:image/png;base64,!"})), "invalid base64"),
            (image(json!({"url": "data:image/png;base64,QUJD", "detail": "high"})), "`detail`"),
            (json!([{"role": "user", "content": "Hi", "name": "Ann"}]), "`name` of message 0"),
            (json!([{"role": "tool", "content": "4", "tool_call_id": "x"}]), "`tool_call_id`"),
            (json!([{"role": "tool", "content": "4"}]), "`role` `tool`"),
            (json!([{"role": "assistant", "content": "Hi"}]), "not from the user"),
        ] {
            let problem = problem(messages);
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
