//! Florence-2's tasks: what each asks the model, and what its answer is.

use std::collections::BTreeMap;

use crate::{
    config::{TaskAnswer, TaskConfig},
    preprocess::{ProcessError, Record},
};

/// The tasks of one bundle.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    /// Questions of tasks that a prompt names alone.
    alone: BTreeMap<String, String>,
    /// Questions of tasks that take a text; `{input}` stands for it.
    with_input: BTreeMap<String, String>,
    answers: BTreeMap<String, TaskAnswer>,
    /// Phrases that say too little to be grounded.
    banned: Vec<String>,
}

/// What stands in a question for the text of a prompt.
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

    /// Returns the question of a record and the task that its text names; the task is empty, and the
    /// question the text itself, where it names none.
    ///
    /// # Errors
    ///
    /// [`ProcessError::TaskAlone`] if there is a text beside a task that takes none, and
    /// [`ProcessError::Template`] if there is a system text.
    ///
    /// # Source
    ///
    /// `Florence2Processor._construct_prompts` of transformers 4.57.
    pub(in crate::preprocess) fn question(
        &self,
        record: &Record,
    ) -> Result<(String, String), ProcessError> {
        if record.system.as_deref().is_some_and(|system| !system.is_empty()) {
            let message = "this model has no place for a system text".to_owned();
            return Err(ProcessError::Template { message });
        }
        let text = record.text.as_deref().unwrap_or_default();
        if let Some((task, question)) = self.alone.iter().find(|(task, _)| text.contains(*task)) {
            if text != task {
                return Err(ProcessError::TaskAlone { task: task.clone() });
            }
            return Ok((question.clone(), task.clone()));
        }
        let asked = self.with_input.iter().find(|(task, _)| text.contains(*task));
        Ok(match asked {
            Some((task, question)) => {
                let input = text.replace(task, "");
                (question.replace(INPUT, super::sentence::stripped(&input)), task.clone())
            }
            None => (text.to_owned(), String::new()),
        })
    }

    /// Returns what the answer to a task is; a text where nothing is said.
    pub(crate) fn answer_of(&self, task: &str) -> TaskAnswer {
        self.answers.get(task).copied().unwrap_or(TaskAnswer::PureText)
    }

    /// Returns whether a phrase says too little to be grounded.
    pub(crate) fn is_banned(&self, phrase: &str) -> bool {
        self.banned.iter().any(|banned| banned == phrase)
    }
}
