//! The device that the tests run on.

use legenda_schemas::job::Device;

/// Returns the CPU, or what `LEGENDA_TEST_DEVICE` says: answers are the same on CUDA.
pub(crate) fn device() -> Device {
    match std::env::var("LEGENDA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("" | "cpu") => Device::Cpu,
        Ok("cuda") => Device::Cuda,
        Ok(other) => panic!("LEGENDA_TEST_DEVICE is `{other}`, expected `cpu` or `cuda`"),
    }
}
