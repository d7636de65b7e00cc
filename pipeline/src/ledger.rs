//! The output folder: its parts, its rejects, and the ledger that says what is committed.
//!
//! ```text
//! <output>/part-<span>.parquet          answers of one span
//! <output>/rejects/rejects-<span>.parquet
//! <output>/_legenda/plan.json           what the run set out to do
//! <output>/_legenda/ledger/<span>.json  the truth on resume: written after the part
//! <output>/_legenda/tmp/                files not yet whole
//! <output>/_legenda/lock                held by the one run that writes
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use legenda_schemas::{
    job::Format,
    ledger::{LEDGER_VERSION, LedgerEntry, Plan},
    span::SpanId,
};

use crate::{
    crash,
    sink::{WriteError, write_whole},
};

/// Why an output cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of the ledger cannot be read.
    #[error(
        "cannot read `{path}` of the output's ledger: {problem}; restore it, or start anew with `--overwrite`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no output.
    #[error("`{path}` is no output of a run: it holds no `_legenda/plan.json`")]
    NoOutput {
        /// The folder.
        path: PathBuf,
    },
    /// Another version of this program wrote there.
    #[error(
        "`{path}` has version {version} of the ledger's format, this program reads {LEDGER_VERSION}: use the program that wrote it, or start anew with `--overwrite`"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Another job wrote there.
    #[error(
        "`{path}` holds the answers of another job; what differs: {differing}; choose another `output.path`, or replace them with `--overwrite`"
    )]
    OtherJob {
        /// The output folder.
        path: PathBuf,
        /// The keys.
        differing: String,
    },
    /// A folder with files that are not ours.
    #[error(
        "`{path}` holds part files but no ledger, so another program wrote them: choose another `output.path`"
    )]
    Foreign {
        /// The output folder.
        path: PathBuf,
    },
    /// Another run is writing there now.
    #[error(
        "another run ({owner}) is writing to `{path}`: wait for it, or choose another `output.path`"
    )]
    Locked {
        /// The output folder.
        path: PathBuf,
        /// Who it says it is.
        owner: String,
    },
}

/// Where the files of an output lie.
#[derive(Clone, Debug)]
pub(crate) struct OutputPaths {
    root: PathBuf,
    /// The format of parts and rejects.
    pub(crate) format: Format,
}

impl OutputPaths {
    /// Finds the output of earlier runs at `root`.
    pub(crate) fn find(root: &Path) -> Result<Self, LedgerError> {
        let mut this = Self { root: root.to_owned(), format: Format::default() };
        if !this.plan().is_file() {
            return Err(LedgerError::NoOutput { path: root.to_owned() });
        }
        let format = this.read_plan()?.identity.get("output.format").cloned();
        this.format = serde_json::from_value(format.unwrap_or_default())
            .map_err(|error| LedgerError::Read { path: this.plan(), problem: error.to_string() })?;
        Ok(this)
    }

    /// Returns where the answers of a span go.
    pub(crate) fn part(&self, id: &SpanId) -> PathBuf {
        self.root.join(id.part_name(self.format.extension()))
    }

    /// Returns where the rejects of a span go.
    pub(crate) fn rejects(&self, id: &SpanId) -> PathBuf {
        self.root.join("rejects").join(format!("rejects-{id}.{}", self.format.extension()))
    }

    /// Returns the folders of parts and rejects, and how the names of their files begin.
    pub(crate) fn tables(&self) -> [(PathBuf, &'static str); 2] {
        [(self.root.clone(), "part-"), (self.root.join("rejects"), "rejects-")]
    }

    fn state(&self) -> PathBuf {
        self.root.join("_legenda")
    }

    fn ledger(&self) -> PathBuf {
        self.state().join("ledger")
    }

    fn tmp(&self) -> PathBuf {
        self.state().join("tmp")
    }

    fn plan(&self) -> PathBuf {
        self.state().join("plan.json")
    }

    /// Reads the plan of the last run.
    pub(crate) fn read_plan(&self) -> Result<Plan, LedgerError> {
        read_json(&self.plan())
    }

    /// Reads the ledger: each entry and its file.
    pub(crate) fn read_entries(&self) -> Result<Vec<(PathBuf, LedgerEntry)>, LedgerError> {
        let files = files_in(&self.ledger(), "")?.into_iter();
        files.map(|path| Ok((path.clone(), read_json(&path)?))).collect()
    }
}

/// An output folder that this process alone may write.
#[derive(Debug)]
pub struct OutputDir {
    paths: OutputPaths,
    /// Held until dropped; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

/// What earlier runs left behind.
#[derive(Debug, Default)]
pub struct Committed {
    /// The committed spans of the plan.
    pub entries: BTreeMap<SpanId, LedgerEntry>,
    /// How many committed spans were removed because their input has changed or gone.
    pub superseded: usize,
}

impl OutputDir {
    /// Opens the output folder `root` for the plan: takes the lock, compares the plan with that of
    /// earlier runs, removes what was never committed or belongs to changed inputs, and writes the
    /// plan down. With `overwrite` everything that earlier runs wrote is removed first.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn open(
        root: &Path,
        format: Format,
        plan: &Plan,
        overwrite: bool,
    ) -> Result<(Self, Committed), LedgerError> {
        let paths = OutputPaths { root: root.to_owned(), format };
        let known = paths.plan().is_file();
        if !known && root.is_dir() && !files_in(root, "part-")?.is_empty() {
            return Err(LedgerError::Foreign { path: root.to_owned() });
        }
        for dir in [paths.ledger(), paths.tmp(), root.join("rejects")] {
            fs::create_dir_all(&dir).map_err(|error| WriteError::new(&dir, error))?;
            crash::step();
        }
        let lock = lock(root, &paths.state().join("lock"))?;
        let this = Self { paths, _lock: lock };
        let paths = &this.paths;
        clear(&paths.tmp(), "", |_| false)?;
        if overwrite {
            // Entries go first: what has none is redone.
            clear(&paths.ledger(), "", |_| false)?;
            for (dir, prefix) in paths.tables() {
                clear(&dir, prefix, |_| false)?;
            }
        } else if known {
            this.compare(&paths.read_plan()?, plan)?;
        }
        let text = serde_json::to_vec_pretty(plan).unwrap_or_default();
        this.write_json(&paths.plan(), &text)?;
        let committed = this.recover(plan)?;
        Ok((this, committed))
    }

