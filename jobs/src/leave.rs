//! Ends the process while threads may still be within a call of ONNX Runtime.
//!
//! Nobody waits for rows in slots once the grace of a stop is over, and no call of the model can be cut
//! off. Were the process to end as usual, destructors of the library would run beside its own threads,
//! and it would log errors or crash.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use crate::failure::Exit;

/// Ends the process at once where it was interrupted; otherwise returns its exit code.
#[cfg_attr(unix, expect(unsafe_code, reason = "see `SAFETY`"))]
pub(crate) fn leave(exit: Exit) -> ExitCode {
    if exit == Exit::Interrupted {
        // What cannot be written now never will be.
        stdout().flush().ok();
        stderr().flush().ok();
        #[cfg(unix)]
        // SAFETY: `_exit` (POSIX.1-2017) may be called at any time: it runs no handler or destructor, and
        // what is to last was written and synced when it was committed.
        unsafe {
            libc::_exit(i32::from(exit.code()))
        }
    }
    exit.into()
}
