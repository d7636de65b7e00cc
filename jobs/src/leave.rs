//! Process exit while threads may still be inside ONNX Runtime.
//!
//! When the grace period of a stop is over, rows in slots are abandoned, but a running model call
//! cannot be cancelled. A normal exit would run the library's destructors concurrently with its
//! threads, which logs errors or crashes.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use crate::failure::Exit;

/// Exits immediately if the run was interrupted; otherwise returns the exit code.
#[cfg_attr(unix, expect(unsafe_code, reason = "see `SAFETY`"))]
pub(crate) fn leave(exit: Exit) -> ExitCode {
    if exit == Exit::Interrupted {
        // Nothing can be done about a failed flush here.
        stdout().flush().ok();
        stderr().flush().ok();
        #[cfg(unix)]
        // SAFETY: `_exit` (POSIX.1-2017) may be called at any time: it runs no handlers or destructors, and
        // committed data is already synced.
        unsafe {
            libc::_exit(i32::from(exit.code()))
        }
    }
    exit.into()
}
