//! The output of a run: its parts, its rejects, and the ledger of committed spans.
//!
//! Keys are those of [`Folder`](crate::base::store::Folder), which stores `_legenda/` and `rejects/` in the
//! folder beside the output:
//!
//! ```text
//! <output>/part-<file>-<row>-<digest>.parquet   answers of one span
//! <output>/<column>=<value>/part-…              if the job partitions answers
//! <output>.legenda/rejects/rejects-….parquet
//! <output>.legenda/plan.json                    the manifest: the spans and identity of the run
//! <output>.legenda/job.json                     the job, for `legenda retry`
//! <output>.legenda/prediction.json              the saved estimate of `legenda estimate`
//! <output>.legenda/sidecars/                    pending sidecar writes
//! <output>.legenda/schemas/                     the Arrow schemas of JSON Lines files
//! <output>.legenda/ledger/<span>.json           the commit record, written after the part
//! <output>.legenda/lock, lease.json             held by the one writing run: on disk, in a store
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
    ledger::{CommittedFile, LedgerEntry, Manifest, StoredJob},
    span::{SourceObject, SpanId},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    base::store::{self, Hold, HoldError, LeaseTerms, PLAN, WriteError},
    output::sidecar::NOTES,
};

pub use self::{error::LedgerError, files::OutputFiles};
pub(crate) use self::{
    files::Earlier,
    rows::{Described, Rows},
};
pub(crate) use self::{
    recover::LIMIT,
    remainder::{around, slice},
};

const JOB: &str = "_legenda/job.json";
const LEDGER: &str = "_legenda/ledger";
const SCHEMAS: &str = "_legenda/schemas";
/// Hex digits of the digest in the name of a schema file.
const SCHEMA_CHARS: usize = 16;

/// The name prefix of parts.
const PART: &str = "part-";

/// The job key that partitions answers into folders.
const PARTITION_BY: &str = "output.partition_by";

/// Returns whether the answers of a manifest are partitioned into folders.
pub(crate) fn is_partitioned(plan: &Manifest) -> bool {
    plan.identity.contains_key(PARTITION_BY)
}

/// An output that is locked by this run.
#[derive(Debug)]
pub(crate) struct Output {
    files: OutputFiles,
    hold: Hold,
    /// Whether answers of this or an earlier run may be in partition folders.
    is_partitioned: bool,
    holds_media: bool,
}

/// The results of earlier runs.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// The committed spans of the manifest.
    pub entries: BTreeMap<SpanId, LedgerEntry>,
    /// Committed spans that are kept but are not in the manifest.
    pub kept: Vec<LedgerEntry>,
    /// The number of committed spans removed because their input changed or vanished, or because they are
    /// to be recomputed.
    pub superseded: usize,
}

/// How to treat committed answers of another job in the same output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// Refuses to run.
    #[default]
    Refuse,
    /// Keeps them; only outstanding spans are processed by the current job.
    Keep,
    /// Removes and recomputes them.
    Redo,
}

/// The parameters of opening an output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenOutput<'a> {
    /// The manifest of this run.
    pub plan: &'a Manifest,
    /// The files of the source, including those beyond a limit.
    pub objects: &'a HashSet<&'a SourceObject>,
    /// Removes the output of earlier runs first.
    pub overwrite: bool,
    /// Which spans to recompute for changed files.
    pub incremental: Incremental,
    /// How to treat answers of another job.
    pub stale: Stale,
    /// The lease terms in an object store.
    pub lease: LeaseTerms,
    /// Whether answers contain images or audio, so that their folders must be private.
    pub holds_media: bool,
}

