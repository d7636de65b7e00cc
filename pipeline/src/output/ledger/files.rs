//! Reading an output.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use bytes::Bytes;
use legenda_schemas::{
    job::Format,
    ledger::{CommittedFile, KeptSpan, LEDGER_VERSION, LedgerEntry, Manifest, StoredJob},
    span::{Fingerprint, Span},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    JOB, LEDGER, LIMIT, LedgerError, PART, PARTITION_BY, Stale, difference::differences, entry_key,
};
use crate::{
    base::store::{Folder, PLAN, ReadError},
    input::source::{known::KnownColumns, partitions::Partitions},
    output::sink::{read_schema, read_table},
};

/// The job keys that decide the columns and format of answers.
const SHAPE: [&str; 6] =
    ["output.format", "output.rejects", "output.columns", PARTITION_BY, "source.columns", "task"];

/// The results of earlier runs.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// The spans of completed files, by file path.
    pub done: HashMap<String, Vec<Span>>,
    /// The paths of files with committed rows, by any job.
    pub known: HashSet<String>,
    /// The columns of completed files.
    pub columns: KnownColumns,
}

/// The readable side of an output.
#[derive(Clone, Debug)]
pub struct OutputFiles {
    /// The output folder.
    pub folder: Folder,
    /// The format of parts and rejects.
    pub format: Format,
    /// A cache of schemas by file.
    pub(super) schemas: Arc<Mutex<HashMap<String, SchemaRef>>>,
}

impl OutputFiles {
    /// Returns the output in `folder` with tables in `format`. Does no I/O.
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
        this.format = serde_json::from_value(format)
            .map_err(|source| LedgerError::Read { path: this.folder.path_of(PLAN), source })?;
        Ok(this)
    }

    /// Reads the manifest of the last run, if any.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn read_plan(&self) -> Result<Option<Manifest>, LedgerError> {
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

    /// Returns the results of earlier runs, and which files the job `fingerprint` has completed.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn earlier(&self, fingerprint: &Fingerprint) -> Result<Earlier, LedgerError> {
        let Some(plan) = self.read_plan()? else { return Ok(Earlier::default()) };
        let there: HashSet<String> = self.folder.list(LEDGER, "")?.into_iter().collect();
        // With a limit, a manifest may not have every row of a file.
        let is_unlimited = plan.identity.get(LIMIT).is_none_or(Value::is_null);
        let may_be_done = plan.fingerprint == *fingerprint && is_unlimited;
        // Manifests of older versions have no columns.
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

    /// Returns the keys of all existing parts and reject files, including those in partition folders if
    /// `is_partitioned`.
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

    /// Reads the job of the last run as that run wrote it.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn read_job(&self) -> Result<StoredJob, LedgerError> {
        let bytes = self.folder.read(JOB)?;
        let bytes = bytes.ok_or_else(|| LedgerError::NoOutput { path: self.folder.path_of("") })?;
        self.parse(JOB, &bytes)
    }

    /// Decodes the rows of a committed file, adding the partition columns from its folder.
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
        let partitions = Partitions::from_path(&file.name, &first.schema());
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
                let read =
                    self.folder.read(key).map_err(|error| refuse(error.source.to_string()))?;
                read_schema(read.ok_or_else(|| refuse("is gone".to_owned()))?)?
            }
        };
        let rows = read_table(bytes, self.format, Some(&schema));
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        schemas.entry(key.clone()).or_insert(schema);
        rows
    }

    /// Checks the manifest of a run as [`super::Output::open`] would: fails if the output has answers of
    /// another job.
    ///
    /// # Errors
    ///
    /// [`LedgerError::OtherJob`], [`LedgerError::OtherShape`], or a read error.
    pub fn check_job(&self, plan: &Manifest, stale: Stale) -> Result<(), LedgerError> {
        self.read_plan()?.map_or(Ok(()), |old| self.compare(&old, plan, stale))
    }

    /// Fails if `old` is of another job whose answers may not stay next to those of `new`.
    pub(super) fn compare(
        &self,
        old: &Manifest,
        new: &Manifest,
        stale: Stale,
    ) -> Result<(), LedgerError> {
        if old.fingerprint == new.fingerprint || stale == Stale::Redo {
            return Ok(());
        }
        let path = self.folder.path_of("");
        if stale == Stale::Refuse {
            let mut differing = differences(&old.identity, &new.identity);
            // The limit is not in the fingerprint, but was in version 0.1.
            let is_limit = |line: &String| line.starts_with(LIMIT);
            if !differing.iter().all(is_limit) {
                differing.retain(|line| !is_limit(line));
            }
            return Err(LedgerError::OtherJob { path, differing: differing.join(", ") });
        }
        let shape = |plan: &Manifest| {
            let mut shape = plan.identity.clone();
            shape.retain(|key, _| SHAPE.contains(&key.as_str()));
            // Another prompt changes answers but not the schema.
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
        let damaged = |source| LedgerError::Read { path: path(), source };
        // Check the version first: in another version, every other field may differ.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != LEDGER_VERSION {
            return Err(LedgerError::Version { path: path(), version });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

/// The fields common to all versions of ledger files.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}
