//! Settings of the system's allocator, for a process that runs for hours with large buffers on many
//! threads.
//!
//! glibc gives each thread an arena of its own, and raises the size from which a buffer is a mapping
//! of its own with each that is freed: pixels that one thread allocates and another frees then leave
//! holes in every arena, and resident memory grows with the table though nothing is held.

/// Sets the allocator up; call it before the first thread starts. Does nothing where the system's
/// allocator is not glibc's.
pub(crate) fn settle() {
    #[cfg(target_env = "gnu")]
    glibc::settle();
}

#[cfg(target_env = "gnu")]
mod glibc {
    /// Two arenas: allocations are few and large, so threads seldom wait for each other.
    const ARENAS: i32 = 2;

    /// Buffers of this many bytes and more are mappings, which go back to the system when freed.
    const MAPPED_BYTES_MIN: i32 = 256 << 10;

    #[expect(unsafe_code, reason = "`mallopt` is a C function; it is this module's need")]
    pub(super) fn settle() {
        // SAFETY: `mallopt` takes two integers and touches the allocator's own settings alone; a
        // value that it does not take leaves them as they are.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        }
    }
}
