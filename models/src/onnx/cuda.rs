//! The CUDA runtime: copies in a device's memory, for which ONNX Runtime has no call.
//!
//! Signatures and constants are those of `cuda_runtime_api.h`, the same from CUDA 12 to 13.

#![expect(unsafe_code, reason = "a C library is opened, and copies between addresses")]

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

/// The library's names, the newest first. ONNX Runtime's CUDA provider has loaded one of them, and
/// opening it again by its name returns that one.
const NAMES: [&str; 2] = ["libcudart.so.13", "libcudart.so.12"];

/// `cudaMemcpyDefault`: the driver knows which side an address is on.
const MEMCPY_DEFAULT: c_int = 4;

type Memcpy2D =
    unsafe extern "C" fn(*mut c_void, usize, *const c_void, usize, usize, usize, c_int) -> c_int;
type Memset = unsafe extern "C" fn(*mut c_void, c_int, usize) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions used; they are valid while the library is open.
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
            // SAFETY: opening a library runs its initialisers. It is NVIDIA's, which ONNX Runtime's
            // CUDA provider needs too and has opened before.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::of(library),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(format!("the CUDA runtime cannot be loaded: {}", reasons.join("; ")))
    }

    fn of(library: Library) -> Result<Self, String> {
        fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
            // SAFETY: every caller names a function and gives its type as the header declares it.
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
        // SAFETY: the tensor owns so many bytes at its address, and it is borrowed alone.
        self.check(unsafe { (self.memset)(tensor.data_ptr_mut(), 0, n_bytes) })
    }

    /// Copies blocks from one tensor to another, each in host or device memory; they have arrived
    /// after [`wait`](Self::wait).
    pub(super) fn copy<T: Element>(
        &self,
        target: &mut OrtTensor<T>,
        source: &OrtTensor<T>,
        blocks: Blocks,
    ) -> Result<(), ort::Error> {
        let (target_len, source_len) =
            (target.shape().num_elements(), source.shape().num_elements());
        if !blocks.lie_within(target_len, source_len) {
            return Err(ort::Error::new(format!(
                "{blocks:?} do not lie within tensors of {target_len} and {source_len} elements"
            )));
        }
        if blocks.len == 0 || blocks.n == 0 {
            return Ok(());
        }
        let size = size_of::<T>();
        let to = target.data_ptr_mut().wrapping_byte_add(blocks.to * size);
        let from = source.data_ptr().wrapping_byte_add(blocks.from * size);
        // SAFETY: the blocks lie within both tensors, which own their memory, and do not overlap
        // each other, as checked above; the target is borrowed alone.
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

    /// Waits until all copies have arrived: ONNX Runtime's stream does not wait for them.
    pub(super) fn wait(&self) -> Result<(), ort::Error> {
        // SAFETY: the function takes nothing and may be called at any time.
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

/// Loads the CUDA libraries that Python packages have brought (`nvidia-*`), where ONNX Runtime lies
/// beside them in `site-packages`; without them its provider looks on the system's paths alone.
///
/// A library that is not there, or that cannot be loaded, is left to the provider: its own error
/// names what is missing.
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
                Err(error) => tracing::debug!(path = %file.display(), %error, "cannot be loaded"),
            }
        }
    }
}
