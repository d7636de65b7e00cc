//! Preprocessing: turns a record into model inputs, exactly as the bundle's processor configs
//! specify.
//!
//! Pure work on host memory, shared by any number of threads. Decoding media bytes is the
//! pipeline's; running encoders is `exec`'s.

use std::{fmt, sync::Arc};

use super::{
    FrameFeatures, FrameMel, ImageLayout, ImageProcessor, LogMel, ProcessError, RawSamples, Record,
    RepeatedMel, RgbImage, Sample, SentenceProcessor, SequentialAudio, SequentialRules, Tasks,
    TextProcessor, Waveform, text::Clips,
};

use crate::{
    arch::PromptText,
    bundle::{Bundle, SourceLanguage},
    config::{BundleError, ImageProcessorConfig, SoundConfig, SoundLength},
    engine::Subject,
    tensors::Tensor,
};

/// Prepares records for one bundle.
pub struct Processor {
    text: TextInput,
    image: Option<ImageProcessor>,
    sound: Option<SoundInput>,
    /// The modality of which every row has exactly one, if the encoder takes nothing else.
    single_input: Option<&'static str>,
    /// The declared language of the texts.
    language: Option<SourceLanguage>,
    /// The role of a record's text.
    prompt_text: PromptText,
    /// The first decoder token of answers.
    first_token_id: Option<i64>,
    /// The rules of sequential long-form transcription, if enabled.
    sequential: Option<Arc<SequentialRules>>,
    /// The predefined tasks of the model, if it has any.
    tasks: Option<Arc<Tasks>>,
}

/// The tokenisation of a text.
enum TextInput {
    /// As a prompt for a decoder.
    Prompt(Arc<TextProcessor>),
    /// Verbatim, for an embedding.
    Sentence(Box<SentenceProcessor>),
}

/// The audio feature extractors.
#[derive(Debug)]
enum SoundInput {
    /// Whisper, Ultravox, Voxtral.
    LogMel(LogMel),
    /// Raw samples.
    Samples(RawSamples),
    /// CLAP.
    RepeatedMel(RepeatedMel),
    /// Gemma 3n and Phi-4-multimodal.
    Frames(FrameMel),
}

impl SoundInput {
    fn open(config: &SoundConfig, bundle: &Bundle) -> Result<Self, BundleError> {
        let spec = bundle.arch.audio.as_ref();
        let fits = spec.is_none_or(|spec| spec.features == config.features());
        if !fits {
            let supported = format!("the class of {}", bundle.architecture());
            let class = config.class();
            return Err(config.origin().unsupported("feature_extractor_type", class, supported));
        }
        Ok(match config {
            SoundConfig::LogMel(config) => {
                Self::LogMel(LogMel::open(config, sound_length(bundle))?)
            }
            SoundConfig::Samples(config) => Self::Samples(RawSamples::open(config)?),
            SoundConfig::RepeatedMel(config) => Self::RepeatedMel(RepeatedMel::open(config)?),
            SoundConfig::Usm(config) => Self::Frames(FrameMel::usm(config)?),
            SoundConfig::StackedFrames(config) => Self::Frames(FrameMel::stacked(config)?),
        })
    }

    /// Returns the log-mel extractor, if it is one.
    fn log_mel(&self) -> Option<&LogMel> {
        match self {
            Self::LogMel(mel) => Some(mel),
            _ => None,
        }
    }

    /// Returns the sample rate in Hz for memory estimates; an upper bound where the exact rate does
    /// not matter.
    fn sample_rate_hz(&self) -> u32 {
        match self {
            Self::LogMel(mel) => mel.sample_rate_hz(),
            Self::Frames(mel) => mel.sample_rate_hz(),
            Self::Samples(_) | Self::RepeatedMel(_) => 48_000,
        }
    }
}

/// The audio features of a record.
#[derive(Debug, Default)]
struct Sounds {
    /// The `input_features` of a [`Sample`].
    features: Option<Tensor<f32>>,
    /// The `sound_frames` of a [`Sample`].
    frames: Vec<usize>,
    /// The clips of each audio input, if it has placeholders in the prompt.
    clips: Vec<Clips>,
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor")
            .field("image", &self.image)
            .field("sound", &self.sound)
            .finish_non_exhaustive()
    }
}

