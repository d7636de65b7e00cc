//! Files and folders that only their owner may open: the history holds the logs of runs, and reports show
//! rows and media.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// Creates a folder of mode 0700, and its missing parents. An existing folder is left as it is.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file to be written, creating it with mode 0600; an existing one is restricted to that.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    restrict(path);
    Ok(file)
}

/// Takes every right of other users to a file or folder away. Where that fails it stays usable, so the log
/// has a warning.
pub(crate) fn restrict(path: &Path) {
    match try_restrict(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "other users can open this path");
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

/// Returns whether other users have any right to a file or folder.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

/// Returns whether other users have any right to a file or folder: elsewhere the folder above decides.
#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_: &Path) -> io::Result<bool> {
    Ok(false)
}