impl Output {
    /// Opens an output: takes the lock or lease, compares the manifest with that of earlier runs, removes
    /// uncommitted files and spans to recompute, and writes the manifest. Returns the manifest as written,
    /// without the spans that need no work.
    ///
    /// # Errors
    ///
    /// [`LedgerError`].
    pub(crate) fn open(
        files: OutputFiles,
        opening: OpenOutput<'_>,
    ) -> Result<(Self, Manifest, Committed), LedgerError> {
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
        // The earlier manifest may have any version or be damaged.
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
            // Remove entries first: a span without an entry is recomputed.
            for key in this.files.folder.list(LEDGER, "")? {
                this.remove(&key)?;
            }
            this.clear_tables(&HashSet::new())?;
        }
        let (plan, committed) = this.recover(opening, old.as_ref(), entries)?;
        this.write_plan(&plan)?;
        Ok((this, plan, committed))
    }

    /// Writes the manifest, replacing the previous one.
    pub(crate) fn write_plan(&self, plan: &Manifest) -> Result<(), WriteError> {
        self.write_json(PLAN, plan)
    }

    /// Writes answers of a span of the `file_number`-th source file into `folder` (`""` for the root), next
    /// to the parts already in `entry`. The part is not committed until [`Output::commit`] names it.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn write_part(
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
        // Sorts after the first part by name.
        let piece = if n_before == 0 { String::new() } else { format!("_{:04}", n_before + 1) };
        self.write_rows(stem + &piece, rows)
    }

    /// Writes the rejects of a span of the `file_number`-th source file. The file is not committed until
    /// [`Output::commit`] names it.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn write_rejects(
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

    /// Rewrites the only part of a span under the same name, so that readers of the output never see a row
    /// twice or miss one. The `earlier` entry is valid until the part is written, then `entry`, which
    /// [`Output::commit`] finalises.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn rewrite_part(
        &self,
        entry: &mut LedgerEntry,
        earlier: &LedgerEntry,
        rows: Rows,
    ) -> Result<(), WriteError> {
        let [part] = earlier.parts.as_slice() else {
            let problem =
                format!("the span has {} parts, expected exactly one", earlier.parts.len());
            return Err(WriteError::new(self.files.folder.path_of(&entry_key(&entry.id)), problem));
        };
        let part = self.describe(part.name.clone(), &rows)?;
        entry.parts = vec![part.clone()];
        let announced = LedgerEntry { before: Some(Box::new(earlier.clone())), ..entry.clone() };
        let key = entry_key(&entry.id);
        self.files.folder.replace(&key, self.json(&key, &announced)?)?;
        self.check_hold(&part.name)?;
        self.files.folder.replace(&part.name, rows.bytes)
    }

    /// Describes rows to be written to `name` and writes their schema.
    fn describe(&self, name: String, rows: &Rows) -> Result<CommittedFile, WriteError> {
        let sha256 = sha256(&rows.bytes);
        self.check_hold(&name)?;
        let schema = rows.schema.as_ref().map(|schema| self.write_schema(schema)).transpose()?;
        Ok(CommittedFile { name, rows: rows.n_rows, sha256, schema })
    }

    /// Writes a schema unless it exists; returns its key.
    fn write_schema(&self, Described { schema, bytes }: &Described) -> Result<String, WriteError> {
        let key = format!("{SCHEMAS}/{}.arrow", &sha256(bytes)[..SCHEMA_CHARS]);
        let mut schemas = self.files.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if !schemas.contains_key(&key) {
            self.files.folder.replace(&key, bytes.clone())?;
            schemas.insert(key.clone(), Arc::clone(schema));
        }
        Ok(key)
    }

    /// Writes the ledger entry of a span whose files are written, which commits it. The entry of a retried
    /// span replaces the `earlier` one, whose unreferenced files are then removed.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn commit(
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

    /// Writes the job of the run, for [`OutputFiles::read_job`].
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn write_job(&self, job: &StoredJob) -> Result<(), WriteError> {
        self.write_json(JOB, job)
    }

    /// Writes a JSON file of the run's report.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn write_report(
        &self,
        key: &str,
        report: &impl Serialize,
    ) -> Result<(), WriteError> {
        self.write_json(key, report)
    }

    /// Writes the HTML page of the run's report.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub(crate) fn write_page(&self, key: &str, html: String) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.replace(key, html.into())
    }

    /// Returns the readable side of the output.
    #[must_use]
    pub(crate) fn files(&self) -> &OutputFiles {
        &self.files
    }

    pub(crate) fn write_json(&self, key: &str, value: &impl Serialize) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.replace(key, self.json(key, value)?)
    }

    /// Serialises `value` for the file `key`.
    fn json(&self, key: &str, value: &impl Serialize) -> Result<Bytes, WriteError> {
        let path = self.files.folder.path_of(key);
        store::json(value).map_err(|problem| WriteError::new(path, problem))
    }

    pub(crate) fn remove(&self, key: &str) -> Result<(), WriteError> {
        self.check_hold(key)?;
        self.files.folder.remove(key)
    }

    /// Removes parts and reject files, except `kept`.
    fn clear_tables(&self, kept: &HashSet<String>) -> Result<(), LedgerError> {
        for key in self.files.list_tables(self.is_partitioned)? {
            if !kept.contains(&key) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Checks that no other run can have taken over the output.
    fn check_hold(&self, key: &str) -> Result<(), WriteError> {
        if self.hold.is_held() {
            return Ok(());
        }
        Err(WriteError::new(
            self.files.folder.path_of(key),
            "the lease of the output expired while this run was suspended or could not reach the store, \
             and another run may have taken it over",
        ))
    }
}

/// Returns the SHA-256 of a file in hex, as printed by `sha256sum`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(bytes);
    hex(digest)
}

fn entry_key(id: &SpanId) -> String {
    format!("{LEDGER}/{}", id.ledger_name())
}

/// Hex digits of a span's digest in its file names, after the position of its rows.
const NAME_CHARS: usize = 8;

/// Returns the common stem of a span's file names, which sort in input order. The files of a retry have
/// their own names, so that the previous ones stay until the retry is committed.
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
