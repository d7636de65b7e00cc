//! Decoders with image input; some also take audio.

mod gemma3;
mod gemma3n;
mod idefics3;
mod legenda;
mod llava;
mod paligemma;
mod phi4_mm;
mod qwen2_vl;

pub(super) use gemma3::GEMMA3;
pub(super) use gemma3n::GEMMA3N;
pub(super) use idefics3::IDEFICS3;
pub(super) use legenda::LEGENDA;
pub(super) use llava::LLAVA;
pub(super) use paligemma::PALIGEMMA;
pub(super) use phi4_mm::PHI4_MM;
pub(super) use qwen2_vl::QWEN2_VL;
