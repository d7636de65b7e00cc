//! The preprocessing operations of onnxruntime-extensions, translated to the equivalent processor
//! configs of transformers.

use serde_json::{Map, Value, json};

use super::BundleFiles;
use crate::config::{AudioFeatures, BundleError, ImageClass, ImageLayoutKind, operations};

/// The default audio file.
pub(super) const AUDIO_FILE: &str = "audio_processor_config.json";

/// The files of published models.
const FILES: [&str; 4] =
    [AUDIO_FILE, "processor_config.json", "speech_processor.json", "vision_processor.json"];

/// The sample rate of Whisper and Phi-4-multimodal in Hz.
const SAMPLING_RATE: u64 = 16_000;

/// Returns the name of a file for errors.
pub(super) fn known(file: &str) -> &'static str {
    let known = FILES.into_iter().find(|known| *known == file);
    known.unwrap_or("the `config_filename` of `genai_config.json`")
}

/// An operation of the list.
struct Operation {
    file: &'static str,
    kind: String,
    attrs: Map<String, Value>,
}

/// Returns the operations of a file, which are nested below two keys. An empty list is an error.
fn steps(
    files: &BundleFiles,
    file: &str,
    [outer, inner]: [&str; 2],
) -> Result<Vec<Operation>, BundleError> {
    let config: Value = files.json(file)?;
    let steps = config[outer][inner].as_array().filter(|steps| !steps.is_empty());
    let steps = steps.ok_or_else(|| BundleError::Inconsistent {
        file: known(file),
        problem: format!("missing list of operations in `{outer}.{inner}`"),
    })?;
    let operation = |step: &Value| Operation {
        file: known(file),
        kind: step["operation"]["type"].as_str().unwrap_or_default().to_owned(),
        attrs: step["operation"]["attrs"].as_object().cloned().unwrap_or_default(),
    };
    Ok(steps.iter().map(operation).collect())
}

impl Operation {
    /// Returns an attribute, or null if it is missing.
    fn get(&self, key: &str) -> Value {
        self.attrs.get(key).cloned().unwrap_or_default()
    }

    /// Returns the error for an unknown operation.
    fn unknown(&self, known: &str) -> BundleError {
        BundleError::UnsupportedOption {
            file: self.file,
            key: self.kind.clone(),
            value: Value::Object(self.attrs.clone()).to_string(),
            supported: known.to_owned(),
        }
    }

    /// Returns the error for an unsupported attribute.
    fn unsupported(&self, key: &str, supported: &str) -> BundleError {
        BundleError::UnsupportedOption {
            file: self.file,
            key: format!("{}.{key}", self.kind),
            value: self.get(key).to_string(),
            supported: supported.to_owned(),
        }
    }

    /// Returns PIL's number of the filter.
    fn resample(&self) -> Result<u8, BundleError> {
        const KEY: &str = "interpolation";
        match self.get(KEY).as_str() {
            Some("NEAREST") => Ok(0),
            Some("LANCZOS") => Ok(1),
            Some("LINEAR") => Ok(2),
            None | Some("CUBIC") => Ok(3),
            Some(_) => Err(self.unsupported(KEY, "NEAREST, LINEAR, CUBIC, LANCZOS")),
        }
    }

    /// Returns the equivalent resize keys of an image processor.
    fn resize(&self) -> Result<Value, BundleError> {
        let resample = self.resample()?;
        if self.get("smart_resize").as_u64().is_some_and(|value| value > 0) {
            return Ok(json!({
                "do_resize": true, "resample": resample,
                "min_pixels": self.get("min_pixels"), "max_pixels": self.get("max_pixels"),
            }));
        }
        // The default is 1, which gives another size than transformers.
        if self.get("keep_aspect_ratio") != 0 {
            return Err(self.unsupported("keep_aspect_ratio", "0"));
        }
        Ok(json!({
            "do_resize": true, "resample": resample,
            "size": { "height": self.get("height"), "width": self.get("width") },
        }))
    }
}

