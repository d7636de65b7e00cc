//! BLIP: a text that a row may have is what the caption begins with.

use super::image_captioner::VISION_ENCODER;
use crate::{
    arch::{AnswerFormat, Architecture, Names, PromptSpec, PromptText, Seq2SeqSpec, Wiring},
    config::TokenIds,
};

pub(in crate::arch) static BLIP: Architecture = Architecture {
    models: "BLIP",
    // Its config does not say that it is an encoder-decoder.
    names: Names::exact(&["BlipForConditionalGeneration"]),
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        // `BlipForConditionalGeneration.generate` names the end itself: 102 where left out, as in
        // `BlipTextConfig` of transformers 4.57.
        fixed_end: Some(|config| {
            TokenIds(vec![config["text_config"]["sep_token_id"].as_i64().unwrap_or(102)])
        }),
        ..VISION_ENCODER
    }),
    // A caption would continue what other models are asked.
    prompt: PromptSpec { caption: Some(""), ..PromptSpec::of(PromptText::Continuation) },
    answer: AnswerFormat::Continuation,
    ..Architecture::BASE
};
