//! The embedding configuration of a bundle: the files of sentence-transformers, or the two encoders
//! of a dual encoder.

use std::collections::BTreeMap;

use legenda_schemas::{cause::Cause, job::Pooling};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{BundleFiles, Modalities};
use crate::{
    arch::{
        Architecture, DualSpec, EmbeddingSpec, Wiring, audio_dual_encoder, image_dual_encoder,
        sentence_encoder,
    },
    config::{BundleError, ConfigOrigin, ImageProcessorConfig, SoundConfig},
};

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling/config.json";

/// The files in which sentence-transformers stores the limits of a text: one name for each of its
/// older models (`Transformer.load`, 5.1).
const TEXT_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The configuration of an embedding model.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddingConfig {
    pub(crate) arch: &'static Architecture,
    pub(crate) kind: EmbeddingKind,
    pub(crate) modalities: Modalities,
    pub(crate) text: TextLimits,
    /// The prompts: their names and the text that each prepends.
    pub(crate) prompts: BTreeMap<String, String>,
    pub(crate) default_prompt_name: Option<String>,
    pub(crate) image_processor: Option<ImageProcessorConfig>,
    pub(crate) sound: Option<SoundConfig>,
}

/// The graphs and the processing of their outputs.
#[derive(Clone, Debug)]
pub(crate) enum EmbeddingKind {
    /// A single text encoder. Its states are pooled by Legenda.
    Sentence(Head),
    /// A text encoder and a vision or audio encoder with a shared embedding space. The graphs pool.
    Dual {
        /// Whether the embedding is a projection of the pooled state (CLIP, CLAP) or the pooled
        /// state itself (SigLIP).
        is_projected: bool,
        /// Whether text attention is causal, so that right padding needs no mask.
        looks_back: bool,
        /// The image height and width if the graph does not declare them.
        image_size: usize,
    },
}

/// The steps from the states of a text to one embedding.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The pooling modes of the bundle; the results of several are concatenated. `None` if not set.
    pub(crate) pooling: Option<Vec<Pooling>>,
    /// The steps after the pooling, in order.
    pub(crate) steps: Vec<Step>,
}

/// A module after the pooling.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A linear layer.
    Dense(Dense),
    /// Normalisation to length 1.
    Normalize,
}

/// `y = activation(W x + b)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// `f32 [out, in]`, row-major.
    pub(crate) weight: Vec<f32>,
    /// `f32 [out]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) is_tanh: bool,
}

/// The truncation and padding of a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextLimits {
    /// The maximum number of tokens, special tokens included; longer texts are truncated.
    pub(crate) tokens_max: Option<usize>,
    /// Whether every text is padded to `tokens_max`: the graph was trained that way and has no
    /// mask.
    pub(crate) pads_to_max: bool,
    /// Whether leading and trailing white space is stripped, as in sentence-transformers.
    pub(crate) is_stripped: bool,
    pub(crate) is_lowercased: bool,
}

impl EmbeddingConfig {
    /// Reads the configuration from a bundle; `None` if it is not an embedding model.
    ///
    /// `is_known` is true if the architecture is a known generative one. Then only `modules.json`
    /// makes the bundle an embedding model.
    pub(super) fn read(
        files: &BundleFiles,
        architecture: &str,
        is_known: bool,
    ) -> Result<Option<Self>, BundleError> {
        let config: Map<String, Value> = files.json("config.json")?;
        let has_tower = |tower: &str| config.get(tower).is_some_and(Value::is_object);
        if files.has(MODULES)? {
            return Self::sentence(files, &config, Some(files.json(MODULES)?)).map(Some);
        }
        let is_encoder = architecture.ends_with("Model") || architecture.ends_with("ForMaskedLM");
        if is_known || !is_encoder {
            return Ok(None);
        }
        if has_tower("text_config") {
            let model_type = config.get("model_type").and_then(Value::as_str);
            let arch = if has_tower("vision_config") {
                Some(image_dual_encoder(model_type.unwrap_or_default()))
            } else {
                audio_dual_encoder(architecture).filter(|_| has_tower("audio_config"))
            };
            if let Some(arch) = arch
                && let Wiring::Embedding(EmbeddingSpec::Dual(spec)) = arch.wiring
            {
                return Self::dual(files, &config, arch, spec).map(Some);
            }
        }
        if has_tower("audio_config") || has_tower("vision_config") || !has_graph(files, "model")? {
            return Ok(None);
        }
        Self::sentence(files, &config, None).map(Some)
    }

