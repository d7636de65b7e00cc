//! A model directory, opened: which files it has, which architecture it is, what it can do.
//!
//! A bundle is a directory as published on the Hugging Face Hub, graphs in `onnx/` (the layout of
//! transformers.js and optimum). The files are read as they are. Nothing here runs a graph.

use legenda_schemas::{job::TaskKind, precision::PrecisionChoice};

use super::{
    BundleFiles, DecoderStart, EmbeddingConfig, SpeechOptions, StartConfig, embedded,
    encoder_decoder, genai::GenaiConfig, graphs::decoder_graph, multimodal, start,
};
use crate::{
    arch::{AnswerFormat, Architecture, Declaration, PromptText, Wiring, find, supported_models},
    config::{BundleError, GenerationConfig, ModelConfig, ProcessorConfig},
};

/// What may be in a record for this model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modalities {
    /// Text; every model so far reads it.
    pub text: bool,
    /// Images.
    pub image: bool,
    /// Audio.
    pub audio: bool,
}

/// An opened bundle. Cheap to clone parts of; graphs are read when a [`Model`](crate::Model) loads.
#[derive(Debug)]
pub struct Bundle {
    name: String,
    revision: String,
    /// The name that its config declares.
    architecture: String,
    pub(crate) arch: &'static Architecture,
    /// The base name of the decoder's graph.
    pub(crate) decoder_graph: &'static str,
    pub(crate) files: BundleFiles,
    pub(crate) config: ModelConfig,
    pub(crate) generation: GenerationConfig,
    pub(crate) processor: ProcessorConfig,
    /// How answers of an encoder-decoder begin.
    pub(crate) start: StartConfig,
    /// How embeddings are made; `None` if the model writes text.
    pub(crate) embedding: Option<EmbeddingConfig>,
}

impl Bundle {
    /// The name of the embedded bundle.
    pub(crate) const EMBEDDED_NAME: &'static str = "legenda-tiny";

    /// Opens the bundle inside this program.
    pub(crate) fn embedded(precision: PrecisionChoice) -> Result<Self, BundleError> {
        Self::from_files(Self::EMBEDDED_NAME.to_owned(), embedded::files(precision), None)
    }

    /// Opens a bundle of files. With the `commit` of a repository that is its revision, else files
    /// are hashed.
    pub(crate) fn from_files(
        name: String,
        mut files: BundleFiles,
        commit: Option<&str>,
    ) -> Result<Self, BundleError> {
        let genai = GenaiConfig::read(&files)?;
        if let Some(genai) = &genai {
            genai.name_graphs(&mut files)?;
        }
        let declaration = match &genai {
            Some(genai) => genai.declaration(),
            None => files.json::<Declaration>("config.json")?,
        };
        let architecture = declaration.name().to_owned();
        // Which keys a config has depends on the architecture: that is looked at first.
        let arch = find(&declaration);
        if genai.is_none()
            && let Some(embedding) = EmbeddingConfig::read(&files, &architecture, arch.is_some())?
        {
            return Self::of_embeddings(name, architecture, files, embedding, commit);
        }
        let Some(arch) = arch else {
            let supported = supported_models();
            return Err(BundleError::UnsupportedArchitecture { architecture, supported });
        };
        let mut fixed_end = None;
        let (mut config, start) = match arch.wiring {
            Wiring::EncoderDecoder(spec) => {
                let config = match &genai {
                    Some(genai) => genai.speech_config(&files)?,
                    None => files.json("config.json")?,
                };
                let sizes = encoder_decoder::model_config(spec, &config).map_err(|error| {
                    let (file, message) = ("config.json".to_owned(), error.to_string());
                    not_a_decoder(&architecture, BundleError::InvalidJson { file, message })
                })?;
                fixed_end = spec.fixed_end.map(|end| end(&config));
                (sizes, StartConfig::read(&files, &config)?)
            }
            _ => {
                let config = match &genai {
                    Some(genai) => genai.decoder_config(&files)?,
                    None => files.json("config.json").map_err(|error| match arch.wiring {
                        Wiring::Causal => not_a_decoder(&architecture, error),
                        _ => error,
                    })?,
                };
                (config, StartConfig::default())
            }
        };
        let search = genai.as_ref().map(|genai| genai.search.clone());
        let mut generation: GenerationConfig =
            match files.json_if_there("generation_config.json")?.or(search) {
                Some(generation) => generation,
                // Older models have these keys in `config.json`, where transformers reads them too.
                None => files.json("config.json")?,
            };
        generation.check()?;
        if let Some(genai) = &genai {
            generation.suppress_tokens.get_or_insert_default().extend(genai.marks(&config));
        }
        if fixed_end.is_some() {
            (generation.eos_token_id, config.eos_token_id) = (fixed_end, None);
        }
        let processor = match arch.wiring {
            Wiring::EncoderDecoder(spec) => {
                encoder_decoder::processor_config(arch, spec.input, &files)?
            }
            Wiring::Multimodal => match &genai {
                Some(genai) => genai.processor_config(&files)?,
                None => multimodal::processor_config(&files)?,
            },
            Wiring::Causal | Wiring::Embedding(_) => {
                files.json_if_there("processor_config.json")?.unwrap_or_default()
            }
        };
        let decoder_graph = decoder_graph(&files, arch.wiring)?;
        let mut bundle = Self {
            name,
            revision: String::new(),
            architecture,
            arch,
            decoder_graph,
            files,
            config,
            generation,
            processor,
            start,
            embedding: None,
        };
        bundle.check_graphs()?;
        bundle.revise(commit)?;
        Ok(bundle)
    }

