//! The devices that graphs run on, and the choice of one.

use std::fmt;

use legenda_schemas::{
    cause::{Cause, chain},
    job::Device,
};
use ort::ep::{self, ExecutionProvider};

use super::{Runtime, SessionError, cuda, memory::Memory, session::open};
use crate::graph::GraphSource;

/// The devices that a session can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A device, and a note on its choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device.
    pub kind: DeviceKind,
    /// The reason why `auto` did not choose a GPU, if there is one or the library is a CUDA build.
    pub note: Option<String>,
}

/// `y = Identity(x)` on one float, opset 13: a minimal graph to start a provider.
const IDENTITY_GRAPH: &[u8] =
    b"\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01pZ\x0f\
    \n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\
    \x08\x01B\x04\n\x00\x10\r";

impl Runtime {
    /// Chooses a device: `auto` is CUDA if its provider starts, else the CPU.
    ///
    /// # Errors
    ///
    /// [`SessionError::Cuda`] if CUDA was requested explicitly and does not start; the message
    /// names the missing library or device. There is no silent fallback.
    pub fn choose_device(&self, device: Device) -> Result<DeviceChoice, SessionError> {
        let cpu = |note| Ok(DeviceChoice { kind: DeviceKind::Cpu, note });
        if device == Device::Cpu {
            return cpu(None);
        }
        let failure = match self.start_cuda() {
            Ok(()) => return Ok(DeviceChoice { kind: DeviceKind::Cuda, note: None }),
            Err(failure) => failure,
        };
        let (message, is_surprising) = self.cuda_missing(failure.as_deref());
        if device == Device::Cuda {
            return Err(SessionError::Cuda { problem: message });
        }
        tracing::debug!(reason = message, "using the CPU");
        cpu(is_surprising.then_some(message))
    }

    /// Starts CUDA. The error is that of the provider, or `None` if the library has no CUDA
    /// provider.
    fn start_cuda(&self) -> Result<(), Option<String>> {
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err(None);
        }
        cuda::preload(self.path());
        let session = open(self, "probe", &GraphSource::Bytes(IDENTITY_GRAPH), DeviceKind::Cuda);
        let memory = session
            .map_err(Cause::from)
            .and_then(|session| Memory::new(&session, DeviceKind::Cuda));
        memory.map(drop).map_err(|error| Some(chain(&*error)))
    }
}
