//! The pages about runs, as they were when each ended: a file each in the state of the service. The output
//! has only that of its last run.

use std::path::{Path, PathBuf};

use super::{private, record::RunId};

/// The most that are kept; of more the oldest go.
const KEPT: usize = 300;

/// The folder of the pages.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    dir: PathBuf,
}

impl Reports {
    /// Takes the folder `dir`, making it where there is none.
    pub(crate) fn open(dir: PathBuf) -> std::io::Result<Self> {
        private::create_dir(&dir)?;
        private::restrict(&dir);
        Ok(Self { dir })
    }

    /// Returns where the page about a run is to lie.
    pub(crate) fn path(&self, run: RunId) -> PathBuf {
        self.dir.join(format!("{run}.html"))
    }

    /// Reads the page about a run, if there is one.
    pub(crate) fn read(&self, run: RunId) -> std::io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(run)) {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Restricts the pages to their owner, as runs write them with the mode of any file, and removes the
    /// oldest where there are too many.
    pub(crate) fn tidy(&self) {
        let run_of = |path: &Path| path.file_stem()?.to_str()?.parse::<RunId>().ok();
        let entries = self.dir.read_dir().into_iter().flatten().filter_map(Result::ok);
        let mut pages: Vec<(RunId, PathBuf)> = entries
            .map(|entry| entry.path())
            .filter_map(|path| Some((run_of(&path)?, path)))
            .collect();
        pages.sort_unstable_by_key(|(run, _)| std::cmp::Reverse(*run));
        for (_, path) in pages.iter().take(KEPT) {
            private::restrict(path);
        }
        for (_, path) in pages.drain(KEPT.min(pages.len())..) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old report stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Reports};

    #[test]
    fn the_newest_pages_stay() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Reports::open(dir.path().join("reports")).unwrap();
        let n_runs = i64::try_from(KEPT).unwrap() + 5;
        for run in 1..=n_runs {
            drop(std::fs::File::create(reports.path(run)).unwrap());
        }
        reports.tidy();
        assert!(reports.read(5).unwrap().is_none() && reports.read(6).unwrap().is_some());
        assert!(reports.read(n_runs).unwrap().is_some());
    }
}