    /// Sets the revision. A repository's commit names its files; which of its graphs are run is the
    /// rest.
    fn revise(&mut self, commit: Option<&str>) -> Result<(), BundleError> {
        self.revision = match commit {
            Some(commit) => format!("{commit}:{}", self.precision()?),
            None => {
                let graphs = self.graphs()?;
                let graphs: Vec<&str> = graphs.iter().map(|graph| graph.file.as_str()).collect();
                self.files.digest(&graphs)?
            }
        };
        Ok(())
    }

    /// Opens a bundle that makes embeddings: it has nothing of a decoder.
    fn of_embeddings(
        name: String,
        architecture: String,
        files: BundleFiles,
        embedding: EmbeddingConfig,
        commit: Option<&str>,
    ) -> Result<Self, BundleError> {
        let image_processor = embedding.image_processor.clone();
        let feature_extractor = embedding.sound.clone();
        let mut bundle = Self {
            name,
            revision: String::new(),
            architecture,
            arch: embedding.arch,
            decoder_graph: "",
            files,
            config: ModelConfig::default(),
            generation: GenerationConfig::default(),
            processor: ProcessorConfig {
                image_processor,
                feature_extractor,
                ..ProcessorConfig::default()
            },
            start: StartConfig::default(),
            embedding: Some(embedding),
        };
        bundle.check_graphs()?;
        bundle.revise(commit)?;
        Ok(bundle)
    }