    fn sentence(
        files: &BundleFiles,
        config: &Map<String, Value>,
        modules: Option<Vec<Module>>,
    ) -> Result<Self, BundleError> {
        files.graph_file("model")?;
        let mut head = Head { pooling: None, steps: Vec::new() };
        for module in modules.iter().flatten() {
            module.add_to(&mut head, files)?;
        }
        let prompts: Prompts =
            files.json_if_there("config_sentence_transformers.json")?.unwrap_or_default();
        Ok(Self {
            arch: sentence_encoder(),
            kind: EmbeddingKind::Sentence(head),
            modalities: Modalities { text: true, image: false, audio: false },
            text: TextLimits::of_sentences(files, config)?,
            prompts: prompts.prompts.unwrap_or_default(),
            default_prompt_name: prompts.default_prompt_name,
            image_processor: None,
            sound: None,
        })
    }

    /// Reads the configuration of a dual encoder. It has one graph per encoder or, with images, a
    /// single graph.
    fn dual(
        files: &BundleFiles,
        config: &Map<String, Value>,
        arch: &'static Architecture,
        spec: &DualSpec,
    ) -> Result<Self, BundleError> {
        let is_image = spec.modality == "image";
        let is_whole = is_image && has_graph(files, "model")?;
        let text = is_whole || has_graph(files, "text_model")?;
        let tower = if is_image { "vision_model" } else { "audio_model" };
        let has_tower = is_whole || has_graph(files, tower)?;
        if !text && !has_tower {
            files.graph_file("text_model")?;
        }
        let tower_key = |tower: &str, key: &str| config.get(tower)?.get(key).and_then(usize_of);
        let positions = tower_key("text_config", "max_position_embeddings");
        let positions = positions.or(spec.default_positions);
        let tokens_max = match positions.map(|n| n.saturating_sub(spec.reserved_positions)) {
            None => tokenizer_max(files)?,
            Some(positions) => Some(tokenizer_max(files)?.unwrap_or(positions).min(positions)),
        };
        let (image, audio) = (is_image && has_tower, !is_image && has_tower);
        Ok(Self {
            arch,
            kind: EmbeddingKind::Dual {
                is_projected: spec.is_projected || config.contains_key("projection_dim"),
                looks_back: spec.is_causal,
                // The default of the vision configs of CLIP and SigLIP.
                image_size: tower_key("vision_config", "image_size").unwrap_or(224),
            },
            modalities: Modalities { text, image, audio },
            text: TextLimits { tokens_max, pads_to_max: spec.pads_to_max, ..TextLimits::default() },
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            image_processor: image
                .then(|| part::<ImageProcessorConfig>(files, "image_processor"))
                .transpose()?
                .map(|(config, origin)| config.with_origin(origin)),
            sound: audio
                .then(|| part(files, "feature_extractor"))
                .transpose()?
                .map(|(config, origin)| SoundConfig::RepeatedMel(config).with_origin(origin)),
        })
    }

    /// Returns the text that a prompt prepends; `None` if neither the job nor the bundle sets a
    /// prompt.
    pub(super) fn prompt(&self, name: Option<&str>) -> Result<Option<&str>, BundleError> {
        let Some(name) = name.or(self.default_prompt_name.as_deref()) else { return Ok(None) };
        match self.prompts.get(name) {
            Some(prompt) => Ok(Some(prompt)),
            None => {
                let names: Vec<&str> = self.prompts.keys().map(String::as_str).collect();
                Err(BundleError::UnknownPrompt {
                    name: name.to_owned(),
                    names: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
                })
            }
        }
    }
}

fn has_graph(files: &BundleFiles, name: &str) -> Result<bool, BundleError> {
    Ok(!files.precisions(name)?.is_empty())
}

/// Reads the preprocessing config of a medium: a section of `processor_config.json`, or all of
/// `preprocessor_config.json`.
fn part<T: DeserializeOwned>(
    files: &BundleFiles,
    name: &'static str,
) -> Result<(T, ConfigOrigin), BundleError> {
    const SECTIONS: &str = "processor_config.json";
    const ALONE: &str = "preprocessor_config.json";
    let sections: Option<Value> = files.json_if_there(SECTIONS)?;
    match sections.and_then(|mut sections| Some(sections.get_mut(name)?.take())) {
        None => Ok((files.json(ALONE)?, ConfigOrigin::file(ALONE))),
        Some(part) => match serde_json::from_value(part) {
            Ok(part) => Ok((part, ConfigOrigin::section(SECTIONS, name))),
            Err(error) => {
                Err(BundleError::InvalidJson { file: SECTIONS.to_owned(), source: error.into() })
            }
        },
    }
}

/// Returns the tokenizer's limit. transformers writes 10^30 for no limit.
fn tokenizer_max(files: &BundleFiles) -> Result<Option<usize>, BundleError> {
    let config: Option<Value> = files.json_if_there("tokenizer_config.json")?;
    Ok(config.and_then(|config| usize_of(&config["model_max_length"])))
}

fn usize_of(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 40)
}

