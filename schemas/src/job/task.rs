//! The task: what the model does with every row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The task to run on every row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The kind of task.
    pub kind: TaskKind,
    /// The prompt template over the columns of a row, in Jinja syntax (`{{ column }}`). Default: a fixed
    /// prompt for `caption` and `transcribe`, the text of the row for the other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The template of the system message, for models that support one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The spoken language, as a code (`"de"`) or English name (`"german"`), for models that need it.
    /// Default: the model detects it for each row. For a multilingual translation model, the language of
    /// the text. Default: that of its tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The target language, by the same names, for a multilingual translation model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_language: Option<String>,
    /// Whether to translate speech to English.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub translate: bool,
    /// Whether transcripts contain timestamps in seconds: `<|0.00|> Hello.<|0.84|>`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timestamps: bool,
    /// The handling of audio that is longer than the model's window.
    #[serde(default, skip_serializing_if = "LongAudio::is_default")]
    pub long_audio: LongAudio,
}

impl Task {
    /// Returns a task of a kind with the default options.
    #[must_use]
    pub fn new(kind: TaskKind) -> Self {
        Self {
            kind,
            prompt: None,
            system: None,
            language: None,
            target_language: None,
            translate: false,
            timestamps: false,
            long_audio: LongAudio::default(),
        }
    }
}

/// The handling of audio that is longer than the model's window (long-form transcription).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongAudio {
    /// Transcribe overlapping windows independently and merge the transcripts.
    #[default]
    Chunked,
    /// Transcribe one window after another; each starts at the last timestamp of the previous transcript.
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

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Task {
    /// Returns the first set key that does not apply to this kind of task, with the kinds it applies to.
    pub(super) fn inapplicable_key(&self) -> Option<(&'static str, &'static str)> {
        let transcribes = self.kind == TaskKind::Transcribe;
        let generates = self.kind == TaskKind::Generate;
        let keys = [
            ("task.language", self.language.is_some(), transcribes || generates),
            ("task.target_language", self.target_language.is_some(), generates),
            ("task.translate", self.translate, transcribes),
            ("task.timestamps", self.timestamps, transcribes),
            ("task.long_audio", !self.long_audio.is_default(), transcribes),
        ];
        let (key, ..) = keys.into_iter().find(|(_, is_set, applies)| *is_set && !applies)?;
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
    /// Describe an image.
    Caption,
    /// Answer a question, optionally about an image or audio.
    Answer,
    /// Transcribe speech.
    Transcribe,
    /// Continue or answer a text.
    Generate,
    /// Compute an embedding of text, an image or audio.
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

    /// Returns the default prompt template.
    #[must_use]
    pub fn default_prompt(self) -> &'static str {
        match self {
            Self::Caption => "Describe the picture.",
            Self::Transcribe => "Write down what is said.",
            Self::Answer | Self::Generate | Self::Embed => "{{ text }}",
        }
    }
}