    fn compare(&self, old: &Plan, new: &Plan) -> Result<(), LedgerError> {
        if old.fingerprint == new.fingerprint {
            return Ok(());
        }
        let keys: HashSet<&String> = old.identity.keys().chain(new.identity.keys()).collect();
        let mut differing: Vec<String> = keys
            .into_iter()
            .filter(|key| old.identity.get(*key) != new.identity.get(*key))
            .map(|key| format!("`{key}`"))
            .collect();
        differing.sort();
        Err(LedgerError::OtherJob {
            path: self.paths.root.clone(),
            differing: differing.join(", "),
        })
    }

    /// Reads the ledger; removes entries of no planned span, and files without an entry.
    fn recover(&self, plan: &Plan) -> Result<Committed, LedgerError> {
        let planned: HashSet<SpanId> =
            plan.spans.iter().map(|span| span.id(&plan.fingerprint)).collect();
        let mut committed = Committed::default();
        let mut kept: HashSet<PathBuf> = HashSet::new();
        for (path, entry) in self.paths.read_entries()? {
            let part = self.paths.part(&entry.id);
            let has_part = entry.part_sha256.is_none() || part.is_file();
            let rejects = self.paths.rejects(&entry.id);
            let has_rejects = entry.rejects_sha256.is_none() || rejects.is_file();
            if planned.contains(&entry.id) && entry.balances() && has_part && has_rejects {
                kept.extend([part, rejects]);
                committed.entries.insert(entry.id.clone(), entry);
            } else {
                // The entry goes first: what has none is redone.
                remove(&path)?;
                committed.superseded += 1;
            }
        }
        for (dir, prefix) in self.paths.tables() {
            clear(&dir, prefix, |path| kept.contains(path))?;
        }
        Ok(committed)
    }

    /// Returns where the answers of a span go.
    #[must_use]
    pub fn part_path(&self, id: &SpanId) -> PathBuf {
        self.paths.part(id)
    }

    /// Returns where the rejects of a span go.
    #[must_use]
    pub fn rejects_path(&self, id: &SpanId) -> PathBuf {
        self.paths.rejects(id)
    }

    /// Writes a part or rejects file of a span; it is committed only by [`OutputDir::commit`].
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_file(
        &self,
        path: &Path,
        write: impl FnOnce(&mut dyn Write) -> Result<(), String>,
    ) -> Result<String, WriteError> {
        write_whole(&self.paths.tmp(), path, write)
    }

    /// Puts the ledger entry of a span whose files are written: from here on it is done.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn commit(&self, entry: &LedgerEntry) -> Result<(), WriteError> {
        let path = self.paths.ledger().join(entry.id.ledger_name());
        self.write_json(&path, &serde_json::to_vec_pretty(entry).unwrap_or_default())
    }

    /// Writes the report of a run to `_legenda/report.json`.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_report(&self, json: &[u8]) -> Result<(), WriteError> {
        self.write_json(&self.paths.state().join("report.json"), json)
    }

    fn write_json(&self, path: &Path, json: &[u8]) -> Result<(), WriteError> {
        let write = |out: &mut dyn Write| out.write_all(json).map_err(|error| error.to_string());
        self.write_file(path, write).map(|_| ())
    }
}

fn lock(root: &Path, path: &Path) -> Result<File, LedgerError> {
    let io_error = |error: io::Error| WriteError::new(path, error);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The owner's name only helps the message.
            if file.read_to_string(&mut owner).is_err() || owner.trim().is_empty() {
                owner = "of unknown name".to_owned();
            }
            return Err(LedgerError::Locked {
                path: root.to_owned(),
                owner: owner.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(error).into()),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "process {}", std::process::id()))
        .map_err(io_error)?;
    Ok(file)
}

