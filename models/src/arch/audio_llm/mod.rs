//! Decoders that take audio.

mod ultravox;
mod voxtral;

pub(super) use ultravox::ULTRAVOX;
pub(super) use voxtral::VOXTRAL;
