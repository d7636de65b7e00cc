//! Change detection for the folder of job files, by polling.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use chrono::{DateTime, Utc};
use legenda_schemas::{cause::chain, job::Job};

use super::{record::Second, scheduler::JobFile};

/// A change of a job file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The file is new or changed.
    Loaded(String, JobFile),
    /// The file was deleted.
    Deleted(String),
}

/// The folder of job files: every `*.toml` in it, by name.
#[derive(Debug)]
pub(crate) struct JobFolder {
    dir: PathBuf,
    seen: BTreeMap<String, (SystemTime, u64)>,
    /// Files that were missing in the last poll: an editor may be replacing them.
    missing: BTreeSet<String>,
}

impl JobFolder {
    /// Creates a watcher for `dir`; it reads nothing yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: BTreeMap::new(), missing: BTreeSet::new() }
    }

    /// Returns the changes since the last poll. A file counts as deleted when it is missing twice in a row.
    pub(crate) fn poll(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            let is_job = path.extension().is_some_and(|extension| extension == "toml");
            if !is_job || name.starts_with('.') {
                continue;
            }
            // Follows symlinks, which Kubernetes uses for mounted files. The file may be gone by now.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !metadata.is_file() {
                continue;
            }
            let name = name.to_owned();
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let stamp = (changed, metadata.len());
            present.insert(name.clone());
            if self.seen.get(&name) != Some(&stamp) {
                let changed = Second::from_instant(DateTime::<Utc>::from(changed));
                changes.push(Change::Loaded(name.clone(), JobFile { job: read(&path), changed }));
                self.seen.insert(name, stamp);
            }
        }
        let missing: BTreeSet<String> =
            self.seen.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in missing.intersection(&self.missing) {
            self.seen.remove(name);
            changes.push(Change::Deleted(name.clone()));
        }
        self.missing = missing;
        Ok(changes)
    }
}

fn read(path: &Path) -> Result<Box<Job>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("failed to read the file: {error}"))?;
    Job::parse(&text, &[]).map(Box::new).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, path::Path};

    use super::{Change, JobFolder};
    use crate::schedule::scheduler::tests::JOB;

    fn write(path: &Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn changes(folder: &mut JobFolder) -> Vec<String> {
        let text = |change: Change| match change {
            Change::Loaded(name, file) if file.job.is_ok() => format!("loaded {name}"),
            Change::Loaded(name, _) => format!("invalid {name}"),
            Change::Deleted(name) => format!("deleted {name}"),
        };
        let mut changes: Vec<String> = folder.poll().unwrap().into_iter().map(text).collect();
        changes.sort();
        changes
    }

    #[test]
    fn every_change_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = JobFolder::new(dir.path());
        write(&dir.path().join("a.toml"), JOB);
        write(&dir.path().join("b.toml"), "version = ");
        write(&dir.path().join("notes.txt"), "nothing");
        write(&dir.path().join(".hidden.toml"), JOB);
        assert_eq!(changes(&mut folder), ["invalid b.toml", "loaded a.toml"]);
        assert_eq!(changes(&mut folder), [""; 0]);
        write(&dir.path().join("b.toml"), JOB);
        assert_eq!(changes(&mut folder), ["loaded b.toml"]);
        std::fs::remove_file(dir.path().join("a.toml")).unwrap();
        assert_eq!(changes(&mut folder), [""; 0], "it may be about to be replaced");
        assert_eq!(changes(&mut folder), ["deleted a.toml"]);
        assert_eq!(changes(&mut folder), [""; 0]);
    }
}
