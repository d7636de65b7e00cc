//! Console output: results to stdout, everything else to stderr.
//!
//! Either can be closed early, for example by `| head -1`.

use std::{
    io::{self, ErrorKind, Write},
    sync::{Mutex, PoisonError},
};

/// The first error of printing to stdout.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line to stdout. After the first error, prints nothing; [`failure`] returns the error.
pub(crate) fn print(line: &str) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    let line = format!("{line}\n");
    *failure = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).err();
}

/// Prints a line to stderr. Errors are ignored: there is nowhere else to report them.
pub(crate) fn eprint(line: &str) {
    // A single write, so that lines of several processes do not interleave.
    io::stderr().lock().write_all(format!("{line}\n").as_bytes()).ok();
}

/// Returns the error of printing to stdout, unless the reader closed the pipe.
pub(crate) fn failure() -> Option<io::Error> {
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.filter(|failure| failure.kind() != ErrorKind::BrokenPipe)
}
