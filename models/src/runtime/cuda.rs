//! The CUDA runtime, for copies in device memory, which ONNX Runtime has no API for.
//!
//! Signatures and constants are those of `cuda_runtime_api.h` and are the same in CUDA 12 and 13.

#![expect(unsafe_code, reason = "loads a C library that copies between raw pointers")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::{Path, PathBuf},
};

use libloading::{Library, Symbol};
use ort::{
    ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS},
    value::Tensor as OrtTensor,
};

use super::memory::{Blocks, Element};

/// The names of the library, newest first. ONNX Runtime's CUDA provider has already loaded one of
/// them, and opening the same name returns that one.
const NAMES: [&str; 2] = ["libcudart.so.13", "libcudart.so.12"];

/// `cudaMemcpyDefault`: the driver infers the direction from the addresses.
const MEMCPY_DEFAULT: c_int = 4;

type Memcpy2D =
    unsafe extern "C" fn(*mut c_void, usize, *const c_void, usize, usize, usize, c_int) -> c_int;
type Memset = unsafe extern "C" fn(*mut c_void, c_int, usize) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions of the library. They are valid while it is open.
#[derive(Debug)]
pub(super) struct CudaRuntime {
    memcpy_2d: Memcpy2D,
    memset: Memset,
    synchronize: Synchronize,
    error_string: GetErrorString,
    _library: Library,
}

impl CudaRuntime {
    /// Opens the library.
    pub(super) fn open() -> Result<Self, String> {
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: opening a library runs its initializers. It is NVIDIA's library, which ONNX
            // Runtime's CUDA provider requires and has opened before.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::from_library(library),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(format!("failed to load the CUDA runtime: {}", reasons.join("; ")))
    }

    fn from_library(library: Library) -> Result<Self, String> {
        fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
            // SAFETY: every caller passes the type that the header declares for the function.
            let symbol: Result<Symbol<'_, T>, _> = unsafe { library.get(name.as_bytes()) };
            symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
        }
        Ok(Self {
            memcpy_2d: symbol(&library, "cudaMemcpy2D")?,
            memset: symbol(&library, "cudaMemset")?,
            synchronize: symbol(&library, "cudaDeviceSynchronize")?,
            error_string: symbol(&library, "cudaGetErrorString")?,
            _library: library,
        })
    }

    /// Fills a tensor in device memory with zeros.
    pub(super) fn zero<T: Element>(&self, tensor: &mut OrtTensor<T>) -> Result<(), ort::Error> {
        let n_bytes = tensor.shape().num_elements() * size_of::<T>();
        if n_bytes == 0 {
            return Ok(());
        }
        // SAFETY: the tensor owns `n_bytes` bytes at its address and is borrowed mutably.
        self.check(unsafe { (self.memset)(tensor.data_ptr_mut(), 0, n_bytes) })
    }

    /// Copies blocks from one tensor to another, each in host or device memory. The copies are
    /// complete after [`wait`](Self::wait).
    pub(super) fn copy<T: Element>(
        &self,
        target: &mut OrtTensor<T>,
        source: &OrtTensor<T>,
        blocks: Blocks,
    ) -> Result<(), ort::Error> {
        let (target_len, source_len) =
            (target.shape().num_elements(), source.shape().num_elements());
        if !blocks.fit(target_len, source_len) {
            return Err(ort::Error::new(format!(
                "{blocks:?} exceed tensors of {target_len} and {source_len} elements"
            )));
        }
        if blocks.len == 0 || blocks.n == 0 {
            return Ok(());
        }
        let size = size_of::<T>();
        let to = target.data_ptr_mut().wrapping_byte_add(blocks.to * size);
        let from = source.data_ptr().wrapping_byte_add(blocks.from * size);
        // SAFETY: as checked above, the blocks are within both tensors, which own their memory, and
        // do not overlap each other. The target is borrowed mutably.
        self.check(unsafe {
            (self.memcpy_2d)(
                to,
                blocks.to_stride * size,
                from,
                blocks.from_stride * size,
                blocks.len * size,
                blocks.n,
                MEMCPY_DEFAULT,
            )
        })
    }

    /// Waits until all copies are complete; ONNX Runtime's stream does not wait for them.
    pub(super) fn wait(&self) -> Result<(), ort::Error> {
        // SAFETY: the function has no arguments and no preconditions.
        self.check(unsafe { (self.synchronize)() })
    }

    fn check(&self, code: c_int) -> Result<(), ort::Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the function returns a static string for any code.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(ort::Error::new(format!("CUDA error {code}: {}", text.to_string_lossy())))
    }
}

/// Loads the CUDA libraries of Python packages (`nvidia-*`) if ONNX Runtime is next to them in
/// `site-packages`. Without this, its provider searches only the system paths.
///
/// A library that is missing or fails to load is left to the provider, whose error names it.
pub(super) fn preload(onnxruntime: &Path) {
    let Some(packages) = onnxruntime.ancestors().nth(3) else { return };
    let folders: Vec<PathBuf> = std::fs::read_dir(packages.join("nvidia"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("lib")))
        .collect();
    for name in CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS) {
        let file = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
        if let Some(file) = file {
            match ort::util::preload_dylib(&file) {
                Ok(()) => tracing::debug!(path = %file.display(), "loaded"),
                Err(error) => {
                    tracing::debug!(path = %file.display(), %error, "failed to load a CUDA library");
                }
            }
        }
    }
}
