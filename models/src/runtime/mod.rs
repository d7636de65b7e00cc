//! ONNX Runtime: finds it, opens graphs and manages KV caches, in place and growing. The only
//! module that uses `ort`.
//!
//! Sessions run synchronously, each by one thread at a time; `run_async` is never used.

mod adapter;
mod cross;
mod cuda;
mod decoder;
mod device;
mod encoder;
mod error;
mod feed;
mod fetch;
mod gpu;
mod growing;
mod in_place;
mod inputs;
mod memory;
mod places;
mod probe;
mod programs;
mod rows;
mod runtime;
mod scores;
mod session;
mod trust;

pub(crate) use adapter::Adapter;
pub(crate) use decoder::{CrossPorts, DecoderDims, DecoderPorts};
pub use device::{DeviceChoice, DeviceKind};
pub(crate) use encoder::EncoderGraph;
pub(crate) use error::RunError;
pub use error::SessionError;
pub(crate) use feed::{Dtype, Feed};
pub use gpu::Gpus;
pub(crate) use growing::{GrowingGraph, GrowingInputs, Past, PastRow};
pub(crate) use in_place::{Cache, InPlaceGraph, StepInputs};
pub(crate) use inputs::{Embeds, Tokens};
pub use places::{Attempt, Place};
pub(crate) use runtime::cache_dir_from_env;
pub use runtime::{Runtime, RuntimeError, RuntimeOptions};
pub(crate) use session::GraphSession;