/// Returns the equivalent `preprocessor_config.json` of Whisper.
pub(super) fn log_mel_extractor(files: &BundleFiles) -> Result<Value, BundleError> {
    let steps = steps(files, AUDIO_FILE, ["feature_extraction", "sequence"])?;
    let mel = steps.iter().find(|operation| operation.kind == "LogMelSpectrum");
    let mel = mel.map(|operation| &operation.attrs).ok_or(BundleError::Inconsistent {
        file: AUDIO_FILE,
        problem: "missing operation `LogMelSpectrum`".to_owned(),
    })?;
    let seconds = mel.get("chunk_size").and_then(Value::as_u64);
    Ok(json!({
        "feature_extractor_type": AudioFeatures::LogMel.class(),
        "chunk_length": seconds,
        "feature_size": mel.get("n_mel"),
        "hop_length": mel.get("hop_length"),
        "n_fft": mel.get("n_fft"),
        "n_samples": seconds.map(|seconds| seconds.saturating_mul(SAMPLING_RATE)),
        "sampling_rate": SAMPLING_RATE,
    }))
}

/// Returns the equivalent config of Phi-4-multimodal's feature extractor.
pub(super) fn stacked_frames_extractor(
    files: &BundleFiles,
    file: &str,
) -> Result<Value, BundleError> {
    let steps = steps(files, file, ["feature_extraction", "sequence"])?;
    let mut config = None;
    for operation in &steps {
        let get = |key: &str| operation.get(key);
        match operation.kind.as_str() {
            // onnxruntime-genai has separate filters for 8 kHz audio; here all audio is resampled
            // to 16 kHz, as transformers requires.
            "AudioDecoder" | "AudioDecoderEx" => {}
            operations::STACKED_FRAMES => {
                if get("stft_normal/win_fn") != "hamming" {
                    return Err(operation.unsupported("stft_normal/win_fn", "hamming"));
                }
                config = Some(json!({
                    "feature_extractor_type": AudioFeatures::StackedFrames.class(),
                    "sampling_rate": SAMPLING_RATE,
                    "feature_size": get("logmel/n_mel"),
                    "n_fft": get("stft_normal/n_fft"),
                    "win_length": get("stft_normal/frame_length"),
                    "hop_length": get("stft_normal/hop_length"),
                    "audio_compression_rate": get("audio_compression_rate"),
                }));
            }
            _ => {
                let own = operations::STACKED_FRAMES;
                return Err(operation.unknown(&format!("AudioDecoder, AudioDecoderEx, {own}")));
            }
        }
    }
    config.ok_or(BundleError::Inconsistent {
        file: known(file),
        problem: format!("missing operation `{}`", operations::STACKED_FRAMES),
    })
}

