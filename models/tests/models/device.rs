//! The device that the tests run on.

use legenda_schemas::job::Device;

/// Returns the CPU, or the device in `LEGENDA_TEST_DEVICE`. Answers are the same on CUDA.
pub(crate) fn device() -> Device {
    match std::env::var("LEGENDA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("" | "cpu") => Device::Cpu,
        Ok("cuda") => Device::Cuda,
        Ok(other) => panic!("LEGENDA_TEST_DEVICE is `{other}`, expected `cpu` or `cuda`"),
    }
}
