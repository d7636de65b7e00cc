//! Conversations in a cell: lists of messages, as chat datasets and the API of OpenAI have them.

use arrow::{array::Array, datatypes::DataType};
use legenda_models::{Role, Turn};
use serde_json::Value;

use super::{cell::template_value, column::is_text};
use crate::excerpt::excerpt;

/// A conversation that ends with what a user asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What its system messages say, a line each.
    pub system: Option<String>,
    /// What was said before.
    pub earlier: Vec<Turn>,
    /// What is asked.
    pub asked: String,
}

/// Returns whether a column of this type may hold conversations.
#[must_use]
pub fn holds_messages(kind: &DataType) -> bool {
    let is_message = |kind: &DataType| match kind {
        DataType::Struct(fields) => {
            ["role", "content"].iter().all(|name| fields.find(name).is_some())
        }
        _ => false,
    };
    match kind {
        kind if is_text(kind) => true,
        DataType::List(item) | DataType::LargeList(item) => is_message(item.data_type()),
        _ => false,
    }
}

impl Conversation {
    /// Reads the conversation of a row; none of a cell that is null or has no message.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn of_cell(column: &dyn Array, row: usize) -> Result<Option<Self>, String> {
        let value = match template_value(column, row) {
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => {
                serde_json::from_str(&text).map_err(|error| format!("it is no JSON: {error}"))?
            }
            value => value,
        };
        match value {
            Value::Null => Ok(None),
            Value::Array(messages) if messages.is_empty() => Ok(None),
            Value::Array(messages) => Self::of(&messages).map(Some),
            _ => Err("it is no list of messages".to_owned()),
        }
    }

    /// Reads a conversation from its messages.
    pub(super) fn of(messages: &[Value]) -> Result<Self, String> {
        let mut this = Self::default();
        for message in messages {
            let text = message["content"].as_str();
            let text = text.ok_or("a message has no `content` that is a text")?.to_owned();
            let role = match message["role"].as_str().unwrap_or_default() {
                "system" | "developer" => {
                    this.system = Some(match this.system.take() {
                        Some(before) => format!("{before}\n{text}"),
                        None => text,
                    });
                    continue;
                }
                "user" => Role::User,
                "assistant" => Role::Assistant,
                other => {
                    return Err(format!(
                        "a message has the `role` `{}`; `system`, `user` and `assistant` are known",
                        excerpt(other)
                    ));
                }
            };
            this.earlier.push(Turn { role, text });
        }
        match this.earlier.pop() {
            Some(Turn { role: Role::User, text }) => Ok(Self { asked: text, ..this }),
            _ => Err("its last message is not of a user, so nothing is asked".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::{Conversation, Role, Turn};

    fn read(text: &str) -> Result<Option<Conversation>, String> {
        Conversation::of_cell(&StringArray::from(vec![text]), 0)
    }

    #[test]
    fn a_conversation_ends_with_a_question() {
        let text = r#"[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"}]"#;
        let found = read(text).unwrap().unwrap();
        let turn = |role, text: &str| Turn { role, text: text.to_owned() };
        assert_eq!(found.system.as_deref(), Some("Be short."));
        assert_eq!(found.earlier, [turn(Role::User, "Hi"), turn(Role::Assistant, "Hello.")]);
        assert_eq!(found.asked, "Who?");
        assert_eq!(read("[]").unwrap(), None);
        assert_eq!(read(" ").unwrap(), None);
        assert_eq!(read("null").unwrap(), None);
    }

    #[test]
    fn what_is_no_conversation_is_told() {
        for (text, problem) in [
            ("hello", "no JSON"),
            ("{}", "no list"),
            (r#"[{"role": "user"}]"#, "no `content`"),
            (r#"[{"role": "tool", "content": "x"}]"#, "`tool`"),
            (r#"[{"role": "assistant", "content": "x"}]"#, "nothing is asked"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
