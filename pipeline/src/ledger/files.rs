//! An output that can be read.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use bytes::Bytes;
use legenda_schemas::{
    job::Format,
    ledger::{CommittedFile, KeptSpan, LEDGER_VERSION, LedgerEntry, Plan, StoredJob},
    span::{Fingerprint, Span},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    JOB, LEDGER, LIMIT, LedgerError, PART, PARTITION_BY, Stale, difference::differences, entry_key,
};
use crate::{
    sink::{read_schema, read_table},
    source::{known::KnownColumns, partitions::Partitions},
    store::{Folder, PLAN, ReadError},
};

/// The keys of a job that decide what columns its answers have, and in which format.
const SHAPE: [&str; 6] =
    ["output.format", "output.rejects", "output.columns", PARTITION_BY, "source.columns", "task"];

/// What earlier runs have done.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// The spans of the files that are done whole, by the file's path.
    pub done: HashMap<String, Vec<Span>>,
    /// The paths of files of which rows are committed, by whatever job.
    pub known: HashSet<String>,
    /// The columns of files that are done.
    pub columns: KnownColumns,
}

/// An output that can be read, whoever writes it.
#[derive(Clone, Debug)]
pub struct OutputFiles {
    /// Where it lies.
    pub folder: Folder,
    /// The format of parts and rejects.
    pub format: Format,
    /// Schemas that were read or written, by their files.
    pub(super) schemas: Arc<Mutex<HashMap<String, SchemaRef>>>,
}

impl OutputFiles {
    /// Returns the output in `folder`, whose tables are in `format`. Nothing is read.
    #[must_use]
    pub fn new(folder: Folder, format: Format) -> Self {
        Self { folder, format, schemas: Arc::default() }
    }

