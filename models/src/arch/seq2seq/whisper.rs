//! Whisper: transcription from a fixed-length log-mel spectrogram, with or without timestamps.

use crate::arch::{
    AnswerFormat, Architecture, EncoderInput, GenaiModel, Names, PromptSpec, PromptText,
    Seq2SeqSpec, StartScheme, Wiring,
};

pub(in crate::arch) static WHISPER: Architecture = Architecture {
    models: "Whisper",
    names: Names::exact(&["WhisperForConditionalGeneration"]),
    genai: &[GenaiModel {
        model_type: "whisper",
        needs_embedding: false,
        name: "WhisperForConditionalGeneration",
        tokens: &[],
    }],
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        input: EncoderInput::LogMel,
        encoder_positions: |config| config["max_source_positions"].as_u64()?.try_into().ok(),
        start: StartScheme::Speech,
        ..Seq2SeqSpec::BASE
    }),
    prompt: PromptSpec::of(PromptText::Unread),
    answer: AnswerFormat::Timestamped,
    ..Architecture::BASE
};
