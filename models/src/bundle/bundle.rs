//! An opened model directory: its files, its architecture and its capabilities.
//!
//! A bundle is a directory as published on the Hugging Face Hub, with its graphs in `onnx/` (the
//! layout of transformers.js and optimum). The files are read without conversion. This module does
//! not run graphs.

use legenda_schemas::{cause::chain, job::TaskKind, precision::PrecisionChoice};

use super::{
    BundleFiles, DecoderStart, EmbeddingConfig, SpeechOptions, StartConfig, embedded,
    encoder_decoder, genai::GenaiConfig, graphs::decoder_graph, multimodal, start,
};
use crate::{
    arch::{AnswerFormat, Architecture, Declaration, PromptText, Wiring, find, supported_models},
    config::{BundleError, GenerationConfig, ModelConfig, ProcessorConfig},
};

/// The input modalities of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modalities {
    /// Text. All supported models read it.
    pub text: bool,
    /// Images.
    pub image: bool,
    /// Audio.
    pub audio: bool,
}

/// An opened bundle. Its parts are cheap to clone; graphs are read when a [`Model`](crate::Model)
/// is loaded.
#[derive(Debug)]
pub struct Bundle {
    name: String,
    revision: String,
    /// The architecture that the config declares.
    architecture: String,
    pub(crate) arch: &'static Architecture,
    /// The base name of the decoder graph.
    pub(crate) decoder_graph: &'static str,
    pub(crate) files: BundleFiles,
    pub(crate) config: ModelConfig,
    pub(crate) generation: GenerationConfig,
    pub(crate) processor: ProcessorConfig,
    /// The decoder start config of an encoder-decoder.
    pub(crate) start: StartConfig,
    /// The embedding config; `None` for generative models.
    pub(crate) embedding: Option<EmbeddingConfig>,
}

impl Bundle {
    /// The name of the embedded bundle.
    pub(crate) const EMBEDDED_NAME: &'static str = "legenda-tiny";

    /// Opens the bundle inside this program.
    pub(crate) fn embedded(precision: PrecisionChoice) -> Result<Self, BundleError> {
        Self::from_files(Self::EMBEDDED_NAME.to_owned(), embedded::files(precision), None)
    }

    /// Opens a bundle from files. The `commit` of a repository is its revision; otherwise the files
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
        // The keys of a config depend on the architecture, so that is determined first.
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
                    let (file, source) = ("config.json".to_owned(), error.into());
                    not_a_decoder(&architecture, BundleError::InvalidJson { file, source })
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

    /// Sets the revision. A repository's commit identifies its files; the rest of the revision
    /// identifies the graphs in use.
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

    /// Opens an embedding bundle, which has no decoder.
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

    /// Returns the name of the directory or of the repository, or `legenda-tiny`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the revision: the SHA-256 of all files that affect answers in lower-case hex; for a
    /// Hub bundle its commit and precision, such as `5f0c…:fp16`.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the architecture named in `config.json`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns the name of the wiring.
    #[must_use]
    pub fn wiring(&self) -> &'static str {
        self.arch.wiring.as_str()
    }

    /// Returns whether the text of a record is a prefix of the answer, made of task tokens.
    #[must_use]
    pub fn is_prompted(&self) -> bool {
        self.arch.prompt.text == PromptText::TaskTokens
    }

    /// Returns the default prompt of the model for a `caption` task, if it has one.
    #[must_use]
    pub fn default_prompt(&self, task: TaskKind) -> Option<&'static str> {
        self.arch.prompt.caption.filter(|_| task == TaskKind::Caption)
    }

    /// Returns the input modalities.
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

    /// Returns the maximum number of tokens of a row, prompt and answer together.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.config.text.max_position_embeddings
    }

    /// Returns whether positions are relative, so that a row may exceed
    /// [`context_tokens`](Self::context_tokens).
    pub(crate) fn is_relative(&self) -> bool {
        self.config.encoder.is_relative
    }

    /// Returns the number of encoder mask entries per position of the decoder's cross-attention.
    pub(crate) fn mask_stride(&self) -> usize {
        self.arch.seq2seq().map_or(1, |spec| spec.mask_stride)
    }

    /// Returns the decoder start tokens of an encoder-decoder.
    pub(crate) fn decoder_start(
        &self,
        speech: &SpeechOptions,
    ) -> Result<DecoderStart, BundleError> {
        match self.arch.seq2seq() {
            Some(spec) => self.start.decoder_start(spec.start, speech, &self.files),
            None => start::refuse_speech_options(speech).map(|()| DecoderStart::default()),
        }
    }

    /// Returns the id of the first timestamp; all later ids are timestamps. If the vocabulary has
    /// none, the id is beyond every token.
    pub(crate) fn first_timestamp_id(&self) -> i64 {
        self.start.no_timestamps_id().map_or(i64::MAX, |id| id + 1)
    }

    /// Checks that the model supports the speech options.
    ///
    /// # Errors
    ///
    /// [`BundleError::TaskOption`] names the key of the job file and the supported values.
    pub fn supports_speech(&self, speech: &SpeechOptions) -> Result<(), BundleError> {
        self.decoder_start(speech).map(drop)
    }

    /// Returns the text that the prompt `name`, or the bundle's default prompt, prepends to a text
    /// to embed.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnknownPrompt`] if the bundle does not have a prompt of that name.
    pub fn embedding_prompt(&self, name: Option<&str>) -> Result<Option<&str>, BundleError> {
        match (&self.embedding, name) {
            (Some(embedding), _) => embedding.prompt(name),
            (None, None) => Ok(None),
            (None, Some(name)) => {
                Err(BundleError::UnknownPrompt { name: name.to_owned(), names: "none".to_owned() })
            }
        }
    }

    /// Returns the embedding config.
    pub(crate) fn embedding(&self) -> Result<&EmbeddingConfig, BundleError> {
        self.embedding.as_ref().ok_or_else(|| BundleError::TaskKind {
            bundle: self.name.clone(),
            task: TaskKind::Embed.as_str(),
            does: "texts",
        })
    }

    /// Returns the error for a generative task on an embedding model.
    pub(crate) fn no_generation(&self, task: &'static str) -> BundleError {
        BundleError::TaskKind { bundle: self.name.clone(), task, does: "embeddings" }
    }

    /// Checks that the model supports a task.
    ///
    /// # Errors
    ///
    /// [`BundleError::TaskNeeds`] names the missing modality, and [`BundleError::TaskKind`] the
    /// kind of output that the model generates.
    pub fn supports(&self, task: TaskKind) -> Result<(), BundleError> {
        if task == TaskKind::Embed {
            // The job chooses whether to embed text, images or audio.
            return self.embedding().map(drop);
        }
        if self.embedding.is_some() {
            return Err(self.no_generation(task.as_str()));
        }
        // A model that continues a text as a caption cannot answer questions.
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

/// Converts a config error to an unsupported architecture. Models without layers and heads, such as
/// state-space models, may have a supported name but are not supported decoders.
fn not_a_decoder(architecture: &str, error: BundleError) -> BundleError {
    match error {
        BundleError::InvalidJson { source, .. } => BundleError::UnsupportedArchitecture {
            architecture: architecture.to_owned(),
            supported: format!(
                "{}, with the sizes of their layers in `config.json`: {}",
                supported_models(),
                chain(&*source)
            ),
        },
        other => other,
    }
}
