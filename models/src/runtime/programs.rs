//! External programs, run so that nothing in the current directory is executed.

use std::{
    env::consts::EXE_SUFFIX,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Finds the program `name` in `PATH`. Relative entries, such as `.` or an empty one, are ignored
/// because they refer to the current directory.
pub(super) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("{name}{EXE_SUFFIX}")))
        .find(|file| file.is_file())
}

/// Returns a command for `python` in isolated mode (`-I`), which ignores modules in the current
/// directory, `PYTHONPATH` and the user's own packages.
pub(super) fn isolated(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-I").current_dir(root()).stdin(Stdio::null());
    command
}

/// A directory that only the administrator can write to.
fn root() -> &'static Path {
    Path::new(std::path::MAIN_SEPARATOR_STR)
}
