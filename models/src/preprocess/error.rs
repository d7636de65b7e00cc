//! Why a record cannot be prepared.

use crate::tensors::ShapeError;

/// Failure to prepare one record. The row is rejected; other rows go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The record holds something the model has no input for.
    #[error("the model has no {modality} input")]
    Modality {
        /// `image` or `audio`.
        modality: &'static str,
    },
    /// The chat template refused the record or used too much fuel.
    #[error("the chat template failed: {message}")]
    Template {
        /// What the template engine or the template said.
        message: String,
    },
    /// The tokenizer refused the text.
    #[error("the tokenizer failed: {message}")]
    Tokenizer {
        /// What the tokenizer said.
        message: String,
    },
    /// The template did not place each medium once.
    #[error("the prompt has {actual} places for {modality} inputs, the record has {expected}")]
    PlaceholderCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The media of the record.
        expected: usize,
        /// The placeholders in the rendered prompt.
        actual: usize,
    },
    /// The model looks at, or listens to, one medium of a row.
    #[error("the row has {actual} {modality} inputs, the model takes exactly one")]
    MediaCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The media of the record.
        actual: usize,
    },
    /// A model that is told its task by a token of its own is told none.
    #[error("the prompt does not begin with a task, such as {tasks}: set `task.prompt`")]
    NoTask {
        /// Some that the tokenizer knows.
        tasks: String,
    },
    /// A task that takes no text has one beside it.
    #[error("the prompt is more than the task `{task}`, which takes no text: make it that alone")]
    TaskAlone {
        /// The task.
        task: String,
    },
    /// A model that continues a text, or is told its task, was given a conversation.
    #[error("the row is a conversation, and this model has no chat template: ask it one thing")]
    NoConversation,
    /// There is neither text nor media.
    #[error("the record is empty")]
    EmptyRecord,
    /// More or less than one thing to embed.
    #[error("the row has {actual} things to embed, an embedding is of one text, image or sound")]
    NotOneThing {
        /// How many it has.
        actual: usize,
    },
    /// An image without pixels, or whose pixels do not fit its size.
    #[error("the image is {width}x{height} with {n_bytes} bytes")]
    ImageShape {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The bytes given; `3 * width * height` are expected.
        n_bytes: usize,
    },
    /// An image that is far longer than wide, or the other way round.
    #[error("the image is {width}x{height}, one edge is more than {ratio_max} times the other")]
    ImageTooNarrow {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// What the reference takes at most.
        ratio_max: usize,
    },
    /// Images of one record that differ in size after the processor.
    #[error("the images of one row differ in size after resizing")]
    ImageSizesDiffer,
    /// A sound without samples.
    #[error("the audio is empty")]
    AudioEmpty,
    /// Sounds of one record that differ in length, for a model that hears them as they are.
    #[error(
        "the sounds of one row differ in length, this model hears only those of one length together"
    )]
    AudioLengthsDiffer,
    /// A sound longer than the model hears.
    #[error("the audio has {seconds:.2} s, the model hears at most {max_seconds:.2} s")]
    AudioTooLong {
        /// Its duration.
        seconds: f64,
        /// The most the model hears.
        max_seconds: f64,
    },
    /// A sound shorter than one frame of the model.
    #[error("the audio has {seconds:.3} s, the model hears nothing below {min_seconds:.3} s")]
    AudioTooShort {
        /// Its duration.
        seconds: f64,
        /// The least the model hears.
        min_seconds: f64,
    },
    /// A sound that is not made of numbers.
    #[error("the audio has samples that are not finite")]
    AudioNotFinite,
    /// A sound that cannot be brought to the model's sample rate.
    #[error("cannot resample audio from {from_hz} Hz to {to_hz} Hz: {message}")]
    Resample {
        /// Its sample rate.
        from_hz: u32,
        /// The model's.
        to_hz: u32,
        /// What the resampler said.
        message: String,
    },
    /// A tensor that does not fit together: a fault of this program.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl ProcessError {
    /// Returns the label for metrics and rejects: few and stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Modality { .. } => "modality_unsupported",
            Self::Template { .. } => "template",
            Self::Tokenizer { .. } => "tokenizer",
            Self::PlaceholderCount { .. } => "placeholder_count",
            Self::MediaCount { .. } => "media_count",
            Self::NoTask { .. } => "task_missing",
            Self::NoConversation => "conversation_unsupported",
            Self::TaskAlone { .. } => "task_not_alone",
            Self::EmptyRecord => "record_empty",
            Self::NotOneThing { .. } => "not_one_thing",
            Self::ImageShape { .. } => "image_shape",
            Self::ImageTooNarrow { .. } => "image_too_narrow",
            Self::ImageSizesDiffer => "image_sizes_differ",
            Self::AudioEmpty => "audio_empty",
            Self::AudioLengthsDiffer => "audio_lengths_differ",
            Self::AudioTooLong { .. } => "audio_too_long",
            Self::AudioTooShort { .. } => "audio_too_short",
            Self::AudioNotFinite => "audio_not_finite",
            Self::Resample { .. } => "audio_resample",
            Self::Shape(_) => "shape",
        }
    }
}
