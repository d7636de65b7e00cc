//! The image and audio configs of multimodal bundles.

use serde_json::{Map, Value};

use super::BundleFiles;
use crate::config::{
    BundleError, ConfigOrigin, ImageProcessorConfig, ProcessorConfig, SoundConfig,
};

/// The feature extractor keys that share one file with those of an image processor (Gemma 3n).
const AUDIO_KEYS: [&str; 21] = [
    "dither",
    "feature_extractor_type",
    "feature_size",
    "fft_length",
    "fft_overdrive",
    "frame_length",
    "frame_length_ms",
    "hop_length",
    "hop_length_ms",
    "input_scale_factor",
    "max_frequency",
    "mel_floor",
    "min_frequency",
    "padding_side",
    "padding_value",
    "per_bin_mean",
    "per_bin_stddev",
    "preemphasis",
    "preemphasis_htk_flavor",
    "return_attention_mask",
    "sampling_rate",
];

/// Reads the processor configs of a multimodal bundle. They are all in `processor_config.json` (the
/// newest layout) or in `preprocessor_config.json`; or the latter has the image processor, the
/// feature extractor or both, and the former has the text keys.
pub(super) fn processor_config(files: &BundleFiles) -> Result<ProcessorConfig, BundleError> {
    const MEDIA: &str = "preprocessor_config.json";
    let processor: Option<ProcessorConfig> = files.json_if_there("processor_config.json")?;
    if let Some(processor) = &processor
        && (processor.image_processor.is_some() || processor.feature_extractor.is_some())
    {
        return Ok(processor.clone());
    }
    let media: Value = files.json(MEDIA)?;
    let invalid = |error: serde_json::Error| BundleError::InvalidJson {
        file: MEDIA.to_owned(),
        source: error.into(),
    };
    if ["image_processor", "feature_extractor"].iter().any(|key| media[*key].is_object()) {
        let processor: ProcessorConfig = serde_json::from_value(media).map_err(invalid)?;
        let section = |name| ConfigOrigin::section(MEDIA, name);
        return Ok(ProcessorConfig {
            image_processor: processor
                .image_processor
                .map(|config| config.with_origin(section("image_processor"))),
            feature_extractor: processor
                .feature_extractor
                .map(|config| config.with_origin(section("feature_extractor"))),
            ..processor
        });
    }
    let mut processor = processor.unwrap_or_default();
    let has_audio = media["feature_extractor_type"].is_string();
    let has_image = !has_audio || media["image_processor_type"].is_string();
    let (audio, image) = match media {
        Value::Object(keys) if has_audio && has_image => {
            let (audio, image): (Map<_, _>, Map<_, _>) =
                keys.into_iter().partition(|(key, _)| AUDIO_KEYS.contains(&key.as_str()));
            (Value::Object(audio), Value::Object(image))
        }
        one => (one.clone(), one),
    };
    if has_audio {
        let config: SoundConfig = serde_json::from_value(audio).map_err(invalid)?;
        processor.feature_extractor = Some(config.with_origin(ConfigOrigin::file(MEDIA)));
    }
    if has_image {
        let config: ImageProcessorConfig = serde_json::from_value(image).map_err(invalid)?;
        processor.image_processor = Some(config.with_origin(ConfigOrigin::file(MEDIA)));
    }
    Ok(processor)
}
