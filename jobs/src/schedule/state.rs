//! The state of a service on disk: its history and the reports of its runs, in a folder that one service at
//! a time uses and only its owner opens.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{private, reports::Reports, service::ServiceError};

const LOCK: &str = "lock";
const HISTORY: &str = "history.db";
const REPORTS: &str = "reports";

/// What SQLite keeps beside the history while the service works.
const HISTORY_COMPANIONS: [&str; 2] = ["history.db-wal", "history.db-shm"];

/// The state of a service on disk.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held as long as the service works.
    _lock: File,
}

impl StateDir {
    /// Takes the state at `path`, making the folder where there is none.
    pub(crate) fn take(path: &Path) -> Result<Self, ServiceError> {
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

    /// Returns the pages about runs.
    pub(crate) fn reports(&self) -> Result<Reports, ServiceError> {
        Reports::open(self.path.join(REPORTS)).map_err(|source| self.failed(source))
    }

    /// Returns the path of the history, creating an empty file: SQLite gives the files that it keeps beside
    /// a database the mode of the database.
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

/// Restricts the folder of a state to its owner. One that holds other files too may be meant for others, so
/// it keeps its mode.
fn restrict_dir(path: &Path) -> io::Result<()> {
    if !private::is_open_to_others(path)? {
        return Ok(());
    }
    let known = [LOCK, HISTORY, REPORTS, HISTORY_COMPANIONS[0], HISTORY_COMPANIONS[1]];
    for entry in path.read_dir()? {
        let name = entry?.file_name();
        if !known.iter().any(|known| name == *known) {
            let (path, other) = (path.display(), name.display());
            tracing::warn!(%path, %other, "state folder shared with other files keeps its mode");
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
    fn a_state_of_an_earlier_version_is_restricted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir_all(path.join("reports")).unwrap();
        for name in ["lock", "history.db", "history.db-wal", "history.db-shm", "reports/1.html"] {
            drop(File::create(path.join(name)).unwrap());
            open_to_all(&path.join(name), 0o666);
        }
        open_to_all(&path, 0o777);
        open_to_all(&path.join("reports"), 0o777);
        let state = StateDir::take(&path).unwrap();
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
        let state = StateDir::take(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
        assert_eq!(mode(&state.history().unwrap()), 0o600);
    }
}
