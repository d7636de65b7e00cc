//! Florence-2: an image and a task; the answer is text, or text with regions of the image.

use crate::arch::{
    AnswerFormat, Architecture, EncoderInput, Names, PromptSpec, PromptText, Seq2SeqSpec, Wiring,
};

pub(in crate::arch) static FLORENCE2: Architecture = Architecture {
    models: "Florence-2",
    names: Names::exact(&["Florence2ForConditionalGeneration", "florence2"]),
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        input: EncoderInput::ImageText,
        decoder_keys: &["text_config"],
        encoder_keys: &[],
        ..Seq2SeqSpec::BASE
    }),
    prompt: PromptSpec { caption: Some("<CAPTION>"), ..PromptSpec::of(PromptText::NamedTask) },
    answer: AnswerFormat::Regions,
    ..Architecture::BASE
};