/// How a record passes through the model.
#[derive(Debug)]
pub enum Work {
    /// As one record, or as one for each chunk of its audio, each prepared by [`Processor::prepare`].
    Chunks(Vec<Record>),
    /// Window by window, each of which depends on the answer to the one before.
    Sequential(SequentialAudio),
}

impl Processor {
    /// Reads the processor configs, the tokenizer and the chat template of a bundle.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if a file is missing or has an unsupported option.
    pub fn open(bundle: &Bundle) -> Result<Self, BundleError> {
        let modalities = bundle.modalities();
        let config = &bundle.processor;
        let image = config.image_processor.as_ref().filter(|_| modalities.image);
        let sound = config.feature_extractor.as_ref().filter(|_| modalities.audio);
        let image = image.map(|config| image_processor(config, bundle)).transpose()?;
        Ok(Self {
            text: match &bundle.embedding {
                None => TextInput::Prompt(Arc::new(TextProcessor::open(bundle)?)),
                Some(embedding) => {
                    let text = SentenceProcessor::open(bundle, &embedding.text)?;
                    TextInput::Sentence(Box::new(text))
                }
            },
            image,
            sound: sound.map(|config| SoundInput::open(config, bundle)).transpose()?,
            single_input: bundle.arch.seq2seq().and_then(|spec| spec.input.modality()),
            language: None,
            prompt_text: bundle.arch.prompt.text,
            first_token_id: bundle.start.first_token_id(),
            sequential: None,
            tasks: config.tasks.as_ref().map(|config| Arc::new(Tasks::new(config))),
        })
    }

    /// Overrides the language of the texts that the tokenizer declares.
    pub(crate) fn of_language(self, language: Option<SourceLanguage>) -> Self {
        Self { language, ..self }
    }

    /// Enables sequential long-form transcription.
    pub(crate) fn with_sequential(self, rules: Option<SequentialRules>) -> Self {
        Self { sequential: rules.map(Arc::new), ..self }
    }

