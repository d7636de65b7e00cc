//! The output of Donut: the fields of a document, as JSON.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    engine::{Asked, Detokenizer},
    preprocess::{TextProcessor, stripped},
};

/// Decodes the fields of a document to JSON.
///
/// A field is `<s_name>…</s_name>`. Its values are separated by `<sep/>`, and it may contain
/// fields.
///
/// # Source
///
/// `DonutProcessor.token2json` of transformers 4.57, applied as in the model cards: to prompt and
/// answer without the first token, which names the task. As there, field names are case-insensitive
/// (ASCII only) wherever case does not matter.
pub(crate) struct Document {
    pub(crate) text: Arc<TextProcessor>,
}

impl Detokenizer for Document {
    fn text(&self, token_ids: &[i64]) -> String {
        self.text.text(token_ids)
    }

    fn answer(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let sequence = self.text.marked_text(&[asked.prompt_ids, token_ids].concat());
        let fields = Fields { is_added: &|token| self.text.is_added(token) };
        let value = fields.document(&without_first_tag(&sequence));
        // Serialising strings, lists and objects with string keys cannot fail.
        serde_json::to_string(&value).unwrap_or_default()
    }
}

/// A value of a document. Keys keep the order in which they were generated.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    List(Vec<Value>),
    Fields(Vec<(String, Value)>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(values) => values.serialize(serializer),
            Self::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Parses fields.
struct Fields<'a> {
    /// Returns whether a token is an added token of the tokenizer.
    is_added: &'a dyn Fn(&str) -> bool,
}

impl Fields<'_> {
    /// Parses a whole document. Text without fields is also a document.
    fn document(&self, tokens: &str) -> Value {
        let (mut groups, rest) = self.groups(tokens);
        match (groups.len(), groups.pop()) {
            (1, Some(fields)) if fields.is_empty() => {
                Value::Fields(vec![("text_sequence".to_owned(), Value::Text(rest))])
            }
            (1, Some(fields)) => Value::Fields(fields),
            (_, last) => list(groups, last),
        }
    }

    /// Returns the groups of fields, at least one, separated by `<sep/>`, and the text after them.
    fn groups(&self, tokens: &str) -> (Vec<Vec<(String, Value)>>, String) {
        let mut groups = vec![Vec::new()];
        let mut tokens = tokens.to_owned();
        while let Some(at) = find(&tokens, "<s_") {
            let Some(len) = tokens[at..].find('>') else { break };
            let start = tokens[at..=at + len].to_owned();
            let name = &start[3..start.len() - 1];
            let end = format!("</s_{name}>");
            let Some(end_at) = find(&tokens, &end) else {
                // An unclosed field is ignored.
                tokens = tokens.replace(&start, "");
                continue;
            };
            let end = tokens[end_at..end_at + end.len()].to_owned();
            let content = between(&tokens, &start, &end).map(stripped);
            if let (Some(value), Some(group)) =
                (content.and_then(|content| self.value(content)), groups.last_mut())
            {
                match group.iter_mut().find(|(other, _)| other == name) {
                    Some((_, old)) => *old = value,
                    None => group.push((name.to_owned(), value)),
                }
            }
            let first_end = tokens.find(&end).unwrap_or(end_at);
            let rest = stripped(&tokens[first_end + end.len()..]);
            let (rest, is_parted) = match rest.strip_prefix(SEPARATOR) {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            tokens = rest.to_owned();
            if is_parted {
                groups.push(Vec::new());
            }
        }
        (groups, tokens)
    }

    /// Returns the content of a field; `None` if it has field tags but no complete field.
    fn value(&self, content: &str) -> Option<Value> {
        if content.contains("<s_") && content.contains("</s_") {
            let (mut groups, _) = self.groups(content);
            let last = groups.pop();
            return match list(groups, last) {
                Value::List(values) if values.is_empty() => None,
                Value::List(mut values) if values.len() == 1 => values.pop(),
                value => Some(value),
            };
        }
        let mut values: Vec<Value> =
            content.split(SEPARATOR).map(|leaf| Value::Text(self.leaf(stripped(leaf)))).collect();
        if values.len() == 1 { values.pop() } else { Some(Value::List(values)) }
    }

    /// Returns the text of a value. A token such as `<yes/>` stands for its name.
    fn leaf(&self, leaf: &str) -> String {
        let name = leaf.strip_prefix('<').and_then(|leaf| leaf.strip_suffix("/>"));
        name.filter(|_| (self.is_added)(leaf)).unwrap_or(leaf).to_owned()
    }
}

/// The separator of values and groups of fields.
const SEPARATOR: &str = "<sep/>";

/// Collects groups in a list. A last group without fields is dropped.
fn list(groups: Vec<Vec<(String, Value)>>, last: Option<Vec<(String, Value)>>) -> Value {
    let last = last.filter(|fields| !fields.is_empty());
    Value::List(groups.into_iter().chain(last).map(Value::Fields).collect())
}

/// Returns the text between the first `start` and the first `end` after it, case-insensitively.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    let from = find(text, start)? + start.len();
    let len = find(&text[from..], end)?;
    Some(&text[from..from + len])
}

/// Finds a substring, ignoring ASCII case.
fn find(text: &str, piece: &str) -> Option<usize> {
    let (text, piece) = (text.as_bytes(), piece.as_bytes());
    text.windows(piece.len()).position(|window| window.eq_ignore_ascii_case(piece))
}

/// Removes the first `<…>` (`re.sub(r"<.*?>", "", sequence, count=1)`) and surrounding white space.
fn without_first_tag(sequence: &str) -> String {
    let tag = sequence.match_indices('<').find_map(|(start, _)| {
        let len = sequence[start..].find(['>', '\n'])?;
        sequence[start + len..].starts_with('>').then_some((start, start + len + 1))
    });
    match tag {
        Some((start, end)) => stripped(&[&sequence[..start], &sequence[end..]].concat()).to_owned(),
        None => stripped(sequence).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles/donut.json");
        let reference: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let fields = Fields { is_added: &|token| ["<sep/>", "<yes/>"].contains(&token) };
        let cases = reference["sequences"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let text = case[0].as_str().unwrap();
            let found = fields.document(&without_first_tag(&format!("<s_docvqa>{text}")));
            let found = serde_json::to_string(&found).unwrap();
            assert_eq!(found, case[1].as_str().unwrap(), "{text}");
        }
    }
}
