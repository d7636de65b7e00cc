//! Encoder-decoders: what their encoders read, and what their configs call the decoder's sizes.

use serde_json::{Map, Value};

use super::{
    BundleError, BundleFiles, ProcessorConfig, SoundConfig,
    config::{ModelConfig, TextConfig, TokenIds},
    extensions,
    reader::ReaderConfig,
    tasks::TaskConfig,
};

/// An encoder-decoder whose config does not say that it is one.
pub(super) const BLIP: &str = "BlipForConditionalGeneration";

/// What the encoder of an encoder-decoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// Token ids: T5, BART, Marian and what shares their inputs.
    Text,
    /// Pixels: ViT-GPT2, TrOCR, BLIP; of a document: Donut.
    Image,
    /// Pixels and a text that asks about them: Florence-2.
    ImageText,
    /// A log-mel spectrogram of one length: Whisper.
    LogMel,
    /// Samples as they are: Moonshine.
    Samples,
}

impl SourceKind {
    /// Returns what an encoder-decoder of this architecture reads; `None` if it is not known.
    pub(super) fn of(architecture: &str) -> Option<Self> {
        match architecture {
            "VisionEncoderDecoderModel" | BLIP => Some(Self::Image),
            "WhisperForConditionalGeneration" => Some(Self::LogMel),
            "MoonshineForConditionalGeneration" => Some(Self::Samples),
            "Florence2ForConditionalGeneration" | "florence2" => Some(Self::ImageText),
            "MarianMTModel" => Some(Self::Text),
            name if name.ends_with("ForConditionalGeneration") => Some(Self::Text),
            _ => None,
        }
    }

    /// Returns the medium that the encoder reads; `None` where it reads text.
    pub(crate) fn medium(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::Image | Self::ImageText => Some("image"),
            Self::LogMel | Self::Samples => Some("audio"),
        }
    }

    /// Returns how many entries of `encoder_attention_mask` the decoder takes for one position of
    /// the encoder's output, of which it reads the first.
    ///
    /// Moonshine's is the mask of the samples (`downsample_stride` of `MoonshineDecoder.forward`,
    /// transformers 4.57).
    pub(crate) fn mask_stride(self) -> usize {
        match self {
            Self::Samples => 64 * 3 * 2,
            Self::Text | Self::Image | Self::ImageText | Self::LogMel => 1,
        }
    }
}

/// What `config.json` says of an encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncoderConfig {
    /// The most positions of its output; `None` where they are as many as the input's tokens.
    pub(crate) positions: Option<usize>,
    /// The size of a position of its output.
    pub(crate) hidden_size: usize,
    /// Whether positions are relative, so that a text may have any length.
    pub(crate) is_relative: bool,
}

/// What the sizes of a decoder are called, the first that is there counts: the decoder's own before
/// those it shares with the encoder.
const DECODER_KEYS: [(&str, &[&str]); 7] = [
    (
        "num_hidden_layers",
        &[
            "decoder_num_hidden_layers",
            "decoder_layers",
            "num_decoder_layers",
            "num_layers",
            "n_layer",
            "num_hidden_layers",
        ],
    ),
    (
        "num_attention_heads",
        &[
            "decoder_num_attention_heads",
            "decoder_attention_heads",
            "num_heads",
            "n_head",
            "num_attention_heads",
        ],
    ),
    ("num_key_value_heads", &["decoder_num_key_value_heads"]),
    ("head_dim", &["d_kv", "head_dim"]),
    ("hidden_size", &["d_model", "n_embd", "hidden_size"]),
    ("vocab_size", &["decoder_vocab_size", "vocab_size"]),
    (
        "max_position_embeddings",
        &["max_target_positions", "max_position_embeddings", "n_positions"],
    ),
];

/// The most tokens of a text, and of an answer, where positions are relative and the config has no
/// `n_positions`: what T5 was trained with (Raffel et al. 2020, arXiv:1910.10683, sec. 2.1).
const RELATIVE_POSITIONS: usize = 512;

/// The most seconds of raw samples (`moonshine_onnx` of Moonshine's authors), for want of a bound in
/// the configs.
pub(crate) const SAMPLES_SECONDS_MAX: usize = 64;