    /// Returns whether audio is transcribed sequentially.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        self.sequential.is_some()
    }

    /// Decides how a record passes through the model.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]: the row is rejected, other rows continue.
    pub fn begin(&self, record: Record) -> Result<Work, ProcessError> {
        match self.sequential_audio(&record)? {
            Some(audio) => Ok(Work::Sequential(audio)),
            None => Ok(Work::Chunks(self.chunks(record)?)),
        }
    }

    /// Starts the sequential transcription of a record's audio; `None` if it is disabled.
    fn sequential_audio(&self, record: &Record) -> Result<Option<SequentialAudio>, ProcessError> {
        let (Some(rules), Some(SoundInput::LogMel(mel)), TextInput::Prompt(text)) =
            (&self.sequential, &self.sound, &self.text)
        else {
            return Ok(None);
        };
        let [audio] = record.audios.as_slice() else {
            let actual = record.audios.len();
            return Err(ProcessError::MediaCount { modality: "audio", actual });
        };
        let features = mel.whole_features(audio)?;
        let (rules, text) = (Arc::clone(rules), Arc::clone(text));
        Ok(Some(SequentialAudio::new(rules, text, features, mel.clip_frames())))
    }

    /// Splits a record whose audio exceeds the model's window into records of overlapping chunks.
    /// [`Engine::join`](crate::Engine::join) merges their answers. Other records stay whole,
    /// including those whose audio will be rejected as too long.
    fn chunks(&self, mut record: Record) -> Result<Vec<Record>, ProcessError> {
        // Models that also read text get the whole audio.
        let Some(mel) = self.log_mel().filter(|_| self.single_input.is_some()) else {
            return Ok(vec![record]);
        };
        if record.audios.len() != 1 {
            return Ok(vec![record]);
        }
        let mut records = Vec::new();
        for audio in record.audios.drain(..) {
            let part = |audio| Record { audios: vec![audio], ..Record::default() };
            records.extend(mel.windows(audio)?.into_iter().map(part));
        }
        Ok(records)
    }

    /// Returns the clip length in seconds, if the model takes log-mel spectrograms.
    pub(crate) fn clip_seconds(&self) -> Option<f64> {
        self.log_mel().map(LogMel::max_seconds)
    }

    fn log_mel(&self) -> Option<&LogMel> {
        self.sound.as_ref().and_then(SoundInput::log_mel)
    }

    /// Converts a record to a sample: token ids with placeholders, pixel values, input features.
    /// Models that do not read text, such as captioners and transcribers, get only the image or
    /// audio, and the record's text is ignored. Document models get one image and a text that names
    /// the task.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]: the row is rejected, other rows continue.
    pub fn prepare(&self, record: &Record) -> Result<Sample, ProcessError> {
        if let Some(modality) = self.single_input {
            let is_image = modality == "image";
            let actual = if is_image { record.images.len() } else { record.audios.len() };
            if actual != 1 {
                return Err(ProcessError::MediaCount { modality, actual });
            }
        }
        let (pixel_values, image_layouts) = self.pixel_values(&record.images)?;
        let audio = self.sounds(&record.audios)?;
        let mut subject = None;
        let mut token_ids = match (&self.text, self.prompt_text) {
            (TextInput::Sentence(text), _) => text.token_ids(record)?,
            (TextInput::Prompt(_), PromptText::Unread) => Vec::new(),
            (TextInput::Prompt(text), PromptText::NamedTask) if let Some(tasks) = &self.tasks => {
                let (question, task) = tasks.question(record)?;
                let image = record.images.first();
                let image_size = image.map_or([0; 2], |image| [image.width, image.height]);
                subject = Some(Arc::new(Subject { task, image_size }));
                text.marked_ids(&question)?
            }
            (TextInput::Prompt(text), PromptText::Continuation)
                if let Some(first_id) = self.first_token_id =>
            {
                text.continued_ids(record, first_id)?
            }
            (TextInput::Prompt(text), _) => text.token_ids(record, &image_layouts, &audio.clips)?,
        };
        if let Some(language) = &self.language {
            // Only the tokenizer inserts this token: its name within a text is plain text.
            for id in token_ids.iter_mut().filter(|id| language.all.contains(id)) {
                *id = language.id;
            }
        }
        Ok(Sample {
            token_ids,
            pixel_values,
            image_layouts,
            input_features: audio.features,
            sound_frames: audio.frames,
            is_single: false,
            subject,
        })
    }

    /// Returns the predefined tasks of the model, if it has any.
    pub(crate) fn tasks(&self) -> Option<Arc<Tasks>> {
        self.tasks.clone()
    }

    /// Returns the prompt rendered by the chat template, with one placeholder per image and audio
    /// input. For an embedding model, returns the text itself.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Template`] if the template raises an error.
    pub fn prompt_text(&self, record: &Record) -> Result<String, ProcessError> {
        match &self.text {
            TextInput::Prompt(text) => text.prompt_text(record),
            TextInput::Sentence(_) => Ok(record.text.clone().unwrap_or_default()),
        }
    }

    /// Returns the peak memory in bytes of preprocessing an image of this size, in addition to its
    /// own pixels. Small images may become many tiles.
    #[must_use]
    pub fn image_bytes(&self, width: usize, height: usize) -> usize {
        self.image.as_ref().map_or(0, |image| image.bytes(width, height))
    }

    /// Returns the peak memory in bytes of preprocessing audio of `n_samples`, in addition to the
    /// samples: the resampled audio, and its windows, which overlap by half as much.
    #[must_use]
    pub fn audio_bytes(&self, n_samples: usize, sample_rate_hz: u32) -> u64 {
        /// A clip of 30 s: its samples, the padded copy, 128 bands of 3000 frames, and their
        /// transposed copy.
        const CLIP_BYTES: u64 = 8 << 20;
        let n_samples = n_samples as u64;
        let rate_hz = u64::from(sample_rate_hz.max(1));
        let own_hz = self.sound.as_ref().map_or(48_000, SoundInput::sample_rate_hz);
        let own_hz = u64::from(own_hz);
        let copies = if rate_hz == own_hz { 3 } else { 5 };
        let resampled = n_samples.saturating_mul(own_hz).div_ceil(rate_hz);
        let half = size_of::<f32>() as u64 / 2;
        resampled.saturating_mul(half * copies).saturating_add(CLIP_BYTES)
    }

    /// Returns the detokenizer; `None` for an embedding model.
    pub(crate) fn text(&self) -> Option<Arc<TextProcessor>> {
        match &self.text {
            TextInput::Prompt(text) => Some(Arc::clone(text)),
            TextInput::Sentence(_) => None,
        }
    }

    /// Returns the padding token of a batch of texts.
    pub(crate) fn pad_id(&self) -> i64 {
        match &self.text {
            TextInput::Prompt(_) => 0,
            TextInput::Sentence(text) => text.pad_id(),
        }
    }

    /// Stacks the images of a record and returns their layouts; empty without images.
    fn pixel_values(
        &self,
        images: &[RgbImage],
    ) -> Result<(Option<Tensor<f32>>, Vec<ImageLayout>), ProcessError> {
        if images.is_empty() {
            return Ok((None, Vec::new()));
        }
        let Some(processor) = &self.image else {
            return Err(ProcessError::Modality { modality: "image" });
        };
        let mut layouts = Vec::with_capacity(images.len());
        let mut inner: Option<Vec<usize>> = None;
        let mut n_rows = 0;
        let mut values = Vec::new();
        for image in images {
            let pixels = processor.pixels(image)?;
            let shape = pixels.values.shape();
            // With only `shortest_edge`, images of one row may differ in size.
            if inner.get_or_insert_with(|| shape[1..].to_vec())[..] != shape[1..] {
                return Err(ProcessError::ImageSizesDiffer);
            }
            n_rows += pixels.values.rows();
            values.extend(pixels.values.into_data());
            layouts.push(pixels.layout);
        }
        let shape = [vec![n_rows], inner.unwrap_or_default()].concat();
        Ok((Some(Tensor::new(shape, values)?), layouts))
    }

    /// Stacks the audio features of a record and returns the clips of each input; empty without
    /// audio.
    fn sounds(&self, audios: &[Waveform]) -> Result<Sounds, ProcessError> {
        let one = || match audios {
            [audio] => Ok(audio),
            _ => Err(ProcessError::MediaCount { modality: "audio", actual: audios.len() }),
        };
        let single = |features| Ok(Sounds { features: Some(features), ..Sounds::default() });
        match &self.sound {
            _ if audios.is_empty() => Ok(Sounds::default()),
            None => Err(ProcessError::Modality { modality: "audio" }),
            Some(SoundInput::Samples(samples)) => single(samples.input_values(one()?)?),
            Some(SoundInput::RepeatedMel(mel)) => single(mel.input_features(one()?)?),
            Some(SoundInput::Frames(mel)) => {
                let FrameFeatures { values, n_frames } = mel.input_features(audios)?;
                let clips =
                    n_frames.iter().map(|n_frames| Clips { n_clips: 1, n_frames: *n_frames });
                let clips = clips.collect();
                Ok(Sounds { features: Some(values), frames: n_frames, clips })
            }
            Some(SoundInput::LogMel(mel)) => {
                let features = audios.iter().map(|audio| mel.input_features(audio));
                let features: Vec<Tensor<f32>> = features.collect::<Result<_, _>>()?;
                if features.windows(2).any(|pair| pair[0].shape()[1..] != pair[1].shape()[1..]) {
                    return Err(ProcessError::AudioLengthsDiffer);
                }
                let clips = |features: &Tensor<f32>| Clips {
                    n_clips: features.rows(),
                    n_frames: features.shape().last().copied().unwrap_or(0),
                };
                let clips = features.iter().map(clips).collect();
                let features = Tensor::concat(&features.iter().collect::<Vec<_>>())?;
                Ok(Sounds { features: Some(features), frames: Vec::new(), clips })
            }
        }
    }
}

/// Returns the handling of the audio length.
fn sound_length(bundle: &Bundle) -> SoundLength {
    let spec = bundle.arch.audio.as_ref();
    spec.map_or(SoundLength::OneClip, |spec| (spec.length)(&bundle.config))
}

/// Opens the image processor of a bundle, which must have the layout that its prompts require.
fn image_processor(
    config: &ImageProcessorConfig,
    bundle: &Bundle,
) -> Result<ImageProcessor, BundleError> {
    let processor = ImageProcessor::open(config)?;
    match &bundle.arch.image {
        Some(spec) if spec.layout != processor.layout() => {
            let supported = format!("the class of {}", bundle.architecture());
            Err(config.origin.unsupported("image_processor_type", config.class(), supported))
        }
        _ => Ok(processor),
    }
}
