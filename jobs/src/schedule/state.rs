//! The state directory of a service: its history and the reports of its runs. One service at a time uses
//! it, and only its owner can open it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{private, reports::Reports, service::ServiceError};

const LOCK: &str = "lock";
const HISTORY: &str = "history.db";
const REPORTS: &str = "reports";

/// The files that SQLite keeps next to the history.
const HISTORY_COMPANIONS: [&str; 2] = ["history.db-wal", "history.db-shm"];

/// The state directory of a service.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held for the lifetime of the service.
    _lock: File,
}

impl StateDir {
    /// Locks the state directory at `path`; creates it if it is missing.
    pub(crate) fn acquire(path: &Path) -> Result<Self, ServiceError> {
        let failed = |source| ServiceError::State { path: path.to_owned(), source };
        private::create_dir(path).map_err(failed)?;
        restrict_dir(path).map_err(failed)?;
        let lock = private::open_file(&path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(ServiceError::Locked { path: path.to_owned() })
            }
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Opens the reports of runs.
    pub(crate) fn reports(&self) -> Result<Reports, ServiceError> {
        Reports::open(self.path.join(REPORTS)).map_err(|source| self.failed(source))
    }

    /// Returns the path of the history; creates an empty file with the right mode, which SQLite copies to
    /// the files next to it.
    pub(crate) fn history(&self) -> Result<PathBuf, ServiceError> {
        let path = self.path.join(HISTORY);
        drop(private::open_file(&path).map_err(|source| self.failed(source))?);
        for name in HISTORY_COMPANIONS {
            private::restrict(&self.path.join(name));
        }
        Ok(path)
    }

    fn failed(&self, source: io::Error) -> ServiceError {
        ServiceError::State { path: self.path.clone(), source }
    }
}

/// Restricts the state directory to its owner, unless it contains other files, which may be shared on
/// purpose.
fn restrict_dir(path: &Path) -> io::Result<()> {
    if !private::is_open_to_others(path)? {
        return Ok(());
    }
    let known = [LOCK, HISTORY, REPORTS, HISTORY_COMPANIONS[0], HISTORY_COMPANIONS[1]];
    for entry in path.read_dir()? {
        let name = entry?.file_name();
        if !known.iter().any(|known| name == *known) {
            let (path, other) = (path.display(), name.display());
            tracing::warn!(%path, %other, "kept the mode of a state directory with other files");
            return Ok(());
        }
    }
    private::restrict(path);
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File, Permissions},
        os::unix::fs::PermissionsExt,
        path::Path,
    };

    use super::StateDir;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn open_to_all(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_state_directory_of_an_earlier_version_is_restricted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir_all(path.join("reports")).unwrap();
        for name in ["lock", "history.db", "history.db-wal", "history.db-shm", "reports/1.html"] {
            drop(File::create(path.join(name)).unwrap());
            open_to_all(&path.join(name), 0o666);
        }
        open_to_all(&path, 0o777);
        open_to_all(&path.join("reports"), 0o777);
        let state = StateDir::acquire(&path).unwrap();
        let history = state.history().unwrap();
        state.reports().unwrap().tidy();
        for (name, expected) in [("", 0o700), ("lock", 0o600), ("reports", 0o700)] {
            assert_eq!(mode(&path.join(name)), expected, "{name}");
        }
        for name in ["history.db-wal", "history.db-shm", "reports/1.html"] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&history), 0o600);
    }

    #[test]
    fn a_folder_with_other_files_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path(), 0o755);
        drop(File::create(dir.path().join("job.toml")).unwrap());
        let state = StateDir::acquire(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
        assert_eq!(mode(&state.history().unwrap()), 0o600);
    }
}
