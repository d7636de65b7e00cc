//! Conversations in a cell: lists of messages, as in chat datasets and the OpenAI API.

use arrow::{array::Array, datatypes::DataType};
use legenda_models::{Role, Turn};
use serde_json::Value;

use super::{cell::template_value, column::is_text};
use crate::base::excerpt::excerpt;

/// A conversation that ends with a user message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// The system messages, one per line.
    pub system: Option<String>,
    /// The earlier turns.
    pub earlier: Vec<Turn>,
    /// The last user message.
    pub question: String,
}

/// Returns whether a column of this type can contain conversations.
#[must_use]
pub(crate) fn holds_messages(kind: &DataType) -> bool {
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
    /// Parses the conversation of a row; `None` if the cell is null or empty.
    ///
    /// # Errors
    ///
    /// A description of the problem.
    pub(crate) fn from_cell(column: &dyn Array, row: usize) -> Result<Option<Self>, String> {
        let value = match template_value(column, row) {
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => {
                serde_json::from_str(&text).map_err(|error| format!("invalid JSON: {error}"))?
            }
            value => value,
        };
        match value {
            Value::Null => Ok(None),
            Value::Array(messages) if messages.is_empty() => Ok(None),
            Value::Array(messages) => Self::from_messages(&messages).map(Some),
            _ => Err("expected a list of messages".to_owned()),
        }
    }

    /// Parses a conversation from its messages.
    pub(super) fn from_messages(messages: &[Value]) -> Result<Self, String> {
        let mut this = Self::default();
        for message in messages {
            let text = message["content"].as_str();
            let text = text.ok_or("a message has no text `content`")?.to_owned();
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
                        "invalid message `role` `{}`: expected `system`, `user` or `assistant`",
                        excerpt(other)
                    ));
                }
            };
            this.earlier.push(Turn { role, text });
        }
        match this.earlier.pop() {
            Some(Turn { role: Role::User, text }) => Ok(Self { question: text, ..this }),
            _ => Err("the last message is not from the user".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::{Conversation, Role, Turn};

    fn read(text: &str) -> Result<Option<Conversation>, String> {
        Conversation::from_cell(&StringArray::from(vec![text]), 0)
    }

    #[test]
    fn a_conversation_ends_with_a_question() {
        let text = r#"[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"}]"#;
        let found = read(text).unwrap().unwrap();
        let turn = |role, text: &str| Turn { role, text: text.to_owned() };
        assert_eq!(found.system.as_deref(), Some("Be short."));
        assert_eq!(found.earlier, [turn(Role::User, "Hi"), turn(Role::Assistant, "Hello.")]);
        assert_eq!(found.question, "Who?");
        assert_eq!(read("[]").unwrap(), None);
        assert_eq!(read(" ").unwrap(), None);
        assert_eq!(read("null").unwrap(), None);
    }

    #[test]
    fn invalid_conversations_are_rejected() {
        for (text, problem) in [
            ("hello", "invalid JSON"),
            ("{}", "expected a list"),
            (r#"[{"role": "user"}]"#, "no text `content`"),
            (r#"[{"role": "tool", "content": "x"}]"#, "`tool`"),
            (r#"[{"role": "assistant", "content": "x"}]"#, "not from the user"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
