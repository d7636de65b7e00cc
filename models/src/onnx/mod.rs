//! ONNX Runtime: finding it, opening graphs, in-place caches. The only place that names `ort`.
//!
//! Sessions are run synchronously, each by one thread at a time; `run_async` is never used.

mod cache;
mod fetch;
mod places;
mod probe;
mod runtime;
mod session;

pub(crate) use cache::{Cache, InPlaceGraph, StepInputs};
pub use places::{Attempt, Place};
pub use runtime::{Runtime, RuntimeError, RuntimeOptions};
pub use session::{DeviceChoice, DeviceKind, SessionError};
pub(crate) use session::{Dtype, Feed, GraphSession, RunError};
