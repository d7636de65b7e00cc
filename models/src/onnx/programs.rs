//! Other programs that are asked for something, such that nothing in the current directory is run.

use std::{
    env::consts::EXE_SUFFIX,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Returns the program `name` of the folders in `PATH`. Relative folders, such as `.` or an empty one,
/// are passed over: they lead to the current directory.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("{name}{EXE_SUFFIX}")))
        .find(|file| file.is_file())
}

/// Returns a command of `python` in isolated mode (`-I`): no module comes from the current directory, from
/// `PYTHONPATH` or from the user's own packages.
pub(super) fn isolated(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-I").current_dir(root()).stdin(Stdio::null());
    command
}

/// A directory in which only the administrator puts files.
fn root() -> &'static Path {
    Path::new(std::path::MAIN_SEPARATOR_STR)
}
