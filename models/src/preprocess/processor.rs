//! A record turned into what the model reads, exactly as the bundle's processor configs say.
//!
//! Pure work on host memory, shared by any number of threads. Decoding media bytes is the
//! pipeline's; running encoders is `exec`'s.

use std::{fmt, sync::Arc};

use super::{
    FrameFeatures, FrameMel, Hearing, HearingRules, ImageLayout, ImageProcessor, LogMel,
    ProcessError, RawSamples, Record, RepeatedMel, RgbImage, Sample, SentenceProcessor, Tasks,
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
    /// The modality of which every row has exactly one, for an encoder that takes nothing else.
    single_input: Option<&'static str>,
    /// The language that texts are said to be in.
    language: Option<SourceLanguage>,
    /// What a record's text is for the model.
    prompt_text: PromptText,
    /// The token that answers begin with.
    first_token_id: Option<i64>,
    /// How sounds are heard window by window, if they are.
    hearing: Option<Arc<HearingRules>>,
    /// What the model may be asked to do, where it has words of its own for that.
    tasks: Option<Arc<Tasks>>,
}

/// How a text becomes token ids.
enum TextInput {
    /// As a prompt, for a decoder.
    Prompt(Arc<TextProcessor>),
    /// As it is, for an embedding.
    Sentence(Box<SentenceProcessor>),
}

/// How sounds become what the model hears.
#[derive(Debug)]
enum SoundInput {
    /// Whisper's, Ultravox's, Voxtral's.
    LogMel(LogMel),
    /// As they are.
    Samples(RawSamples),
    /// CLAP's.
    RepeatedMel(RepeatedMel),
    /// Gemma 3n's and Phi-4-multimodal's.
    Frames(FrameMel),
}

