//! Florence-2's tasks: their questions and kinds of answers.

use std::collections::BTreeMap;

use crate::{
    config::{TaskAnswer, TaskConfig},
    preprocess::{ProcessError, Record},
};

/// The tasks of one bundle.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    /// The questions of tasks without a text argument.
    alone: BTreeMap<String, String>,
    /// The questions of tasks with a text argument, at `{input}`.
    with_input: BTreeMap<String, String>,
    answers: BTreeMap<String, TaskAnswer>,
    /// The phrases that are too vague to be grounded.
    banned: Vec<String>,
}

/// The placeholder of the text argument in a question.
const INPUT: &str = "{input}";

impl Tasks {
    pub(crate) fn new(config: &TaskConfig) -> Self {
        Self {
            alone: config.task_prompts_without_inputs.clone(),
            with_input: config.task_prompts_with_input.clone(),
            answers: config.tasks_answer_post_processing_type.clone(),
            banned: config.banned_grounding_tokens.clone(),
        }
    }

    /// Returns the question of a record and the task that its text names. If it names none, the
    /// task is empty and the question is the text itself.
    ///
    /// # Errors
    ///
    /// [`ProcessError::TaskAlone`] if there is text after a task that takes none, and
    /// [`ProcessError::Template`] if there is a system message.
    ///
    /// # Source
    ///
    /// `Florence2Processor._construct_prompts` of transformers 4.57.
    pub(in crate::preprocess) fn question(
        &self,
        record: &Record,
    ) -> Result<(String, String), ProcessError> {
        if record.system.as_deref().is_some_and(|system| !system.is_empty()) {
            let source = "this model does not support a system message".into();
            return Err(ProcessError::Template { source });
        }
        let text = record.text.as_deref().unwrap_or_default();
        if let Some((task, question)) = self.alone.iter().find(|(task, _)| text.contains(*task)) {
            if text != task {
                return Err(ProcessError::TaskAlone { task: task.clone() });
            }
            return Ok((question.clone(), task.clone()));
        }
        let found = self.with_input.iter().find(|(task, _)| text.contains(*task));
        Ok(match found {
            Some((task, question)) => {
                let input = text.replace(task, "");
                (question.replace(INPUT, super::sentence::stripped(&input)), task.clone())
            }
            None => (text.to_owned(), String::new()),
        })
    }

    /// Returns the kind of answer of a task; text by default.
    pub(crate) fn answer_of(&self, task: &str) -> TaskAnswer {
        self.answers.get(task).copied().unwrap_or(TaskAnswer::PureText)
    }

    /// Returns whether a phrase is too vague to be grounded.
    pub(crate) fn is_banned(&self, phrase: &str) -> bool {
        self.banned.iter().any(|banned| banned == phrase)
    }
}
