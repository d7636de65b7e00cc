//! What the program prints: results to stdout, everything else to stderr.
//!
//! Neither may be there to the end: the reader of a pipe takes what it needs and goes (`| head -1`).

use std::{
    io::{self, ErrorKind, Write},
    sync::{Mutex, PoisonError},
};

/// Why results cannot be printed any more, if they cannot.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line to stdout. Once that fails, nothing more is printed; [`failure`] says why.
pub(crate) fn print(line: &str) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    let line = format!("{line}\n");
    *failure = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).err();
}

/// Prints a line to stderr, where it does not mix with results. If nobody can read it, there is nobody to
/// tell.
pub(crate) fn tell(line: &str) {
    // At once, so that lines of several processes do not mix.
    io::stderr().lock().write_all(format!("{line}\n").as_bytes()).ok();
}

/// Returns why results could not be printed, unless their reader has only gone.
pub(crate) fn failure() -> Option<io::Error> {
    let failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.filter(|failure| failure.kind() != ErrorKind::BrokenPipe)
}