impl SoundInput {
    fn open(config: &SoundConfig, bundle: &Bundle) -> Result<Self, BundleError> {
        let spec = bundle.arch.audio.as_ref();
        let fits = spec.is_none_or(|spec| spec.features == config.features());
        if !fits {
            return Err(BundleError::UnsupportedOption {
                file: "preprocessor_config.json",
                key: "feature_extractor_type".to_owned(),
                value: config.class().to_owned(),
                supported: format!("that of {}", bundle.architecture()),
            });
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

    /// Returns the extractor of log-mel spectrograms, if it is that.
    fn log_mel(&self) -> Option<&LogMel> {
        match self {
            Self::LogMel(mel) => Some(mel),
            _ => None,
        }
    }

    /// Returns the samples per second that are heard; of those that have no say in memory the most.
    fn sample_rate_hz(&self) -> u32 {
        match self {
            Self::LogMel(mel) => mel.sample_rate_hz(),
            Self::Frames(mel) => mel.sample_rate_hz(),
            Self::Samples(_) | Self::RepeatedMel(_) => 48_000,
        }
    }
}

/// What a model hears of a record.
#[derive(Debug, Default)]
struct Sounds {
    /// `input_features` of a [`Sample`].
    features: Option<Tensor<f32>>,
    /// `sound_frames` of a [`Sample`].
    frames: Vec<usize>,
    /// Of which clips each sound consists, where it has places in a prompt.
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

impl Processor {
    /// Reads the processor configs, the tokenizer and the chat template of a bundle.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if a file is missing or asks for something that is not supported.
    pub fn open(bundle: &Bundle) -> Result<Self, BundleError> {
        let modalities = bundle.modalities();
        let config = &bundle.processor;
        let image = config.image_processor.as_ref().filter(|_| modalities.image);
        let sound = config.feature_extractor.as_ref().filter(|_| modalities.audio);
        let located = |error: BundleError| error.in_processor_files(&bundle.files);
        let image = match image {
            Some(config) => Some(image_processor(config, bundle).map_err(located)?),
            None => None,
        };
        Ok(Self {
            text: match &bundle.embedding {
                None => TextInput::Prompt(Arc::new(TextProcessor::open(bundle)?)),
                Some(embedding) => {
                    let text = SentenceProcessor::open(bundle, &embedding.text)?;
                    TextInput::Sentence(Box::new(text))
                }
            },
            image,
            sound: sound
                .map(|config| SoundInput::open(config, bundle))
                .transpose()
                .map_err(located)?,
            single_input: bundle.arch.seq2seq().and_then(|spec| spec.input.modality()),
            language: None,
            prompt_text: bundle.arch.prompt.text,
            first_token_id: bundle.start.first_token_id(),
            hearing: None,
            tasks: config.tasks.as_ref().map(|config| Arc::new(Tasks::new(config))),
        })
    }

    /// Sets the language of texts, in the place of what their tokenizer says.
    pub(crate) fn of_language(self, language: Option<SourceLanguage>) -> Self {
        Self { language, ..self }
    }

    /// Makes sounds be heard window by window, each where the one before ended.
    pub(crate) fn hearing(self, rules: Option<HearingRules>) -> Self {
        Self { hearing: rules.map(Arc::new), ..self }
    }

    /// Returns whether sounds are heard window by window: such a row goes to [`hear`](Self::hear), not
    /// to [`split`](Self::split) and [`prepare`](Self::prepare).
    #[must_use]
    pub fn hears_sequentially(&self) -> bool {
        self.hearing.is_some()
    }

    /// Begins to hear a record's sound, window by window; `None` where sounds are not heard so.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]; the row is rejected, other rows go on.
    pub fn hear(&self, record: &Record) -> Result<Option<Hearing>, ProcessError> {
        let (Some(rules), Some(SoundInput::LogMel(mel)), TextInput::Prompt(text)) =
            (&self.hearing, &self.sound, &self.text)
        else {
            return Ok(None);
        };
        let [sound] = record.audios.as_slice() else {
            let actual = record.audios.len();
            return Err(ProcessError::MediaCount { modality: "audio", actual });
        };
        let features = mel.whole_features(sound)?;
        let (rules, text) = (Arc::clone(rules), Arc::clone(text));
        Ok(Some(Hearing::new(rules, text, features, mel.clip_frames())))
    }

    /// Cuts a record whose sound is longer than the model hears into records of parts of it that
    /// overlap; [`Engine::join`](crate::Engine::join) joins their answers. Others stay whole, also
    /// where a sound that is too long will be refused.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]; the row is rejected, other rows go on.
    pub fn split(&self, mut record: Record) -> Result<Vec<Record>, ProcessError> {
        // A model that reads text as well is asked about the whole.
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

    /// Returns the seconds that a model hears at a time, if it hears log-mel spectrograms.
    pub(crate) fn clip_seconds(&self) -> Option<f64> {
        self.log_mel().map(LogMel::max_seconds)
    }

    fn log_mel(&self) -> Option<&LogMel> {
        self.sound.as_ref().and_then(SoundInput::log_mel)
    }

    /// Turns a record into a sample: token ids with placeholders, pixel values, input features. A
    /// model that reads no text, such as a captioner or a transcriber, is given the one image or
    /// sound alone, whatever the record's text says. A reader of documents is given one image, and a
    /// text that names its task.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]; the row is rejected, other rows go on.
    pub fn prepare(&self, record: &Record) -> Result<Sample, ProcessError> {
        if let Some(modality) = self.single_input {
            let is_image = modality == "image";
            let actual = if is_image { record.images.len() } else { record.audios.len() };
            if actual != 1 {
                return Err(ProcessError::MediaCount { modality, actual });
            }
        }
        let (pixel_values, image_layouts) = self.pixel_values(&record.images)?;
        let sounds = self.sounds(&record.audios)?;
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
            (TextInput::Prompt(text), _) => {
                text.token_ids(record, &image_layouts, &sounds.clips)?
            }
        };
        if let Some(language) = &self.language {
            // Only the tokenizer writes such a token: in a text its name is plain text.
            for id in token_ids.iter_mut().filter(|id| language.all.contains(id)) {
                *id = language.id;
            }
        }
        Ok(Sample {
            token_ids,
            pixel_values,
            image_layouts,
            input_features: sounds.features,
            sound_frames: sounds.frames,
            is_single: false,
            subject,
        })
    }

    /// Returns what the model may be asked to do, where it has words of its own for that.
    pub(crate) fn tasks(&self) -> Option<Arc<Tasks>> {
        self.tasks.clone()
    }

    /// Returns the prompt as the chat template renders it, one placeholder per image and sound; of a
    /// model that makes embeddings, the text itself.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Template`] if the template refuses the record.
    pub fn prompt_text(&self, record: &Record) -> Result<String, ProcessError> {
        match &self.text {
            TextInput::Prompt(text) => text.prompt_text(record),
            TextInput::Sentence(_) => Ok(record.text.clone().unwrap_or_default()),
        }
    }

    /// Returns the most bytes that an image of this size takes while it is prepared, beside its own
    /// pixels: small pictures may become many tiles.
    #[must_use]
    pub fn image_bytes(&self, width: usize, height: usize) -> usize {
        self.image.as_ref().map_or(0, |image| image.bytes(width, height))
    }

    /// Returns the most bytes that are held at once while a sound of `n_samples` is processed, beside the
    /// sound itself: what is resampled, and its windows, which overlap by half as much.
    #[must_use]
    pub fn audio_bytes(&self, n_samples: usize, sample_rate_hz: u32) -> u64 {
        /// A clip of 30 s as samples, padded, and as 128 bands of 3000 frames, laid out once more.
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

    /// Returns what turns generated ids back into text; `None` of a model that makes embeddings.
    pub(crate) fn text(&self) -> Option<Arc<TextProcessor>> {
        match &self.text {
            TextInput::Prompt(text) => Some(Arc::clone(text)),
            TextInput::Sentence(_) => None,
        }
    }

    /// Returns the token that fills short texts of a batch.
    pub(crate) fn pad_id(&self) -> i64 {
        match &self.text {
            TextInput::Prompt(_) => 0,
            TextInput::Sentence(text) => text.pad_id(),
        }
    }

    /// Stacks the images of a record and says how each is laid out; nothing without an image.
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
            // With `shortest_edge` alone, images of one row may differ in size.
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

    /// Stacks the sounds of a record, or what its model hears of one, and says of which clips each
    /// consists; nothing without a sound.
    fn sounds(&self, audios: &[Waveform]) -> Result<Sounds, ProcessError> {
        let one = || match audios {
            [audio] => Ok(audio),
            _ => Err(ProcessError::MediaCount { modality: "audio", actual: audios.len() }),
        };
        let of_one = |features| Ok(Sounds { features: Some(features), ..Sounds::default() });
        match &self.sound {
            _ if audios.is_empty() => Ok(Sounds::default()),
            None => Err(ProcessError::Modality { modality: "audio" }),
            Some(SoundInput::Samples(samples)) => of_one(samples.input_values(one()?)?),
            Some(SoundInput::RepeatedMel(mel)) => of_one(mel.input_features(one()?)?),
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

/// Returns how much a model hears of a sound.
fn sound_length(bundle: &Bundle) -> SoundLength {
    let spec = bundle.arch.audio.as_ref();
    spec.map_or(SoundLength::OneClip, |spec| (spec.length)(&bundle.config))
}

/// Opens the image processor of a bundle, which must be of the kind that its prompts are made for.
fn image_processor(
    config: &ImageProcessorConfig,
    bundle: &Bundle,
) -> Result<ImageProcessor, BundleError> {
    let processor = ImageProcessor::open(config)?;
    match &bundle.arch.image {
        Some(spec) if spec.layout != processor.layout() => Err(BundleError::UnsupportedOption {
            file: "processor_config.json",
            key: "image_processor.image_processor_type".to_owned(),
            value: config.class().to_owned(),
            supported: format!("that of {}", bundle.architecture()),
        }),
        _ => Ok(processor),
    }
}
