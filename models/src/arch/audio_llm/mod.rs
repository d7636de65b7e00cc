//! Decoders with audio input.

mod ultravox;
mod voxtral;

pub(super) use ultravox::ULTRAVOX;
pub(super) use voxtral::VOXTRAL;
