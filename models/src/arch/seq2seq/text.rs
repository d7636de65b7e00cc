//! Text encoder-decoders: T5, BART, Marian and all others with the same graph inputs.

use crate::arch::{Architecture, Names, PromptSpec, PromptText, Seq2SeqSpec, StartScheme, Wiring};

pub(in crate::arch) static TEXT: Architecture = Architecture {
    models: "T5, BART, Marian and similar text encoder-decoders",
    names: Names { exact: &["MarianMTModel"], ..Names::suffixes(&["ForConditionalGeneration"]) },
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        start: StartScheme::Translation,
        ..Seq2SeqSpec::BASE
    }),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
