//! The form of the answers: columns, a JSON Schema, a regular expression or choices.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Job, JobError, TaskKind};
use crate::{
    answer::{Form, Member, Shape, ShapeError, members_of_schema, shape_of_name},
    table::{ANSWER_COLUMN, RESERVED_PREFIX},
};

/// The form that every answer must have. At most one of `columns`, `schema`, `regex` and `choices`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerOptions {
    /// The columns of the answer, by name: a list of choices, or a type such as `string`, `bool`, `int64`,
    /// `float64`, `decimal(10, 2)`, `date`, `timestamp` or `list<string>`, with `?` if it may be null.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, AnswerColumn>,
    /// A JSON Schema of an object, inline or as a path relative to the job file. Each property becomes a column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<AnswerSchema>,
    /// The order in which the model writes the columns; columns that are not listed follow. Default: by name, and
    /// for a schema the required properties first, in the order of `required`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<String>,
    /// A regular expression that the whole answer matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The possible answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
}

/// A column of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AnswerColumn {
    /// The name of a type.
    Type(String),
    /// The possible values.
    Choices(Vec<String>),
}

/// A JSON Schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AnswerSchema {
    /// The path of a file with the schema, relative to the job file.
    Path(String),
    /// The schema.
    Inline(serde_json::Map<String, serde_json::Value>),
}

impl AnswerOptions {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the path of the schema, if it is in a file that has not been read.
    #[must_use]
    pub fn schema_path(&self) -> Option<&str> {
        match &self.schema {
            Some(AnswerSchema::Path(path)) => Some(path),
            _ => None,
        }
    }

    /// Returns the form of the answers; `None` if they are plain text.
    ///
    /// # Errors
    ///
    /// [`JobError::Value`] if the form is invalid.
    pub fn form(&self) -> Result<Option<Form>, JobError> {
        let keys = [
            ("answer.columns", !self.columns.is_empty()),
            ("answer.schema", self.schema.is_some()),
            ("answer.regex", self.regex.is_some()),
            ("answer.choices", self.choices.is_some()),
        ];
        let mut set = keys.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key);
        let Some(key) = set.next() else {
            return match self.order.is_empty() {
                true => Ok(None),
                false => {
                    Err(invalid("answer.order", "requires `answer.columns` or `answer.schema`"))
                }
            };
        };
        if let Some(other) = set.next() {
            return Err(invalid(key, format!("conflicts with `{other}`: remove one")));
        }
        let form = if let Some(regex) = &self.regex {
            Form::Regex(regex.clone())
        } else if let Some(choices) = &self.choices {
            Form::Choices(checked_choices(choices).map_err(|problem| invalid(key, problem))?)
        } else {
            Form::Object(self.members(key)?)
        };
        if !self.order.is_empty() && form.members().is_empty() {
            return Err(invalid("answer.order", "requires `answer.columns` or `answer.schema`"));
        }
        Ok(Some(form))
    }

    fn members(&self, key: &'static str) -> Result<Vec<Member>, JobError> {
        let mut members = match &self.schema {
            Some(AnswerSchema::Inline(schema)) => {
                members_of_schema(&serde_json::Value::Object(schema.clone()))
                    .map_err(|error| invalid(key, format!("is not supported: {error}")))?
            }
            Some(AnswerSchema::Path(path)) => {
                return Err(invalid(key, format!("is the path `{path}`, which was not read")));
            }
            None => {
                let columns = self.columns.iter().map(|(name, column)| column.member(name));
                columns.collect::<Result<_, _>>()?
            }
        };
        for member in &members {
            let name = member.name.as_str();
            if name == ANSWER_COLUMN || name.starts_with(RESERVED_PREFIX) || name.is_empty() {
                let problem = format!("has the column `{name}`, a reserved name");
                return Err(invalid(key, problem));
            }
        }
        for (idx, name) in self.order.iter().enumerate() {
            if self.order[..idx].contains(name) {
                return Err(invalid("answer.order", format!("lists `{name}` twice")));
            }
            if !members.iter().any(|member| member.name == *name) {
                return Err(invalid(
                    "answer.order",
                    format!("has `{name}`, which is not a column"),
                ));
            }
        }
        let place = |member: &Member| {
            self.order.iter().position(|name| *name == member.name).unwrap_or(usize::MAX)
        };
        members.sort_by_key(place);
        Ok(members)
    }
}

impl AnswerColumn {
    fn member(&self, name: &str) -> Result<Member, JobError> {
        let key = "answer.columns";
        let of_column = |problem: String| invalid(key, format!("`{name}` {problem}"));
        let (shape, is_nullable) = match self {
            Self::Choices(choices) => {
                (Shape::Choice(checked_choices(choices).map_err(of_column)?), false)
            }
            Self::Type(text) => {
                shape_of_name(text).map_err(|error: ShapeError| of_column(error.to_string()))?
            }
        };
        Ok(Member { name: name.to_owned(), shape, is_nullable, is_required: true })
    }
}

/// Checks a list of choices.
fn checked_choices(choices: &[String]) -> Result<Vec<String>, String> {
    if choices.is_empty() {
        return Err("must have at least one choice".to_owned());
    }
    for (idx, choice) in choices.iter().enumerate() {
        if choice.is_empty() {
            return Err("must not have an empty choice".to_owned());
        }
        if choices[..idx].contains(choice) {
            return Err(format!("lists `{choice}` twice"));
        }
    }
    Ok(choices.to_vec())
}

fn invalid(key: &'static str, problem: impl Into<String>) -> JobError {
    JobError::Value { key, problem: problem.into() }
}

impl Job {
    /// Validates the form of the answers.
    pub(super) fn validate_answer(&self) -> Result<(), JobError> {
        if self.answer.is_default() {
            return Ok(());
        }
        if matches!(self.task.kind, TaskKind::Transcribe | TaskKind::Embed) {
            let kind = self.task.kind.as_str();
            return Err(invalid("answer", format!("is not supported for `{kind}` tasks")));
        }
        let generation = &self.generation;
        if !generation.stop.is_empty() {
            return Err(invalid("generation.stop", "conflicts with `answer`: remove one"));
        }
        if generation.num_beams.is_some_and(|n_beams| n_beams > 1) {
            return Err(invalid("generation.num_beams", "must be 1 with `answer`"));
        }
        // A file is read by the caller, which checks again.
        if self.answer.schema_path().is_some() {
            return Ok(());
        }
        self.answer.form().map(|_| ())
    }

    /// Replaces the path of the schema by the content of that file.
    ///
    /// # Errors
    ///
    /// [`JobError::Value`] if the content is not a supported schema.
    pub fn with_answer_schema(mut self, content: &str) -> Result<Self, JobError> {
        let schema = serde_json::from_str(content)
            .map_err(|error| invalid("answer.schema", format!("is not a JSON object: {error}")))?;
        self.answer.schema = Some(AnswerSchema::Inline(schema));
        self.validate_answer()?;
        Ok(self)
    }
}
