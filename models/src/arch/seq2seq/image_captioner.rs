//! Vision encoders with text decoders: ViT-GPT2, TrOCR.

use serde_json::Value;

use crate::arch::{Architecture, EncoderInput, Names, PromptSpec, PromptText, Seq2SeqSpec, Wiring};

pub(in crate::arch) static IMAGE_CAPTIONER: Architecture = Architecture {
    models: "ViT-GPT2, TrOCR and similar image captioners",
    names: Names::exact(&["VisionEncoderDecoderModel"]),
    wiring: Wiring::EncoderDecoder(&VISION_ENCODER),
    prompt: PromptSpec::of(PromptText::Unread),
    ..Architecture::BASE
};

/// A vision encoder and a decoder with separate configs.
pub(super) const VISION_ENCODER: Seq2SeqSpec = Seq2SeqSpec {
    input: EncoderInput::Image,
    decoder_keys: &["decoder", "text_config"],
    encoder_positions,
    ..Seq2SeqSpec::BASE
};

/// Returns the number of output positions of a vision encoder: its patches and at most two tokens
/// before them (ViT has one, DeiT two). Every stage of Swin after the first merges four patches
/// into one.
fn encoder_positions(config: &Value) -> Option<usize> {
    let encoder = VISION_ENCODER.encoder_keys.iter().find_map(|key| config.get(key));
    let encoder = encoder.unwrap_or(config);
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
