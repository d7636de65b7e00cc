//! The text input of a row: its prompt, its system message, and the earlier turns.

use arrow::array::RecordBatch;
use legenda_models::Turn;
use serde_json::{Map, Value};

use crate::{
    input::{
        source::{
            cell::{template_cell, text_cell},
            conversation::Conversation,
        },
        template::TemplateError,
    },
    run::plan::RunPlan,
};

/// The text input of a row.
#[derive(Clone, Debug)]
pub(crate) struct RowPrompt {
    pub(crate) prompt: String,
    pub(crate) system: Option<String>,
    pub(crate) earlier: Vec<Turn>,
}

/// An error in the text input of a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("column `{column}` is not a conversation: {problem}")]
    Messages { column: String, problem: String },
    #[error("the prompt has {bytes} bytes; `limits.text_bytes` allows {bytes_max}")]
    TextTooLong { bytes: usize, bytes_max: u64 },
}

impl PromptError {
    /// Returns the reject code of the row.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Template(_) => "template_failed",
            Self::Messages { .. } => "messages_invalid",
            Self::TextTooLong { .. } => "text_too_long",
        }
    }
}

impl RowPrompt {
    /// Renders the prompts of `plan` for the row at `offset` of `rows`.
    pub(crate) fn new(
        plan: &RunPlan,
        rows: &RecordBatch,
        offset: usize,
    ) -> Result<Self, PromptError> {
        let mut row = Map::new();
        let columns = &plan.job.source.columns;
        let mut conversation = Conversation::default();
        if let Some(name) = &columns.messages
            && let Some(column) = rows.column_by_name(name)
        {
            let read = Conversation::from_cell(column.as_ref(), offset);
            let wrong = |problem| PromptError::Messages { column: name.clone(), problem };
            conversation = read.map_err(wrong)?.unwrap_or_default();
            row.insert("text".to_owned(), Value::from(conversation.question.as_str()));
        }
        for name in &plan.template_columns {
            if let Some(value) = template_cell(rows, name, offset) {
                row.insert(name.clone(), value);
            }
        }
        if let Some(name) = &columns.text {
            let text = rows.column_by_name(name).and_then(|column| text_cell(column, offset));
            row.insert("text".to_owned(), Value::from(text.unwrap_or_default()));
        }
        let mut prompt = plan.prompt.render(&row)?;
        if let Some(embedding) = &plan.embedding
            && !prompt.trim().is_empty()
        {
            prompt.insert_str(0, &embedding.prefix);
        }
        let system = plan.system.as_ref().map(|system| system.render(&row)).transpose()?;
        let system: Vec<String> = conversation.system.into_iter().chain(system).collect();
        let system = (!system.is_empty()).then(|| system.join("\n"));
        let earlier = conversation.earlier;
        let earlier_bytes: usize = earlier.iter().map(|turn| turn.text.len()).sum();
        let bytes = prompt.len() + system.as_ref().map_or(0, String::len) + earlier_bytes;
        let bytes_max = plan.job.limits.text_bytes.0;
        if bytes as u64 > bytes_max {
            return Err(PromptError::TextTooLong { bytes, bytes_max });
        }
        Ok(Self { prompt, system, earlier })
    }
}
