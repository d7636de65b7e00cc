//! An output: its parts, its rejects, and the ledger that says what is committed.
//!
//! Keys are those of [`Folder`](crate::store::Folder), which puts `_legenda/` and `rejects/` into the
//! folder beside the output:
//!
//! ```text
//! <output>/part-<file>-<row>-<digest>.parquet   answers of one span
//! <output>/<column>=<value>/part-…              where the job partitions answers
//! <output>.legenda/rejects/rejects-….parquet
//! <output>.legenda/plan.json                    what the run set out to do
//! <output>.legenda/job.json                     the job, for `legenda retry`
//! <output>.legenda/prediction.json              what `legenda plan` said of it
//! <output>.legenda/sidecars/                    what sidecars are to become, until they are
//! <output>.legenda/schemas/                     the Arrow schemas of JSON Lines files
//! <output>.legenda/ledger/<span>.json           the truth on resume: written after the part
//! <output>.legenda/lock, lease.json             held by the one run that writes: on a disk, in a store
//! ```

mod difference;
mod error;
mod files;
mod recover;
mod remainder;
mod rows;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use legenda_schemas::{
    hex,
    job::Incremental,
    ledger::{CommittedFile, LedgerEntry, Plan, StoredJob},
    span::{SourceObject, SpanId},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    sidecar::NOTES,
    store::{self, Hold, HoldError, LeaseTerms, PLAN, WriteError},
};

pub use self::{
    error::LedgerError,
    files::{Earlier, OutputFiles},
    rows::{Described, Rows},
};
pub(crate) use self::{
    recover::LIMIT,
    remainder::{around, slice},
};

const JOB: &str = "_legenda/job.json";
const LEDGER: &str = "_legenda/ledger";
const SCHEMAS: &str = "_legenda/schemas";
/// Hex digits of the digest in the name of a schema's file.
const SCHEMA_CHARS: usize = 16;

/// How the names of parts begin.
const PART: &str = "part-";

/// The key of a job that puts answers into folders.
const PARTITION_BY: &str = "output.partition_by";

/// Returns whether answers of a plan stand in folders.
pub(crate) fn is_partitioned(plan: &Plan) -> bool {
    plan.identity.contains_key(PARTITION_BY)
}

/// An output that this run alone may write.
#[derive(Debug)]
pub struct Output {
    files: OutputFiles,
    hold: Hold,
    /// Whether answers of this run, or of one before, may stand in folders.
    is_partitioned: bool,
    holds_media: bool,
}

/// What earlier runs left behind.
#[derive(Debug, Default)]
pub struct Committed {
    /// The committed spans of the plan.
    pub entries: BTreeMap<SpanId, LedgerEntry>,
    /// Committed spans that stay, and are none of the plan.
    pub kept: Vec<LedgerEntry>,
    /// How many committed spans were removed because their input has changed or gone, or to be done
    /// anew.
    pub superseded: usize,
}

/// What becomes of answers that another job has made, in the same output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// The run is refused.
    #[default]
    Refuse,
    /// They stay, and only what is outstanding is done by the job as it is now.
    Keep,
    /// They are removed, and done again.
    Redo,
}

/// What is opened, and how.
#[derive(Clone, Copy, Debug)]
pub struct OpenOutput<'a> {
    /// What the run sets out to do.
    pub plan: &'a Plan,
    /// The files of the source, also those behind a limit.
    pub objects: &'a HashSet<&'a SourceObject>,
    /// Remove what earlier runs wrote first.
    pub overwrite: bool,
    /// What is done again of files that have changed.
    pub incremental: Incremental,
    /// What becomes of answers of another job.
    pub stale: Stale,
    /// The terms of the lease, in an object store.
    pub lease: LeaseTerms,
    /// Whether answers carry images or sounds, so that nobody else may look into their folders.
    pub holds_media: bool,
}

