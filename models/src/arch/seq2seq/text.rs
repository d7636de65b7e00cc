//! Encoder-decoders of text: T5, BART, Marian and all that share their graph inputs.

use crate::arch::{Architecture, Names, PromptSpec, PromptText, Seq2SeqSpec, StartScheme, Wiring};

pub(in crate::arch) static TEXT: Architecture = Architecture {
    models: "T5, BART, Marian and similar encoder-decoders of text",
    names: Names { exact: &["MarianMTModel"], ..Names::suffixes(&["ForConditionalGeneration"]) },
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        start: StartScheme::Translation,
        ..Seq2SeqSpec::BASE
    }),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
