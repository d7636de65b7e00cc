//! What an `embed` task may say of its embeddings, and what it may not say at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GenerationOptions, Job, JobError, TaskKind};

/// How embeddings are made; for `embed` tasks alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingOptions {
    /// The name of one of the model's prompts, put before every text, such as `query`; default: the
    /// model's own choice, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// How the states of a text's tokens become one; default: what the model's `modules.json` says,
    /// and `mean` where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether embeddings are brought to length 1; default: what the model says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
}

/// How the states of a text's tokens become one (the names of sentence-transformers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The state of the first token.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean, with the place of each token, from 1, as its weight.
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
    /// Refuses what an `embed` task cannot mean, and `[embedding]` in any other.
    pub(super) fn validate_embedding(&self) -> Result<(), JobError> {
        let refuse = |key, problem: &str| Err(JobError::Value { key, problem: problem.to_owned() });
        if self.task.kind != TaskKind::Embed {
            if self.embedding == EmbeddingOptions::default() {
                return Ok(());
            }
            return refuse("embedding", "is for `embed` tasks: remove it, or set `task.kind`");
        }
        let columns = &self.source.columns;
        let has_text = self.task.prompt.is_some() || columns.text.is_some();
        let parts = [has_text, columns.image.is_some(), columns.audio.is_some()];
        match parts.into_iter().filter(|is_there| *is_there).count() {
            1 => {}
            0 => {
                return refuse(
                    "source.columns",
                    "names nothing to embed: name the `text`, the `image` or the `audio` column",
                );
            }
            _ => {
                return refuse(
                    "source.columns",
                    "names several things to embed, but an embedding is of one: keep the text \
                     (`text` or `task.prompt`), `image` or `audio`; other columns are carried anyway",
                );
            }
        }
        if self.task.system.is_some() {
            return refuse("task.system", "has no meaning for an `embed` task: remove it");
        }
        if self.generation != GenerationOptions::default() {
            return refuse("generation", "has no meaning for an `embed` task: remove it");
        }
        if self.model.context_tokens.is_some() {
            return refuse("model.context_tokens", "has no meaning for an `embed` task: remove it");
        }
        if self.source.columns.seed.is_some() {
            return refuse("source.columns.seed", "has no meaning for an `embed` task: remove it");
        }
        if !has_text && self.embedding.prompt_name.is_some() {
            return refuse("embedding.prompt_name", "is for texts, but no text is embedded");
        }
        Ok(())
    }
}