/// `config_sentence_transformers.json`.
#[derive(Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: Option<BTreeMap<String, String>>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl TextLimits {
    /// Reads the limits like `Transformer` of sentence-transformers 5.1: from its own config, or
    /// else the smaller of the model's positions and the tokenizer's limit.
    fn of_sentences(files: &BundleFiles, config: &Map<String, Value>) -> Result<Self, BundleError> {
        #[derive(Default, Deserialize)]
        struct Own {
            #[serde(default)]
            max_seq_length: Option<usize>,
            #[serde(default)]
            do_lower_case: bool,
        }
        let mut own = Own::default();
        for file in TEXT_CONFIGS {
            if let Some(found) = files.json_if_there(file)? {
                own = found;
                break;
            }
        }
        let positions = config.get("max_position_embeddings").and_then(usize_of);
        let tokens_max = match own.max_seq_length {
            Some(tokens_max) => Some(tokens_max),
            None => [positions, tokenizer_max(files)?].into_iter().flatten().min(),
        };
        let is_lowercased = own.do_lower_case;
        Ok(Self { tokens_max, pads_to_max: false, is_stripped: true, is_lowercased })
    }
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Module {
    fn add_to(&self, head: &mut Head, files: &BundleFiles) -> Result<(), BundleError> {
        let unsupported = |value: &str, supported: &str| {
            Err(BundleError::UnsupportedOption {
                file: MODULES,
                key: "type".to_owned(),
                value: value.to_owned(),
                supported: supported.to_owned(),
            })
        };
        match self.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if self.path.is_empty() => {}
            "Transformer" => {
                let found = format!("Transformer in `{}`", self.path);
                return unsupported(&found, "a Transformer in the root directory");
            }
            // A training-only module.
            "Dropout" => {}
            "Pooling" => {
                head.pooling = Some(pooling(&files.json(&format!("{}/config.json", self.path))?)?);
            }
            "Normalize" => head.steps.push(Step::Normalize),
            "Dense" => head.steps.push(Step::Dense(Dense::read(files, &self.path)?)),
            other => {
                return unsupported(other, "Transformer, Pooling, Dense, Normalize, Dropout");
            }
        }
        Ok(())
    }
}

/// Reads the pooling modes, in the order in which sentence-transformers concatenates them.
fn pooling(config: &Map<String, Value>) -> Result<Vec<Pooling>, BundleError> {
    let modes = [
        ("pooling_mode_cls_token", "cls", Pooling::Cls),
        ("pooling_mode_max_tokens", "max", Pooling::Max),
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
    ];
    let is_named = |name: &str| match config.get("pooling_mode") {
        Some(Value::Array(names)) => names.iter().any(|one| one == name),
        one => one.is_some_and(|one| one == name),
    };
    let found: Vec<Pooling> = modes
        .into_iter()
        .filter(|(key, name, _)| config.get(*key) == Some(&Value::Bool(true)) || is_named(name))
        .map(|(_, _, mode)| mode)
        .collect();
    let refuse = |key: &str, supported: &str| {
        Err(BundleError::UnsupportedOption {
            file: POOLING,
            key: key.to_owned(),
            value: config.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string),
            supported: supported.to_owned(),
        })
    };
    if config.get("include_prompt") == Some(&Value::Bool(false)) {
        return refuse("include_prompt", "true");
    }
    if found.is_empty() {
        return refuse("pooling_mode", "cls, max, mean, mean_sqrt_len, weightedmean, lasttoken");
    }
    Ok(found)
}

impl Dense {
    /// Reads `config.json` and `model.safetensors` of a module.
    fn read(files: &BundleFiles, path: &str) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Config {
            in_features: usize,
            out_features: usize,
            #[serde(default)]
            activation_function: String,
        }
        let config_file = format!("{path}/config.json");
        let config: Config = files.json(&config_file)?;
        let is_tanh = match config.activation_function.rsplit('.').next().unwrap_or_default() {
            "Tanh" => true,
            "Identity" => false,
            _ => {
                return Err(BundleError::UnsupportedOption {
                    file: "2_Dense/config.json",
                    key: "activation_function".to_owned(),
                    value: config.activation_function,
                    supported: "Tanh, Identity".to_owned(),
                });
            }
        };
        let weights_file = format!("{path}/model.safetensors");
        let invalid =
            |source: Cause| BundleError::InvalidJson { file: weights_file.clone(), source };
        let bytes = files.bytes(&weights_file)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.into()))?;
        let values = |name: &str, len: usize| {
            let tensor = tensors.tensor(name).map_err(|error| invalid(error.into()))?;
            if tensor.dtype() != Dtype::F32 || tensor.data().len() != len * size_of::<f32>() {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                let message = format!("`{name}` is {dtype:?} {shape:?}, expected {len} of F32");
                return Err(invalid(message.into()));
            }
            let (numbers, _) = tensor.data().as_chunks::<4>();
            Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let n_out = config.out_features;
        let has_bias = tensors.names().contains(&"linear.bias");
        Ok(Self {
            weight: values("linear.weight", n_out * config.in_features)?,
            bias: if has_bias { values("linear.bias", n_out)? } else { vec![0.0; n_out] },
            is_tanh,
        })
    }
}
