//! The memory of a graph's tensors between runs, on the host or on a CUDA device.
//!
//! The KV cache of a decoder never leaves the device: outputs of one run are bound as inputs of the
//! next, and rows are gathered on the device.

use std::fmt;

use half::f16;
use legenda_schemas::cause::Cause;
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::Session,
    value::{PrimitiveTensorElementType, Tensor as OrtTensor},
};

use super::{DeviceKind, cuda::CudaRuntime};

/// The element types of caches and of quantized weights.
pub(super) trait Element:
    PrimitiveTensorElementType + fmt::Debug + Copy + Default + 'static
{
}

impl Element for f32 {}
impl Element for f16 {}
impl Element for u8 {}
impl Element for i8 {}

/// Strided blocks to copy from one tensor to another: `n` blocks of `len` elements, the first at
/// `from` and `to`, each next one a stride further.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub(super) from: usize,
    pub(super) from_stride: usize,
    pub(super) to: usize,
    pub(super) to_stride: usize,
    pub(super) len: usize,
    pub(super) n: usize,
}

impl Blocks {
    /// Returns whether the blocks fit into tensors of these lengths and do not overlap each other.
    pub(super) fn fit(self, target_len: usize, source_len: usize) -> bool {
        let fits = |at: usize, stride: usize, len: usize| {
            let last = self.n.saturating_sub(1).saturating_mul(stride);
            stride >= self.len && at.saturating_add(last).saturating_add(self.len) <= len
        };
        fits(self.to, self.to_stride, target_len) && fits(self.from, self.from_stride, source_len)
    }
}

/// The memory of an opened graph.
pub(super) struct Memory {
    allocator: Allocator,
    /// Copies in device memory.
    cuda: Option<CudaRuntime>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("cuda", &self.cuda).finish_non_exhaustive()
    }
}

impl Memory {
    /// Returns the memory of a session that was opened on a device.
    pub(super) fn new(session: &Session, device: DeviceKind) -> Result<Self, Cause> {
        if device == DeviceKind::Cpu {
            return Ok(Self { allocator: Allocator::default(), cuda: None });
        }
        let info =
            MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default);
        let allocator = info.and_then(|info| Allocator::new(session, info));
        Ok(Self { allocator: allocator?, cuda: Some(CudaRuntime::open()?) })
    }

    /// Returns whether this is the memory of a CUDA device.
    pub(super) fn is_cuda(&self) -> bool {
        self.cuda.is_some()
    }

    /// Returns the memory info, for outputs that stay in this memory.
    pub(super) fn info(&self) -> &MemoryInfo<'_> {
        self.allocator.memory_info()
    }

    /// Allocates a tensor of zeros.
    pub(super) fn zeros<T: Element>(&self, shape: &[usize]) -> Result<OrtTensor<T>, ort::Error> {
        let mut tensor = OrtTensor::<T>::new(&self.allocator, shape.to_vec())?;
        match &self.cuda {
            Some(cuda) => {
                cuda.zero(&mut tensor)?;
                cuda.wait()?;
            }
            None => tensor.extract_tensor_mut().1.fill(T::default()),
        }
        Ok(tensor)
    }

    /// Moves a tensor from host memory to this memory.
    pub(super) fn take<T: Element>(&self, host: OrtTensor<T>) -> Result<OrtTensor<T>, ort::Error> {
        let Some(cuda) = &self.cuda else { return Ok(host) };
        let shape: Vec<i64> = host.shape().to_vec();
        let len = host.shape().num_elements();
        let mut tensor = OrtTensor::<T>::new(&self.allocator, shape)?;
        let all = Blocks { from: 0, from_stride: len, to: 0, to_stride: len, len, n: 1 };
        cuda.copy(&mut tensor, &host, all)?;
        cuda.wait()?;
        Ok(tensor)
    }

    /// Passes each block of a tensor to `read`, in host memory.
    pub(super) fn read<T: Element>(
        &self,
        source: &OrtTensor<T>,
        blocks: Blocks,
        mut read: impl FnMut(usize, &[T]),
    ) -> Result<(), ort::Error> {
        if !blocks.fit(usize::MAX, source.shape().num_elements()) {
            return Err(ort::Error::new(format!("{blocks:?} exceed the tensor")));
        }
        let mut each = |values: &[T], at: usize, stride: usize| {
            for idx in 0..blocks.n {
                read(idx, &values[at + idx * stride..][..blocks.len]);
            }
        };
        if let Some(cuda) = &self.cuda {
            let mut host = OrtTensor::<T>::new(&Allocator::default(), [blocks.n, blocks.len])?;
            cuda.copy(&mut host, source, Blocks { to: 0, to_stride: blocks.len, ..blocks })?;
            cuda.wait()?;
            each(host.extract_tensor().1, 0, blocks.len);
        } else {
            each(source.extract_tensor().1, blocks.from, blocks.from_stride);
        }
        Ok(())
    }

    /// Copies blocks of tensors into `target`; all of them are in this memory.
    pub(super) fn copy<'a, T: Element>(
        &self,
        target: &mut OrtTensor<T>,
        sources: impl IntoIterator<Item = (&'a OrtTensor<T>, Blocks)>,
    ) -> Result<(), ort::Error> {
        if let Some(cuda) = &self.cuda {
            for (source, blocks) in sources {
                cuda.copy(target, source, blocks)?;
            }
            return cuda.wait();
        }
        let (_, target) = target.extract_tensor_mut();
        for (source, blocks) in sources {
            let (_, source) = source.extract_tensor();
            for idx in 0..blocks.n {
                let to = blocks.to + idx * blocks.to_stride;
                let from = blocks.from + idx * blocks.from_stride;
                target[to..to + blocks.len].copy_from_slice(&source[from..from + blocks.len]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_or_overlapping_blocks_are_detected() {
        let blocks = Blocks { from: 2, from_stride: 4, to: 0, to_stride: 3, len: 3, n: 3 };
        assert!(blocks.fit(9, 13));
        assert!(!blocks.fit(8, 13));
        assert!(!blocks.fit(9, 12));
        assert!(!Blocks { to_stride: 2, ..blocks }.fit(9, 13));
        assert!(!Blocks { from: usize::MAX, ..blocks }.fit(9, 13));
    }
}
