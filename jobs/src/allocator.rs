//! Allocator settings for a process that runs for hours with large buffers on many threads.
//!
//! By default glibc gives each thread its own arena and raises the mmap threshold whenever a mapped
//! buffer is freed. Pixels that one thread allocates and another frees then fragment every arena, and
//! resident memory grows with the table although nothing is leaked.

/// Configures the allocator; call it before the first thread starts. Does nothing unless the allocator
/// is glibc's.
pub(crate) fn configure() {
    #[cfg(target_env = "gnu")]
    glibc::configure();
}

#[cfg(target_env = "gnu")]
mod glibc {
    /// The number of arenas. Two suffice: allocations are few and large, so contention is rare.
    const ARENAS: i32 = 2;

    /// Buffers of at least this size are mapped, so that freeing returns them to the system.
    const MMAP_THRESHOLD: i32 = 256 << 10;

    #[expect(unsafe_code, reason = "`mallopt` is a C function")]
    pub(super) fn configure() {
        // SAFETY: `mallopt` takes two integers and changes only allocator settings; it ignores invalid
        // values.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        }
    }
}
