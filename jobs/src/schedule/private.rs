//! Files and folders that only their owner can open: the history contains the logs of runs, and reports
//! contain rows and media.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// Creates a folder with mode 0700, and its missing parents. An existing folder keeps its mode.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file for writing, creating it with mode 0600; an existing file is restricted to that mode.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    restrict(path);
    Ok(file)
}

/// Removes all permissions of other users. On failure the path stays usable, and a warning is logged.
pub(crate) fn restrict(path: &Path) {
    match try_restrict(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "failed to make this path private to its owner");
        }
    }
}

#[cfg(unix)]
fn try_restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if is_open_to_others(path)? {
        let mut permissions = fs::metadata(path)?.permissions();
        permissions.set_mode(permissions.mode() & !0o077);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn try_restrict(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns whether other users have any permission on a file or folder.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

/// Returns `false`: on other systems the parent folder decides.
#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_: &Path) -> io::Result<bool> {
    Ok(false)
}