/// Reads `config.json`.
pub(super) fn model_config(kind: SourceKind, config: &Value) -> serde_json::Result<ModelConfig> {
    let decoder = match kind {
        SourceKind::Image => config.get("decoder").or_else(|| config.get("text_config")),
        SourceKind::ImageText => config.get("text_config"),
        SourceKind::Text | SourceKind::LogMel | SourceKind::Samples => None,
    };
    let decoder = decoder.unwrap_or(config);
    let is_relative = decoder.get("relative_attention_num_buckets").is_some();
    let mut keys = Map::new();
    for (name, aliases) in DECODER_KEYS {
        let found = aliases.iter().filter_map(|alias| decoder.get(*alias));
        keys.extend(found.filter(|v| !v.is_null()).take(1).map(|v| (name.to_owned(), v.clone())));
    }
    if is_relative {
        keys.entry("max_position_embeddings").or_insert_with(|| RELATIVE_POSITIONS.into());
    }
    let text: TextConfig = serde_json::from_value(Value::Object(keys))?;
    let eos_token_id = [config, decoder].iter().find_map(|config| config.get("eos_token_id"));
    let number = |config: &Value, key: &str| config[key].as_u64().and_then(|n| n.try_into().ok());
    let encoder = ["encoder", "vision_config"].iter().find_map(|key| config.get(key));
    let encoder = encoder.filter(|_| kind != SourceKind::ImageText).unwrap_or(config);
    let encoder = EncoderConfig {
        positions: match kind {
            SourceKind::Text | SourceKind::ImageText => None,
            SourceKind::Image => image_positions(encoder),
            SourceKind::LogMel => number(config, "max_source_positions"),
            // One for 384 samples of 16 kHz.
            SourceKind::Samples => Some(SAMPLES_SECONDS_MAX * 16_000 / kind.mask_stride()),
        },
        hidden_size: number(encoder, "hidden_size").unwrap_or(text.hidden_size),
        is_relative,
    };
    Ok(ModelConfig {
        image_token_id: None,
        audio_token_id: None,
        eos_token_id: eos_token_id
            .and_then(|ids| serde_json::from_value::<TokenIds>(ids.clone()).ok()),
        reader: ReaderConfig::default(),
        text,
        encoder,
        adapters: [None, None],
    })
}

/// Returns the token that ends an answer whatever the generation config says: BLIP names it itself
/// (`BlipForConditionalGeneration.generate`; 102 where left out, as in `BlipTextConfig` of transformers
/// 4.57).
pub(super) fn fixed_end(architecture: &str, config: &Value) -> Option<TokenIds> {
    let end = config["text_config"]["sep_token_id"].as_i64().unwrap_or(102);
    (architecture == BLIP).then(|| TokenIds(vec![end]))
}

/// Returns the positions of a vision encoder's output: its patches and two tokens at most before
/// them (ViT has one, DeiT two). Each of Swin's stages but the first makes one of four patches.
fn image_positions(encoder: &Value) -> Option<usize> {
    let edges = |key: &str| match &encoder[key] {
        Value::Array(edges) => Some([edges.first()?.as_u64()?, edges.last()?.as_u64()?]),
        one => one.as_u64().map(|edge| [edge; 2]),
    };
    let [height, width] = edges("image_size")?;
    let merges = encoder["depths"].as_array().map_or(0, |stages| stages.len().saturating_sub(1));
    let merged = 2_u64.checked_pow(u32::try_from(merges).ok()?)?;
    let [tall, wide] = edges("patch_size")?.map(|edge| edge.saturating_mul(merged).max(1));
    usize::try_from(height.div_ceil(tall) * width.div_ceil(wide) + 2).ok()
}