/// Returns the equivalent config of an image processor.
pub(super) fn image_processor(files: &BundleFiles, file: &str) -> Result<Value, BundleError> {
    /// The edge of a crop.
    const CROP: &str = "dyhd_base_resolution";
    const KNOWN: &str =
        "DecodeImage, ConvertRGB, Resize, CenterCrop, Rescale, Normalize, Permute3D, PatchImage";
    let mut config = json!({ "do_resize": false, "do_rescale": false, "do_normalize": false });
    let mut crop = Value::Null;
    for operation in steps(files, file, ["processor", "transforms"])? {
        let get = |key: &str| operation.get(key);
        let more = match operation.kind.as_str() {
            "DecodeImage" | "ConvertRGB" => {
                let space = get("color_space");
                if !space.is_null() && space != "RGB" {
                    return Err(operation.unsupported("color_space", "RGB"));
                }
                json!({})
            }
            "Permute3D" => match get("dims") {
                dims if dims == json!([2, 0, 1]) => json!({}),
                _ => return Err(operation.unsupported("dims", "[2, 0, 1]")),
            },
            "Resize" => operation.resize()?,
            "CenterCrop" => json!({
                "do_center_crop": true,
                "crop_size": { "height": get("height"), "width": get("width") },
            }),
            "Rescale" => json!({
                "do_rescale": true,
                "rescale_factor": get("rescale_factor"),
            }),
            "Normalize" => json!({
                "do_normalize": true, "image_mean": get("mean"), "image_std": get("std"),
            }),
            "PatchImage" => json!({
                "image_processor_type": ImageClass::of_layout(ImageLayoutKind::Patches),
                "patch_size": get("patch_size"),
                "temporal_patch_size": get("temporal_patch_size"),
                "merge_size": get("merge_size"),
            }),
            // These two are one step in transformers: the crops, and the whole image in the size of
            // a crop.
            operations::CROPS => {
                crop = get(CROP);
                json!({
                    "image_processor_type": ImageClass::of_layout(ImageLayoutKind::Crops),
                    "do_resize": true,
                    "size": { "height": crop, "width": crop },
                    "dynamic_hd": get("dynamic_hd"),
                })
            }
            operations::WHOLE_OF_CROPS => {
                if get(CROP) != crop {
                    let supported = format!("the value of {}", operations::CROPS);
                    return Err(operation.unsupported(CROP, &supported));
                }
                json!({ "resample": operation.resample()? })
            }
            _ => {
                let own = [operations::CROPS, operations::WHOLE_OF_CROPS].join(", ");
                return Err(operation.unknown(&format!("{KNOWN}, {own}")));
            }
        };
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use legenda_schemas::precision::PrecisionChoice;

    use super::*;

    fn files(file: &'static str, text: String) -> BundleFiles {
        let file = (file.into(), text.into_bytes().into());
        BundleFiles::memory(vec![file], PrecisionChoice::default())
    }

    fn pictures(steps: &str) -> Result<Value, BundleError> {
        const FILE: &str = "vision_processor.json";
        let text = format!(r#"{{"processor": {{"transforms": [{steps}]}}}}"#);
        image_processor(&files(FILE, text), FILE)
    }

    fn sounds(steps: &str) -> Result<Value, BundleError> {
        const FILE: &str = "speech_processor.json";
        let text = format!(r#"{{"feature_extraction": {{"sequence": [{steps}]}}}}"#);
        stacked_frames_extractor(&files(FILE, text), FILE)
    }

    fn step(kind: &str, attrs: &str) -> String {
        format!(r#"{{"operation": {{"type": "{kind}", "attrs": {{{attrs}}}}}}}"#)
    }

    #[track_caller]
    fn assert_unsupported(config: Result<Value, BundleError>, wanted: &str) {
        match config.unwrap_err() {
            BundleError::UnsupportedOption { key, .. } => assert_eq!(key, wanted),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn operations_translate_to_an_image_processor_config() {
        let steps = [
            step("DecodeImage", r#""color_space": "RGB""#),
            step("Resize", r#""height": 8, "width": 9, "keep_aspect_ratio": 0"#),
            step("Rescale", r#""rescale_factor": 0.5"#),
            step("Permute3D", r#""dims": [2, 0, 1]"#),
        ];
        let wanted = json!({
            "do_resize": true, "resample": 3, "size": { "height": 8, "width": 9 },
            "do_rescale": true, "rescale_factor": 0.5, "do_normalize": false,
        });
        assert_eq!(pictures(&steps.join(",")).unwrap(), wanted);
    }

    #[test]
    fn operations_that_would_change_pixels_are_refused() {
        let resize = step("Resize", r#""height": 8, "width": 8"#);
        assert_unsupported(pictures(&resize), "Resize.keep_aspect_ratio");
        let resize = step("Resize", r#""smart_resize": 1, "interpolation": "AREA""#);
        assert_unsupported(pictures(&resize), "Resize.interpolation");
        let decode = step("DecodeImage", r#""color_space": "BGR""#);
        assert_unsupported(pictures(&decode), "DecodeImage.color_space");
        let permute = step("Permute3D", r#""dims": [1, 2, 0]"#);
        assert_unsupported(pictures(&permute), "Permute3D.dims");
        assert_unsupported(pictures(&step("Llama3ImageTransform", "")), "Llama3ImageTransform");
        let crops = [
            step("Phi4VisionDynamicPreprocess", r#""dyhd_base_resolution": 448"#),
            step("Phi4VisionProcessor", r#""dyhd_base_resolution": 336"#),
        ];
        let key = "Phi4VisionProcessor.dyhd_base_resolution";
        assert_unsupported(pictures(&crops.join(",")), key);
    }

    #[test]
    fn a_file_without_a_list_is_an_error() {
        let other = files("processor_config.json", r#"{"processor_class": "Other"}"#.to_owned());
        let error = image_processor(&other, "processor_config.json").unwrap_err().to_string();
        assert!(error.contains("`processor.transforms`"), "{error}");
        assert!(sounds("").is_err());
    }

    #[test]
    fn operations_that_would_change_audio_features_are_refused() {
        let hann = step("Phi4AudioEmbed", r#""stft_normal/win_fn": "hann""#);
        assert_unsupported(sounds(&hann), "Phi4AudioEmbed.stft_normal/win_fn");
        assert_unsupported(sounds(&step("LogMelSpectrum", "")), "LogMelSpectrum");
        let error = sounds(&step("AudioDecoder", "")).unwrap_err().to_string();
        assert!(error.contains("`Phi4AudioEmbed`"), "{error}");
    }
}
