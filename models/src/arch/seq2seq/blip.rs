//! BLIP: an optional text of the row is the beginning of the caption.

use super::image_captioner::VISION_ENCODER;
use crate::{
    arch::{AnswerFormat, Architecture, Names, PromptSpec, PromptText, Seq2SeqSpec, Wiring},
    config::TokenIds,
};

pub(in crate::arch) static BLIP: Architecture = Architecture {
    models: "BLIP",
    // The config does not declare an encoder-decoder.
    names: Names::exact(&["BlipForConditionalGeneration"]),
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        // `BlipForConditionalGeneration.generate` passes the end token itself. It defaults to 102,
        // as in `BlipTextConfig` of transformers 4.57.
        fixed_end: Some(|config| {
            TokenIds(vec![config["text_config"]["sep_token_id"].as_i64().unwrap_or(102)])
        }),
        ..VISION_ENCODER
    }),
    // The caption would continue the default prompt of other models.
    prompt: PromptSpec { caption: Some(""), ..PromptSpec::of(PromptText::Continuation) },
    answer: AnswerFormat::Continuation,
    ..Architecture::BASE
};