    /// Finds the output of earlier runs in `folder`.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn find(folder: Folder) -> Result<Self, LedgerError> {
        let mut this = Self::new(folder, Format::default());
        let Some(plan) = this.read_plan()? else {
            return Err(LedgerError::NoOutput { path: this.folder.path_of("") });
        };
        let format = plan.identity.get("output.format").cloned().unwrap_or_default();
        this.format = serde_json::from_value(format).map_err(|error| LedgerError::Read {
            path: this.folder.path_of(PLAN),
            problem: error.to_string(),
        })?;
        Ok(this)
    }

    /// Reads the plan of the last run, if there was one.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn read_plan(&self) -> Result<Option<Plan>, LedgerError> {
        let bytes = self.folder.read(PLAN)?;
        bytes.map(|bytes| self.parse(PLAN, &bytes)).transpose()
    }

    /// Reads the ledger.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn read_entries(&self) -> Result<Vec<LedgerEntry>, LedgerError> {
        let read = self.folder.read_all(&self.folder.list(LEDGER, "")?)?;
        read.iter().map(|(key, bytes)| self.parse(key, bytes)).collect()
    }

    /// Returns what earlier runs have done, and which files those of the job `fingerprint` have done whole.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn earlier(&self, fingerprint: &Fingerprint) -> Result<Earlier, LedgerError> {
        let Some(plan) = self.read_plan()? else { return Ok(Earlier::default()) };
        let there: HashSet<String> = self.folder.list(LEDGER, "")?.into_iter().collect();
        // With a limit, a plan need not have every row of a file.
        let is_unlimited = plan.identity.get(LIMIT).is_none_or(Value::is_null);
        let may_be_done = plan.fingerprint == *fingerprint && is_unlimited;
        // An older program wrote none.
        let columns = serde_json::from_value(plan.columns).unwrap_or_default();
        let planned = plan.spans.into_iter().map(|span| (span.id(&plan.fingerprint), span));
        let kept = plan.kept.into_iter().map(|KeptSpan { id, span }| (id, span));
        let mut files: HashMap<String, Vec<Span>> = HashMap::new();
        let (mut known, mut undone) = (HashSet::new(), HashSet::new());
        for (id, span) in planned.chain(kept) {
            let path = span.object.path.clone();
            if there.contains(&entry_key(&id)) {
                known.insert(path.clone());
            } else {
                undone.insert(path.clone());
            }
            files.entry(path).or_default().push(span);
        }
        files.retain(|path, spans| {
            may_be_done
                && !undone.contains(path)
                && spans.iter().all(|span| span.object == spans[0].object)
        });
        Ok(Earlier { done: files, known, columns })
    }

    /// Returns the keys of all parts and files of rejects that are there; where answers may stand in
    /// folders of their own, of those too.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub(crate) fn list_tables(&self, is_partitioned: bool) -> Result<Vec<String>, ReadError> {
        let mut keys = self.folder.list("", PART)?;
        keys.extend(self.folder.list("rejects", "rejects-")?);
        if is_partitioned {
            for dir in self.folder.list_dirs()?.iter().filter(|dir| dir.contains('=')) {
                keys.extend(self.folder.list(dir, PART)?);
            }
        }
        Ok(keys)
    }

    /// Reads the job that the last run executed, as that run wrote it down.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn read_job(&self) -> Result<StoredJob, LedgerError> {
        let bytes = self.folder.read(JOB)?;
        let bytes = bytes.ok_or_else(|| LedgerError::NoOutput { path: self.folder.path_of("") })?;
        self.parse(JOB, &bytes)
    }

    /// Reads the rows of a committed file, whose bytes are at hand, with what its folder says of them.
    ///
    /// # Errors
    ///
    /// The decoder's.
    pub fn decode(
        &self,
        file: &CommittedFile,
        bytes: Bytes,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let batches = self.decode_bytes(file, bytes)?;
        let Some(first) = batches.first() else { return Ok(batches) };
        let partitions = Partitions::of(&file.name, &first.schema());
        if partitions.is_empty() {
            return Ok(batches);
        }
        batches.iter().map(|batch| partitions.add(batch)).collect()
    }

    fn decode_bytes(
        &self,
        file: &CommittedFile,
        bytes: Bytes,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let Some(key) = &file.schema else { return read_table(bytes, self.format, None) };
        let known = self.schemas.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let schema = match known {
            Some(schema) => schema,
            None => {
                let path = || self.folder.path_of(key);
                let refuse = |problem| ArrowError::SchemaError(format!("`{}` {problem}", path()));
                let read = self.folder.read(key).map_err(|error| refuse(error.problem))?;
                read_schema(read.ok_or_else(|| refuse("is gone".to_owned()))?)?
            }
        };
        let rows = read_table(bytes, self.format, Some(&schema));
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        schemas.entry(key.clone()).or_insert(schema);
        rows
    }

    /// Refuses the plan of a run if the output has answers of another job, as [`super::Output::open`]
    /// would.
    ///
    /// # Errors
    ///
    /// [`LedgerError::OtherJob`], [`LedgerError::OtherShape`], or that the output cannot be read.
    pub fn check_job(&self, plan: &Plan, stale: Stale) -> Result<(), LedgerError> {
        self.read_plan()?.map_or(Ok(()), |old| self.compare(&old, plan, stale))
    }

    /// Refuses `new` where `old` is of another job whose answers may not stay.
    pub(super) fn compare(&self, old: &Plan, new: &Plan, stale: Stale) -> Result<(), LedgerError> {
        if old.fingerprint == new.fingerprint || stale == Stale::Redo {
            return Ok(());
        }
        let path = self.folder.path_of("");
        if stale == Stale::Refuse {
            let mut differing = differences(&old.identity, &new.identity);
            // A limit is no part of the fingerprint, but it was in version 0.1.
            let is_limit = |line: &String| line.starts_with(LIMIT);
            if !differing.iter().all(is_limit) {
                differing.retain(|line| !is_limit(line));
            }
            return Err(LedgerError::OtherJob { path, differing: differing.join(", ") });
        }
        let shape = |plan: &Plan| {
            let mut shape = plan.identity.clone();
            shape.retain(|key, _| SHAPE.contains(&key.as_str()));
            // Another prompt makes other answers, and the same columns.
            let kind = shape.remove("task").map(|task| task["kind"].clone());
            shape.extend(kind.map(|kind| ("task.kind".to_owned(), kind)));
            shape
        };
        let differing = differences(&shape(old), &shape(new));
        if differing.is_empty() {
            return Ok(());
        }
        Err(LedgerError::OtherShape { path, differing: differing.join(", ") })
    }

    pub(crate) fn parse<T: DeserializeOwned>(
        &self,
        key: &str,
        bytes: &[u8],
    ) -> Result<T, LedgerError> {
        let path = || self.folder.path_of(key);
        let damaged = |error: serde_json::Error| LedgerError::Read {
            path: path(),
            problem: error.to_string(),
        };
        // The version is looked at first: of another one nothing else may be as it is here.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != LEDGER_VERSION {
            return Err(LedgerError::Version { path: path(), version });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// What every version of the ledger's files has.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}