    /// Returns the directory's name, the repository's, or `legenda-tiny`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the SHA-256 of every file that has a part in an answer, in lower-case hex; of a bundle
    /// of the Hub its commit and the precision, such as `5f0c…:fp16`.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the architecture named in `config.json`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns how its graphs are wired, in a word.
    #[must_use]
    pub fn wiring(&self) -> &'static str {
        self.arch.wiring.as_str()
    }

    /// Returns whether a record's text is what its answer begins with, in tokens of the model's own
    /// that name the task.
    #[must_use]
    pub fn is_prompted(&self) -> bool {
        self.arch.prompt.text == PromptText::TaskTokens
    }

    /// Returns the prompt of a job that gives none, where the model has words of its own for its task.
    #[must_use]
    pub fn default_prompt(&self, task: TaskKind) -> Option<&'static str> {
        self.arch.prompt.caption.filter(|_| task == TaskKind::Caption)
    }

    /// Returns what may be in a record.
    #[must_use]
    pub fn modalities(&self) -> Modalities {
        if let Some(embedding) = &self.embedding {
            return embedding.modalities;
        }
        let text = self.arch.prompt.text != PromptText::Unread;
        if let Some(spec) = self.arch.seq2seq() {
            let modality = spec.input.modality();
            let [image, audio] = ["image", "audio"].map(|one| modality == Some(one));
            return Modalities { text, image, audio };
        }
        let (config, processor) = (&self.config, &self.processor);
        let has_image = config.image_token_id.is_some() && processor.image_processor.is_some();
        let has_audio = config.audio_token_id.is_some() && processor.feature_extractor.is_some();
        Modalities {
            text,
            image: self.arch.image.is_some() && has_image,
            audio: self.arch.audio.is_some() && has_audio,
        }
    }

    /// Returns the most tokens a row can have, prompt and answer together.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.config.text.max_position_embeddings
    }

    /// Returns whether positions are relative, so that there may be more tokens than
    /// [`context_tokens`](Self::context_tokens).
    pub(crate) fn is_relative(&self) -> bool {
        self.config.encoder.is_relative
    }

    /// Returns how many entries of the encoder's mask the decoder takes for one position.
    pub(crate) fn mask_stride(&self) -> usize {
        self.arch.seq2seq().map_or(1, |spec| spec.mask_stride)
    }

    /// Returns what the decoder of an encoder-decoder begins an answer with.
    pub(crate) fn decoder_start(
        &self,
        speech: &SpeechOptions,
    ) -> Result<DecoderStart, BundleError> {
        match self.arch.seq2seq() {
            Some(spec) => self.start.decoder_start(spec.start, speech, &self.files),
            None => start::refuse_speech_options(speech).map(|()| DecoderStart::default()),
        }
    }

    /// Returns the first token of timestamps, which are all behind it; beyond every token if the
    /// vocabulary has none.
    pub(crate) fn first_timestamp_id(&self) -> i64 {
        self.start.no_timestamps_id().map_or(i64::MAX, |id| id + 1)
    }

    /// Says whether the model can write down speech in such a way.
    ///
    /// # Errors
    ///
    /// [`BundleError::TaskOption`] names the key of the job file and what the model can.
    pub fn supports_speech(&self, speech: &SpeechOptions) -> Result<(), BundleError> {
        self.decoder_start(speech).map(drop)
    }

    /// Returns what the prompt `name`, or the bundle's default one, puts before a text to embed.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnknownPrompt`] if the bundle has no prompt of that name.
    pub fn embedding_prompt(&self, name: Option<&str>) -> Result<Option<&str>, BundleError> {
        match (&self.embedding, name) {
            (Some(embedding), _) => embedding.prompt(name),
            (None, None) => Ok(None),
            (None, Some(name)) => {
                Err(BundleError::UnknownPrompt { name: name.to_owned(), names: "none".to_owned() })
            }
        }
    }

    /// Returns how the bundle makes embeddings.
    pub(crate) fn embedding(&self) -> Result<&EmbeddingConfig, BundleError> {
        self.embedding.as_ref().ok_or_else(|| BundleError::TaskKind {
            bundle: self.name.clone(),
            task: TaskKind::Embed.as_str(),
            does: "texts",
        })
    }

    /// Describes that the bundle makes embeddings instead of what a task asks for.
    pub(crate) fn no_generation(&self, task: &'static str) -> BundleError {
        BundleError::TaskKind { bundle: self.name.clone(), task, does: "embeddings" }
    }

    /// Says whether the model can do a task.
    ///
    /// # Errors
    ///
    /// [`BundleError::TaskNeeds`] names the modality that is missing, and
    /// [`BundleError::TaskKind`] what the model does instead.
    pub fn supports(&self, task: TaskKind) -> Result<(), BundleError> {
        if task == TaskKind::Embed {
            // Which of text and image is embedded is the job's choice.
            return self.embedding().map(drop);
        }
        if self.embedding.is_some() {
            return Err(self.no_generation(task.as_str()));
        }
        // A caption that goes on with a text answers nothing.
        if self.arch.answer == AnswerFormat::Continuation && task != TaskKind::Caption {
            let (bundle, task) = (self.name.clone(), task.as_str());
            return Err(BundleError::TaskKind { bundle, task, does: "captions" });
        }
        let modalities = self.modalities();
        let (has, needs) = match task {
            TaskKind::Caption => (modalities.image, "image"),
            TaskKind::Transcribe => (modalities.audio, "audio"),
            TaskKind::Answer | TaskKind::Generate | TaskKind::Embed => (modalities.text, "text"),
        };
        if has {
            Ok(())
        } else {
            Err(BundleError::TaskNeeds {
                bundle: self.name.clone(),
                task: task.as_str(),
                modality: needs,
            })
        }
    }
}

/// A model without layers and heads, such as a state-space model, is no decoder of ours though its
/// name says so: that is told with the architecture.
fn not_a_decoder(architecture: &str, error: BundleError) -> BundleError {
    match error {
        BundleError::InvalidJson { message, .. } => BundleError::UnsupportedArchitecture {
            architecture: architecture.to_owned(),
            supported: format!(
                "{}, with the sizes of their layers in `config.json`: {message}",
                supported_models()
            ),
        },
        other => other,
    }
}
