//! Embedding options, and the validation of `embed` tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GenerationOptions, Job, JobError, TaskKind};

/// Embedding options, for `embed` tasks only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingOptions {
    /// The name of a prompt of the model, such as `query`, that is prepended to every text. Default: the
    /// default prompt of the model, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// The pooling of token states. Default: that of the model's `modules.json`, else `mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether to normalize embeddings to length 1. Default: the setting of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
}

/// The pooling of token states, with the names of sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The state of the first token.
    Cls,
    /// The maximum of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean weighted by token position, starting at 1.
    #[serde(rename = "weightedmean")]
    WeightedMean,
    /// The state of the last token.
    #[serde(rename = "lasttoken")]
    LastToken,
}

impl Pooling {
    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }
}

impl Job {
    /// Validates an `embed` task, and rejects `[embedding]` in other tasks.
    pub(super) fn validate_embedding(&self) -> Result<(), JobError> {
        let invalid =
            |key, problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
        if self.task.kind != TaskKind::Embed {
            if self.embedding == EmbeddingOptions::default() {
                return Ok(());
            }
            return invalid("embedding", "is only supported for `embed` tasks");
        }
        let columns = &self.source.columns;
        let has_text = self.task.prompt.is_some() || columns.text.is_some();
        let inputs = [has_text, columns.image.is_some(), columns.audio.is_some()];
        match inputs.into_iter().filter(|is_set| *is_set).count() {
            1 => {}
            0 => {
                return invalid(
                    "source.columns",
                    "must name the column to embed: `text`, `image` or `audio`",
                );
            }
            _ => {
                return invalid(
                    "source.columns",
                    "must name one input to embed, got several: keep one of text (`text` or \
                     `task.prompt`), `image` and `audio`; other columns are carried anyway",
                );
            }
        }
        if self.task.system.is_some() {
            return invalid("task.system", "is not supported for `embed` tasks");
        }
        if self.generation != GenerationOptions::default() {
            return invalid("generation", "is not supported for `embed` tasks");
        }
        if self.model.context_tokens.is_some() {
            return invalid("model.context_tokens", "is not supported for `embed` tasks");
        }
        if self.source.columns.seed.is_some() {
            return invalid("source.columns.seed", "is not supported for `embed` tasks");
        }
        if !has_text && self.embedding.prompt_name.is_some() {
            return invalid("embedding.prompt_name", "requires a text input");
        }
        Ok(())
    }
}
