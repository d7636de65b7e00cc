//! The bundle embedded in the binary: `models/tiny`.

use std::borrow::Cow;

use legenda_schemas::precision::PrecisionChoice;

use super::BundleFiles;

macro_rules! embed {
    ($($file:literal),* $(,)?) => {
        [$(($file, include_bytes!(concat!("../../tiny/", $file)).as_slice())),*]
    };
}

/// The files of the bundle that affect answers, by their path in the bundle.
const FILES: [(&str, &[u8]); 10] = embed![
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "onnx/audio_encoder.onnx",
    "onnx/decoder_model_merged.onnx",
    "onnx/embed_tokens.onnx",
    "onnx/vision_encoder.onnx",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Returns the embedded files.
pub(super) fn files(precision: PrecisionChoice) -> BundleFiles {
    let files = FILES.iter().map(|(name, content)| ((*name).into(), Cow::Borrowed(*content)));
    BundleFiles::memory(files.collect(), precision)
}