/// Reads the processor's config, which stands by itself in `preprocessor_config.json` or in its part
/// of `processor_config.json`, or as onnxruntime-genai has it.
pub(super) fn processor_config(
    kind: SourceKind,
    files: &BundleFiles,
) -> Result<ProcessorConfig, BundleError> {
    let part = match kind {
        SourceKind::Text => return Ok(ProcessorConfig::default()),
        SourceKind::Image | SourceKind::ImageText => "image_processor",
        SourceKind::LogMel | SourceKind::Samples => "feature_extractor",
    };
    let joined: Option<Value> = files.json_if_there("processor_config.json")?;
    let (file, mut config) = match joined.and_then(|mut joined| Some(joined.get_mut(part)?.take()))
    {
        Some(config) => ("processor_config.json", config),
        None => match files.json_if_there("preprocessor_config.json")? {
            None if kind == SourceKind::LogMel && files.has(extensions::AUDIO_FILE)? => {
                (extensions::AUDIO_FILE, extensions::whisper_extractor(files)?)
            }
            None => {
                return Err(BundleError::MissingFile { file: "preprocessor_config.json".into() });
            }
            Some(config) => ("preprocessor_config.json", config),
        },
    };
    let mut processor = ProcessorConfig::default();
    if kind == SourceKind::ImageText {
        processor.tasks = Some(TaskConfig::take(&mut config, files)?);
    }
    let read = match kind {
        // Older configs name no class: the model says what it hears.
        SourceKind::Samples => serde_json::from_value(config)
            .map(|config| processor.feature_extractor = Some(SoundConfig::Samples(config))),
        SourceKind::LogMel => serde_json::from_value(config)
            .map(|config| processor.feature_extractor = Some(SoundConfig::LogMel(config))),
        SourceKind::Text | SourceKind::Image | SourceKind::ImageText => {
            serde_json::from_value(config).map(|config| processor.image_processor = Some(config))
        }
    };
    read.map_err(|error| BundleError::InvalidJson {
        file: file.to_owned(),
        message: error.to_string(),
    })?;
    Ok(processor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kind: SourceKind, config: &str) -> ModelConfig {
        model_config(kind, &serde_json::from_str(config).unwrap()).unwrap()
    }

    #[test]
    fn the_decoders_own_sizes_go_before_shared_ones() {
        let t5 = r#"{"num_layers": 6, "num_decoder_layers": 3, "num_heads": 4, "d_kv": 64,
            "d_model": 128, "vocab_size": 100, "relative_attention_num_buckets": 32}"#;
        let t5 = config(SourceKind::Text, t5);
        assert_eq!((t5.text.num_hidden_layers, t5.text.head_dim()), (3, 64));
        assert_eq!(t5.text.max_position_embeddings, 512, "T5 has no positions of its own");
        assert!(t5.encoder.is_relative);
        let whisper = r#"{"decoder_layers": 2, "num_hidden_layers": 4, "encoder_layers": 4,
            "decoder_attention_heads": 4, "d_model": 32, "vocab_size": 100,
            "max_source_positions": 1500, "max_target_positions": 448}"#;
        let whisper = config(SourceKind::LogMel, whisper);
        assert_eq!((whisper.text.num_hidden_layers, whisper.text.head_dim()), (2, 8));
        assert_eq!(whisper.encoder.positions, Some(1500));
    }

    #[test]
    fn an_image_decoder_has_a_config_of_its_own() {
        let captioner = r#"{"encoder": {"hidden_size": 48, "image_size": 32, "patch_size": 8},
            "decoder": {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 90,
            "n_positions": 64, "eos_token_id": 5}}"#;
        let captioner = config(SourceKind::Image, captioner);
        assert_eq!(captioner.text.hidden_size, 32);
        assert_eq!((captioner.encoder.hidden_size, captioner.encoder.positions), (48, Some(18)));
        assert_eq!(captioner.eos_token_id.unwrap().0, [5]);
    }

    #[test]
    fn swin_merges_patches_from_stage_to_stage() {
        let donut = r#"{"encoder": {"hidden_size": 1024, "image_size": [2560, 1920],
            "patch_size": 4, "depths": [2, 2, 14, 2]}, "decoder": {"decoder_layers": 4,
            "decoder_attention_heads": 16, "d_model": 1024, "vocab_size": 57525,
            "max_position_embeddings": 768}}"#;
        assert_eq!(config(SourceKind::Image, donut).encoder.positions, Some(80 * 60 + 2));
    }
}