/// Removes the files of `dir` whose names begin with `prefix`, but for those to `keep`.
fn clear(dir: &Path, prefix: &str, keep: impl Fn(&PathBuf) -> bool) -> Result<(), LedgerError> {
    for path in files_in(dir, prefix)? {
        if !keep(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), WriteError> {
    fs::remove_file(path).map_err(|error| WriteError::new(path, error))?;
    crash::step();
    Ok(())
}

pub(crate) fn files_in(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, LedgerError> {
    let read_error =
        |error: io::Error| LedgerError::Read { path: dir.to_owned(), problem: error.to_string() };
    let mut files = Vec::new();
    for entry in dir.read_dir().map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(prefix) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LedgerError> {
    let read_error = |problem: String| LedgerError::Read { path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(|error| read_error(error.to_string()))?;
    // The version is looked at first: of another one nothing else may be as it is here.
    let Versioned { version } =
        serde_json::from_slice(&bytes).map_err(|error| read_error(error.to_string()))?;
    if version != LEDGER_VERSION {
        return Err(LedgerError::Version { path: path.to_owned(), version });
    }
    serde_json::from_slice(&bytes).map_err(|error| read_error(error.to_string()))
}

/// What every version of the ledger's files has.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use legenda_schemas::{
        job::Format,
        ledger::{LEDGER_VERSION, LedgerEntry, Plan},
        span::{Fingerprint, SourceObject, Span},
    };

    use super::{LedgerError, OutputDir};

    fn plan(job: &str, sizes: &[u64]) -> Plan {
        let span = |size_bytes| Span {
            object: SourceObject { path: "/t.parquet".into(), size_bytes, modified_ns: 1 },
            row_group: 0,
            row_start: 0,
            n_rows: 2,
            file_row_start: 0,
        };
        Plan {
            version: LEDGER_VERSION,
            fingerprint: Fingerprint::of([job.as_bytes()]),
            identity: BTreeMap::from([("task".to_owned(), job.into())]),
            spans: sizes.iter().map(|&size| span(size)).collect(),
        }
    }

    fn commit(out: &OutputDir, plan: &Plan, span_idx: usize) {
        let span = &plan.spans[span_idx];
        let id = span.id(&plan.fingerprint);
        let part = out.part_path(&id);
        let digest = out
            .write_file(&part, |out| out.write_all(b"part").map_err(|error| error.to_string()))
            .unwrap();
        let entry = LedgerEntry {
            version: LEDGER_VERSION,
            id,
            span: span.clone(),
            rows_in: 2,
            answers: 2,
            rejects: BTreeMap::new(),
            tokens_generated: 4,
            part_sha256: Some(digest),
            rejects_sha256: None,
        };
        out.commit(&entry).unwrap();
    }

    fn open(root: &Path, plan: &Plan) -> (OutputDir, super::Committed) {
        OutputDir::open(root, Format::Parquet, plan, false).unwrap()
    }

    fn parts(root: &Path) -> usize {
        super::files_in(root, "part-").unwrap().len()
    }

    #[test]
    fn committed_spans_are_found_and_uncommitted_parts_removed() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan("job", &[1, 2]);
        let (out, committed) = open(dir.path(), &plan);
        assert!(committed.entries.is_empty());
        commit(&out, &plan, 0);
        let stray = out.part_path(&plan.spans[1].id(&plan.fingerprint));
        fs::File::create(&stray).unwrap();
        drop(out);
        let (_out, committed) = open(dir.path(), &plan);
        assert_eq!(committed.entries.len(), 1);
        assert_eq!(parts(dir.path()), 1);
        assert!(!stray.is_file());
    }

    #[test]
    fn spans_of_a_changed_input_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let old = plan("job", &[1]);
        let (out, _) = open(dir.path(), &old);
        commit(&out, &old, 0);
        drop(out);
        let (_out, committed) = open(dir.path(), &plan("job", &[9]));
        assert_eq!((committed.entries.len(), committed.superseded, parts(dir.path())), (0, 1, 0));
    }

    #[test]
    fn another_job_is_refused_by_the_key_that_differs() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), &plan("job", &[1])));
        let refused = OutputDir::open(dir.path(), Format::Parquet, &plan("other", &[1]), false);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("`task`"), "{message}");
        OutputDir::open(dir.path(), Format::Parquet, &plan("other", &[1]), true).unwrap();
    }

    #[test]
    fn a_second_writer_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan("job", &[1]);
        let first = open(dir.path(), &plan);
        let second = OutputDir::open(dir.path(), Format::Parquet, &plan, false);
        assert!(matches!(second, Err(LedgerError::Locked { .. })));
        drop(first);
        open(dir.path(), &plan);
    }
}
