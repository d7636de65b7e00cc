//! What is asked of every row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is asked of every row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The kind of task.
    pub kind: TaskKind,
    /// A template over the columns of a row (Jinja syntax: `{{ column }}`). Default: for `caption`
    /// and `transcribe` a fixed request, for the others the row's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A template for the system message, for models that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The language that is spoken, by its code (`"de"`) or English name (`"german"`), for models
    /// that want it; default: the model finds out, row by row. Of a translator of many languages the
    /// one of the text; default: what its tokenizer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The language to write, by the same names, for a translator of many languages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_language: Option<String>,
    /// Whether to write down what is said in English, whatever the language.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub translate: bool,
    /// Whether transcripts tell when things are said: `<|0.00|> Hello.<|0.84|>`, in seconds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timestamps: bool,
    /// How a sound is heard that is longer than the model hears at a time.
    #[serde(default, skip_serializing_if = "LongAudio::is_default")]
    pub long_audio: LongAudio,
}

/// How a sound is heard that is longer than the model hears at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongAudio {
    /// In windows that overlap and are heard independently of each other; what they say is joined.
    #[default]
    Chunked,
    /// In windows of which each begins where the transcript of the one before ends, as the
    /// timestamps in it tell.
    Sequential,
}

impl LongAudio {
    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunked => "chunked",
            Self::Sequential => "sequential",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Task {
    /// Returns the first key that is set and that this kind of task has no use for, with the kinds
    /// that have.
    pub(super) fn useless_key(&self) -> Option<(&'static str, &'static str)> {
        let (speaks, writes) = (self.kind == TaskKind::Transcribe, self.kind == TaskKind::Generate);
        let keys = [
            ("task.language", self.language.is_some(), speaks || writes),
            ("task.target_language", self.target_language.is_some(), writes),
            ("task.translate", self.translate, speaks),
            ("task.timestamps", self.timestamps, speaks),
            ("task.long_audio", !self.long_audio.is_default(), speaks),
        ];
        let (key, ..) = keys.into_iter().find(|(_, is_set, is_useful)| *is_set && !is_useful)?;
        Some((
            key,
            match key {
                "task.language" => "`transcribe` and `generate`",
                "task.target_language" => "`generate`",
                _ => "`transcribe`",
            },
        ))
    }
}

/// The kinds of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Says what is in an image.
    Caption,
    /// Answers a question, about an image or sound where the row has one.
    Answer,
    /// Writes down what is said in a sound.
    Transcribe,
    /// Continues or answers a text.
    Generate,
    /// Turns a text, an image or a sound into an embedding: a list of numbers.
    Embed,
}

impl TaskKind {
    /// Every kind of task.
    pub const ALL: [Self; 5] =
        [Self::Caption, Self::Answer, Self::Transcribe, Self::Generate, Self::Embed];

    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caption => "caption",
            Self::Answer => "answer",
            Self::Transcribe => "transcribe",
            Self::Generate => "generate",
            Self::Embed => "embed",
        }
    }

    /// Returns the prompt template of a job that gives none.
    #[must_use]
    pub fn default_prompt(self) -> &'static str {
        match self {
            Self::Caption => "Describe the picture.",
            Self::Transcribe => "Write down what is said.",
            Self::Answer | Self::Generate | Self::Embed => "{{ text }}",
        }
    }
}