impl Output {
    /// Opens an output for a plan: makes sure of being the only writer, compares the plan with that of
    /// earlier runs, removes what was never committed or is to be done again, and writes the plan
    /// down. Returns the plan as it was written, without the spans that need not be done.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub fn open(
        files: OutputFiles,
        opening: OpenOutput<'_>,
    ) -> Result<(Self, Plan, Committed), LedgerError> {
        let OpenOutput { plan, overwrite, incremental, stale, lease, holds_media, .. } = opening;
        let folder = &files.folder;
        let earlier = folder.read(PLAN)?;
        if earlier.is_none() && !files.list_tables(is_partitioned(plan))?.is_empty() {
            return Err(LedgerError::Foreign { path: folder.path_of("") });
        }
        folder.make_dirs(&[LEDGER, SCHEMAS, NOTES, "rejects"], holds_media)?;
        let hold = folder.hold(lease).map_err(|error| match error {
            HoldError::Held { owner } => LedgerError::Locked { path: folder.path_of(""), owner },
            HoldError::Failed(error) => error.into(),
        })?;
        // Of whatever version and state it is.
        let earlier: serde_json::Value =
            earlier.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let was_partitioned = !earlier["identity"][PARTITION_BY].is_null();
        let is_partitioned = was_partitioned || is_partitioned(plan);
        let this = Self { files, hold, is_partitioned, holds_media };
        this.files.folder.clear_unfinished()?;
        let old = if overwrite { None } else { this.files.read_plan()? };
        if let Some(old) = &old {
            this.files.compare(old, plan, stale)?;
        }
        let entries = if overwrite { Vec::new() } else { this.read_settled()? };
        let redo_all =
            overwrite || (incremental == Incremental::All && recover::is_whole(plan, &entries));
        let entries = if redo_all { Vec::new() } else { entries };
        if redo_all {
            // Entries go first: what has none is redone.
            for key in this.files.folder.list(LEDGER, "")? {
                this.remove(&key)?;
            }
            this.clear_tables(&HashSet::new())?;
        }
        let (plan, committed) = this.recover(opening, old.as_ref(), entries)?;
        this.write_plan(&plan)?;
        Ok((this, plan, committed))
    }

    /// Writes the plan down, in the place of the one before.
    pub(crate) fn write_plan(&self, plan: &Plan) -> Result<(), WriteError> {
        self.write_json(PLAN, plan)
    }

    /// Writes a file of answers of a span of the source's `file_number`-th file into `folder` (the root:
    /// `""`), beside the parts that `entry` has
    /// since it was begun or its rejects were tried again; it counts only when [`Output::commit`] names it.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_part(
        &self,
        entry: &LedgerEntry,
        file_number: usize,
        folder: &str,
        rows: Rows,
    ) -> Result<CommittedFile, WriteError> {
        let mut stem = format!("{PART}{}", file_stem(entry, file_number));
        if !folder.is_empty() {
            self.files.folder.make_dirs(&[folder], self.holds_media)?;
            stem = format!("{folder}/{stem}");
        }
        let n_before = entry.parts.iter().filter(|part| part.name.starts_with(&stem)).count();
        // Behind the first one where names are sorted.
        let piece = if n_before == 0 { String::new() } else { format!("_{:04}", n_before + 1) };
        self.write_rows(stem + &piece, rows)
    }

    /// Writes the file of rejects of a span of the source's `file_number`-th file; it counts only when
    /// [`Output::commit`] names it.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_rejects(
        &self,
        entry: &LedgerEntry,
        file_number: usize,
        rows: Rows,
    ) -> Result<CommittedFile, WriteError> {
        self.write_rows(format!("rejects/rejects-{}", file_stem(entry, file_number)), rows)
    }

    fn write_rows(&self, stem: String, rows: Rows) -> Result<CommittedFile, WriteError> {
        let name = format!("{stem}.{}", self.files.format.extension());
        let file = self.describe(name, &rows)?;
        self.files.folder.create(&file.name, rows.bytes)?;
        Ok(file)
    }

    /// Writes the one part of a span again, under its name, so that who reads parts never finds a row
    /// twice or not at all. The `earlier` entry counts until it is written, and `entry` from then on,
    /// which [`Output::commit`] puts down.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn rewrite_part(
        &self,
        entry: &mut LedgerEntry,
        earlier: &LedgerEntry,
        rows: Rows,
    ) -> Result<(), WriteError> {
        for part in &earlier.parts {
            entry.parts = vec![self.describe(part.name.clone(), &rows)?];
        }
        let announced = LedgerEntry { before: Some(Box::new(earlier.clone())), ..entry.clone() };
        let key = entry_key(&entry.id);
        self.files.folder.replace(&key, self.json(&key, &announced)?)?;
        for part in &entry.parts {
            self.check_hold(&part.name)?;
            self.files.folder.replace(&part.name, rows.bytes.clone())?;
        }
        Ok(())
    }

    /// Describes rows that are to be written to `name`, and writes their schema down.
    fn describe(&self, name: String, rows: &Rows) -> Result<CommittedFile, WriteError> {
        let sha256 = sha256(&rows.bytes);
        self.check_hold(&name)?;
        let schema = rows.schema.as_ref().map(|schema| self.write_schema(schema)).transpose()?;
        Ok(CommittedFile { name, rows: rows.n_rows, sha256, schema })
    }

    /// Writes a schema down, unless it is; returns its key.
    fn write_schema(&self, Described { schema, bytes }: &Described) -> Result<String, WriteError> {
        let key = format!("{SCHEMAS}/{}.arrow", &sha256(bytes)[..SCHEMA_CHARS]);
        let mut schemas = self.files.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if !schemas.contains_key(&key) {
            self.files.folder.replace(&key, bytes.clone())?;
            schemas.insert(key.clone(), Arc::clone(schema));
        }
        Ok(key)
    }

    /// Puts the ledger entry of a span whose files are written: from here on it is done. Of a retried
    /// span it takes the place of the `earlier` entry, whose files it no longer names go afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn commit(
        &self,
        entry: &LedgerEntry,
        earlier: Option<&LedgerEntry>,
    ) -> Result<(), WriteError> {
        let key = entry_key(&entry.id);
        let bytes = self.json(&key, entry)?;
        self.check_hold(&key)?;
        let Some(earlier) = earlier else {
            return self.files.folder.create(&key, bytes);
        };
        self.files.folder.replace(&key, bytes)?;
        let named: HashSet<&str> = entry.files().map(|file| file.name.as_str()).collect();
        let mut gone = earlier.files().filter(|file| !named.contains(file.name.as_str()));
        gone.try_for_each(|file| self.remove(&file.name))
    }

    /// Writes down the job that is executed, for [`OutputFiles::read_job`].
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_job(&self, job: &StoredJob) -> Result<(), WriteError> {
        self.write_json(JOB, job)
    }

    /// Writes a file of the report of a run, as JSON.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_report(&self, key: &str, report: &impl Serialize) -> Result<(), WriteError> {
        self.write_json(key, report)
    }

    /// Writes the page of the report of a run.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn write_page(&self, key: &str, html: String) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.replace(key, html.into())
    }

    /// Reads the output.
    #[must_use]
    pub fn files(&self) -> &OutputFiles {
        &self.files
    }

    pub(crate) fn write_json(&self, key: &str, value: &impl Serialize) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.replace(key, self.json(key, value)?)
    }

    /// Returns what is written to the file `key`.
    fn json(&self, key: &str, value: &impl Serialize) -> Result<Bytes, WriteError> {
        let path = self.files.folder.path_of(key);
        store::json(value).map_err(|problem| WriteError::new(path, problem))
    }

    pub(crate) fn remove(&self, key: &str) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.remove(key)
    }

    /// Removes parts and files of rejects, but for those to keep.
    fn clear_tables(&self, kept: &HashSet<String>) -> Result<(), LedgerError> {
        for key in self.files.list_tables(self.is_partitioned)? {
            if !kept.contains(&key) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Checks that no other run can have taken the output over.
    fn check_hold(&self, key: &str) -> Result<(), WriteError> {
        if self.hold.is_held() {
            return Ok(());
        }
        Err(WriteError::new(
            self.files.folder.path_of(key),
            "this run stood still or could not reach the store for so long that its lease of the output \
             ran out, and another run may have it",
        ))
    }
}

/// Returns the SHA-256 of a file's bytes, hex, as `sha256sum` prints it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(bytes);
    hex(digest)
}

fn entry_key(id: &SpanId) -> String {
    format!("{LEDGER}/{}", id.ledger_name())
}

/// Hex digits of a span's digest in the names of its files, beside the place of its rows.
const NAME_CHARS: usize = 8;

/// Returns what the names of a span's files are told apart by: sorted, they are in input order. A retry's
/// files have names of their own, so that those they follow stay until it is committed.
fn file_stem(entry: &LedgerEntry, file_number: usize) -> String {
    let (id, row) = (entry.id.as_str(), entry.span.file_row_start);
    let digest = &id[id.len().saturating_sub(NAME_CHARS)..];
    let stem = format!("{file_number:05}-{row:09}-{digest}");
    match entry.retries {
        0 => stem,
        n => format!("{stem}-retry{n}"),
    }
}

#[cfg(test)]
mod tests;
