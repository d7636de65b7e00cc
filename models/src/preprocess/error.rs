//! The errors of preparing a record.

use legenda_schemas::cause::Cause;

use crate::tensors::ShapeError;

/// An error while preparing one record. The row is rejected; other rows continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The record holds a medium that the model has no input for.
    #[error("the model has no {modality} input")]
    Modality {
        /// `image` or `audio`.
        modality: &'static str,
    },
    /// The chat template raised an error or ran out of fuel.
    #[error("failed to render the chat template")]
    Template {
        /// The error of the template or of its engine.
        source: Cause,
    },
    /// The tokenizer failed on the text.
    #[error("failed to tokenize the text")]
    Tokenizer {
        /// The error of the tokenizer.
        source: Cause,
    },
    /// The template did not render exactly one placeholder for each medium.
    #[error("the prompt has {actual} {modality} placeholders for {expected} {modality} inputs")]
    PlaceholderCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The number of media in the record.
        expected: usize,
        /// The number of placeholders in the rendered prompt.
        actual: usize,
    },
    /// The model takes exactly one medium per row.
    #[error("the row has {actual} {modality} inputs, expected exactly one")]
    MediaCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The number of media in the record.
        actual: usize,
    },
    /// The prompt does not start with one of the model's task tokens.
    #[error("the prompt does not start with a task token such as {tasks}: set `task.prompt`")]
    NoTask {
        /// Some of the task tokens.
        tasks: String,
    },
    /// The prompt has text after a task that takes none.
    #[error("the task `{task}` takes no text: use it as the whole prompt")]
    TaskAlone {
        /// The task.
        task: String,
    },
    /// The row is a conversation, but the model continues a text or takes a task token.
    #[error("the row is a conversation, but the model has no chat template: use a single prompt")]
    NoConversation,
    /// The record has neither text nor media.
    #[error("the record is empty")]
    EmptyRecord,
    /// The record does not have exactly one input to embed.
    #[error("the row has {actual} inputs to embed, expected one text, image or audio")]
    NotOneThing {
        /// The number of inputs in the record.
        actual: usize,
    },
    /// The image is empty, or its buffer does not match its size.
    #[error("invalid image: {width}x{height} pixels with {n_bytes} bytes")]
    ImageShape {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The size of the buffer; `3 * width * height` is expected.
        n_bytes: usize,
    },
    /// The aspect ratio of the image is too large.
    #[error("the image is {width}x{height}, its aspect ratio exceeds {ratio_max}")]
    ImageTooNarrow {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The maximum aspect ratio of the reference.
        ratio_max: usize,
    },
    /// The images of one record differ in size after preprocessing.
    #[error("the images of one row differ in size after resizing")]
    ImageSizesDiffer,
    /// The audio has no samples.
    #[error("the audio is empty")]
    AudioEmpty,
    /// The audio inputs of one record differ in length, but the model takes raw samples.
    #[error("the audio inputs of one row differ in length, but the model requires equal lengths")]
    AudioLengthsDiffer,
    /// The audio exceeds the maximum length of the model.
    #[error("the audio is {seconds:.2} s long, the model accepts at most {max_seconds:.2} s")]
    AudioTooLong {
        /// The duration in seconds.
        seconds: f64,
        /// The maximum duration in seconds.
        max_seconds: f64,
    },
    /// The audio is shorter than one frame of the model.
    #[error("the audio is {seconds:.3} s long, the model requires at least {min_seconds:.3} s")]
    AudioTooShort {
        /// The duration in seconds.
        seconds: f64,
        /// The minimum duration in seconds.
        min_seconds: f64,
    },
    /// The audio has NaN or infinite samples.
    #[error("the audio has non-finite samples")]
    AudioNotFinite,
    /// The audio cannot be resampled to the model's sample rate.
    #[error("failed to resample audio from {from_hz} Hz to {to_hz} Hz")]
    Resample {
        /// The sample rate of the audio.
        from_hz: u32,
        /// The sample rate of the model.
        to_hz: u32,
        /// The error of the resampler.
        source: Cause,
    },
    /// A tensor shape mismatch: a bug in this program.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl ProcessError {
    /// Returns a stable error code for metrics and rejects.
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
