//! The folder of job files, looked at now and then: what is new, what has changed, what is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use chrono::{DateTime, Utc};
use legenda_schemas::job::Job;

use super::{record::Second, scheduler::JobFile};

/// What has happened to a job file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It is new, or has changed.
    Loaded(String, JobFile),
    /// It is gone.
    Gone(String),
}

/// The folder of job files: every `*.toml` in it, by name.
#[derive(Debug)]
pub(crate) struct JobFolder {
    dir: PathBuf,
    seen: BTreeMap<String, (SystemTime, u64)>,
    /// Files that were not there when last looked for: an editor may be replacing them.
    missing: BTreeSet<String>,
}

impl JobFolder {
    /// Returns the folder at `dir`, not looked at yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: BTreeMap::new(), missing: BTreeSet::new() }
    }

    /// Looks at the folder. A file is gone when it was not there twice.
    pub(crate) fn look(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            let is_job = path.extension().is_some_and(|extension| extension == "toml");
            if !is_job || name.starts_with('.') {
                continue;
            }
            // Follows links: Kubernetes mounts files so. One that is gone again is not there.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !metadata.is_file() {
                continue;
            }
            let name = name.to_owned();
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let stamp = (changed, metadata.len());
            there.insert(name.clone());
            if self.seen.get(&name) != Some(&stamp) {
                let changed = Second::of(DateTime::<Utc>::from(changed));
                changes.push(Change::Loaded(name.clone(), JobFile { job: read(&path), changed }));
                self.seen.insert(name, stamp);
            }
        }
        let missing: BTreeSet<String> =
            self.seen.keys().filter(|name| !there.contains(*name)).cloned().collect();
        for name in missing.intersection(&self.missing) {
            self.seen.remove(name);
            changes.push(Change::Gone(name.clone()));
        }
        self.missing = missing;
        Ok(changes)
    }
}

fn read(path: &Path) -> Result<Box<Job>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
    Job::parse(&text, &[]).map(Box::new).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, path::Path};

    use super::{Change, JobFolder};
    use crate::schedule::scheduler::tests::JOB;

    fn write(path: &Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn told(folder: &mut JobFolder) -> Vec<String> {
        let text = |change: Change| match change {
            Change::Loaded(name, file) if file.job.is_ok() => format!("loaded {name}"),
            Change::Loaded(name, _) => format!("broken {name}"),
            Change::Gone(name) => format!("gone {name}"),
        };
        let mut told: Vec<String> = folder.look().unwrap().into_iter().map(text).collect();
        told.sort();
        told
    }

    #[test]
    fn every_change_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = JobFolder::new(dir.path());
        write(&dir.path().join("a.toml"), JOB);
        write(&dir.path().join("b.toml"), "version = ");
        write(&dir.path().join("notes.txt"), "nothing");
        write(&dir.path().join(".hidden.toml"), JOB);
        assert_eq!(told(&mut folder), ["broken b.toml", "loaded a.toml"]);
        assert_eq!(told(&mut folder), [""; 0]);
        write(&dir.path().join("b.toml"), JOB);
        assert_eq!(told(&mut folder), ["loaded b.toml"]);
        std::fs::remove_file(dir.path().join("a.toml")).unwrap();
        assert_eq!(told(&mut folder), [""; 0], "it may be about to be replaced");
        assert_eq!(told(&mut folder), ["gone a.toml"]);
        assert_eq!(told(&mut folder), [""; 0]);
    }
}
