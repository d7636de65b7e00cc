//! Text files that must not exist.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::Path,
};

use anyhow::anyhow;

use crate::failure::Failure;

/// Writes a new text file, whose name `option` passed.
pub(crate) fn write_new(file: &Path, text: &str, option: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    match opened.and_then(|mut opened| opened.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(already_exists(file, option)),
        Err(error) => {
            let context = format!("failed to write `{}`", file.display());
            Err(Failure::resumable(anyhow::Error::new(error).context(context)))
        }
    }
}

/// Returns the error about an existing file, whose name `option` passed.
pub(crate) fn already_exists(file: &Path, option: &str) -> Failure {
    let error = anyhow!("`{}` already exists", file.display());
    Failure::config(error).hint(format!("pass another file to `{option}`"))
}
