//! The configs of encoder-decoders: the sizes of encoder and decoder, and the processors.

use serde_json::{Map, Value};

use super::{BundleFiles, extensions};
use crate::{
    arch::{Architecture, EncoderInput, PromptText, Seq2SeqSpec},
    config::{
        Adapters, AudioFeatures, BundleError, ConfigOrigin, EncoderConfig, ImageProcessorConfig,
        MediaConfig, ModelConfig, ProcessorConfig, SoundConfig, TaskConfig, TextConfig, TokenIds,
    },
};

/// The names of the decoder sizes. The first existing name counts: names specific to the decoder
/// precede those shared with the encoder.
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

/// The maximum number of tokens of a text, and of an answer, for relative positions without
/// `n_positions` in the config: the training length of T5 (Raffel et al. 2020, arXiv:1910.10683,
/// sec. 2.1).
const RELATIVE_POSITIONS: usize = 512;

/// Reads `config.json`.
pub(super) fn model_config(spec: &Seq2SeqSpec, config: &Value) -> serde_json::Result<ModelConfig> {
    let below = |keys: &[&str]| keys.iter().find_map(|key| config.get(key)).unwrap_or(config);
    let (decoder, encoder) = (below(spec.decoder_keys), below(spec.encoder_keys));
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
    let hidden_size = encoder["hidden_size"].as_u64().and_then(|n| n.try_into().ok());
    let encoder = EncoderConfig {
        positions: (spec.encoder_positions)(config),
        hidden_size: hidden_size.unwrap_or(text.hidden_size),
        is_relative,
    };
    Ok(ModelConfig {
        image_token_id: None,
        audio_token_id: None,
        eos_token_id: eos_token_id
            .and_then(|ids| serde_json::from_value::<TokenIds>(ids.clone()).ok()),
        media: MediaConfig::default(),
        text,
        encoder,
        adapters: Adapters::default(),
    })
}

/// Reads the processor config: from `preprocessor_config.json`, from its section of
/// `processor_config.json`, or from the files of onnxruntime-genai.
pub(super) fn processor_config(
    architecture: &Architecture,
    input: EncoderInput,
    files: &BundleFiles,
) -> Result<ProcessorConfig, BundleError> {
    const SECTIONS: &str = "processor_config.json";
    let part = match input.modality() {
        None => return Ok(ProcessorConfig::default()),
        Some("image") => "image_processor",
        Some(_) => "feature_extractor",
    };
    let whole: Option<Value> = files.json_if_there(SECTIONS)?;
    let (file, mut config) = match whole.and_then(|mut whole| Some(whole.get_mut(part)?.take())) {
        Some(config) => (SECTIONS, config),
        None => match files.json_if_there("preprocessor_config.json")? {
            None if input == EncoderInput::LogMel && files.has(extensions::AUDIO_FILE)? => {
                (extensions::AUDIO_FILE, extensions::log_mel_extractor(files)?)
            }
            None => {
                return Err(BundleError::MissingFile { file: "preprocessor_config.json".into() });
            }
            Some(config) => ("preprocessor_config.json", config),
        },
    };
    let mut processor = ProcessorConfig::default();
    if architecture.prompt.text == PromptText::NamedTask {
        let whole: Option<Value> = files.json_if_there(SECTIONS)?;
        processor.tasks = Some(TaskConfig::take(&mut config, whole.as_ref())?);
    }
    let features = match input {
        // Older configs do not name a class: it follows from the model's input.
        EncoderInput::Samples => Some(AudioFeatures::Samples),
        EncoderInput::LogMel => Some(AudioFeatures::LogMel),
        EncoderInput::Text | EncoderInput::Image | EncoderInput::ImageText => None,
    };
    let origin = match file {
        SECTIONS => ConfigOrigin::section(SECTIONS, part),
        _ => ConfigOrigin::file(file),
    };
    let invalid = |error: serde_json::Error| BundleError::InvalidJson {
        file: file.to_owned(),
        source: error.into(),
    };
    match features {
        Some(features) => {
            let config = SoundConfig::read(features, config).map_err(invalid)?;
            processor.feature_extractor = Some(config.with_origin(origin));
        }
        None => {
            let config: ImageProcessorConfig = serde_json::from_value(config).map_err(invalid)?;
            processor.image_processor = Some(config.with_origin(origin));
        }
    }
    Ok(processor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Declaration, find};

    fn config(name: &str, config: &str) -> ModelConfig {
        let architecture = find(&Declaration::new(name.to_owned(), true)).unwrap();
        let config = serde_json::from_str(config).unwrap();
        model_config(architecture.seq2seq().unwrap(), &config).unwrap()
    }

    #[test]
    fn decoder_sizes_take_precedence_over_shared_ones() {
        let t5 = r#"{"num_layers": 6, "num_decoder_layers": 3, "num_heads": 4, "d_kv": 64,
            "d_model": 128, "vocab_size": 100, "relative_attention_num_buckets": 32}"#;
        let t5 = config("T5ForConditionalGeneration", t5);
        assert_eq!((t5.text.num_hidden_layers, t5.text.head_dim()), (3, 64));
        assert_eq!(t5.text.max_position_embeddings, 512, "T5 has no absolute positions");
        assert!(t5.encoder.is_relative);
        let whisper = r#"{"decoder_layers": 2, "num_hidden_layers": 4, "encoder_layers": 4,
            "decoder_attention_heads": 4, "d_model": 32, "vocab_size": 100,
            "max_source_positions": 1500, "max_target_positions": 448}"#;
        let whisper = config("WhisperForConditionalGeneration", whisper);
        assert_eq!((whisper.text.num_hidden_layers, whisper.text.head_dim()), (2, 8));
        assert_eq!(whisper.encoder.positions, Some(1500));
    }

    #[test]
    fn the_decoder_of_an_image_captioner_has_its_own_config() {
        let captioner = r#"{"encoder": {"hidden_size": 48, "image_size": 32, "patch_size": 8},
            "decoder": {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 90,
            "n_positions": 64, "eos_token_id": 5}}"#;
        let captioner = config("VisionEncoderDecoderModel", captioner);
        assert_eq!(captioner.text.hidden_size, 32);
        assert_eq!((captioner.encoder.hidden_size, captioner.encoder.positions), (48, Some(18)));
        assert_eq!(captioner.eos_token_id.unwrap().0, [5]);
    }

    #[test]
    fn swin_merges_patches_between_stages() {
        let donut = r#"{"encoder": {"hidden_size": 1024, "image_size": [2560, 1920],
            "patch_size": 4, "depths": [2, 2, 14, 2]}, "decoder": {"decoder_layers": 4,
            "decoder_attention_heads": 16, "d_model": 1024, "vocab_size": 57525,
            "max_position_embeddings": 768}}"#;
        let positions = config("VisionEncoderDecoderModel", donut).encoder.positions;
        assert_eq!(positions, Some(80 * 60 + 2));
    }
}
