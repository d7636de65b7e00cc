//! The reports of runs: one file per run in the state directory. An output keeps only the report of its
//! last run.

use std::path::{Path, PathBuf};

use super::{private, record::RunId};

/// The maximum number of reports; beyond it, the oldest are removed.
const REPORTS_MAX: usize = 300;

/// The folder of the reports.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    dir: PathBuf,
}

impl Reports {
    /// Opens the folder `dir`; creates it if it is missing.
    pub(crate) fn open(dir: PathBuf) -> std::io::Result<Self> {
        private::create_dir(&dir)?;
        private::restrict(&dir);
        Ok(Self { dir })
    }

    /// Returns the path of the report of a run.
    pub(crate) fn path(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("{run}.html"))
    }

    /// Reads the report of a run, if it exists.
    pub(crate) fn read(&self, run: RunId) -> std::io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(run)) {
            Ok(report) => Ok(Some(report)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Restricts the reports to their owner (runs write them with the default mode), and removes the oldest
    /// beyond the limit.
    pub(crate) fn tidy(&self) {
        let run_of = |path: &Path| path.file_stem()?.to_str()?.parse::<RunId>().ok();
        let entries = self.dir.read_dir().into_iter().flatten().filter_map(Result::ok);
        let mut reports: Vec<(RunId, PathBuf)> = entries
            .map(|entry| entry.path())
            .filter_map(|path| Some((run_of(&path)?, path)))
            .collect();
        reports.sort_unstable_by_key(|(run, _)| std::cmp::Reverse(*run));
        for (_, path) in reports.iter().take(REPORTS_MAX) {
            private::restrict(path);
        }
        for (_, path) in reports.drain(REPORTS_MAX.min(reports.len())..) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "failed to remove an old report");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{REPORTS_MAX, Reports};

    #[test]
    fn the_newest_reports_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Reports::open(dir.path().join("reports")).unwrap();
        let n_runs = i64::try_from(REPORTS_MAX).unwrap() + 5;
        for run in 1..=n_runs {
            drop(std::fs::File::create(reports.path(run)).unwrap());
        }
        reports.tidy();
        assert!(reports.read(5).unwrap().is_none() && reports.read(6).unwrap().is_some());
        assert!(reports.read(n_runs).unwrap().is_some());
    }
}
