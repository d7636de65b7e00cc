//! Verifies that an output contains every row of its input exactly once, and reports any problem.
//!
//! Reads the manifest, the footers of the input files, the ledger, and every byte of the parts and rejects;
//! writes nothing.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use arrow::array::RecordBatch;
use legenda_schemas::{
    cause::{Cause, chain},
    job::{RejectsMode, Source, SourceFormat},
    ledger::{CommittedFile, LedgerEntry, Manifest, StoredJob},
    span::{SourceObject, Span, SpanId},
    table::ROW_COLUMN,
};

use crate::{
    base::store::Folder,
    input::source::{BytesRead, Listed, SourceTable, TableFile, list_files},
    output::{
        ledger::{LedgerError, OutputFiles, is_partitioned, sha256},
        sidecar,
    },
    run::retry::row_numbers,
};

/// A problem of an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Planned spans have no ledger entry.
    #[error(
        "the output is incomplete: {rows} of {rows_planned} rows are not committed; run the job again to resume"
    )]
    Unfinished {
        /// The number of rows in those spans.
        rows: u64,
        /// The number of rows in all spans.
        rows_planned: u64,
    },
    /// A ledger entry belongs to no planned span.
    #[error("the ledger entry `{id}` is not in the manifest: run the job again")]
    NotPlanned {
        /// The span.
        id: SpanId,
    },
    /// The counts of a ledger entry contradict each other or the manifest.
    #[error(
        "the ledger entry `{id}` counts {rows_in} rows, {answers} answers and {rejects} rejects, but its span has {n_rows} rows"
    )]
    Counts {
        /// The span.
        id: SpanId,
        /// Input rows according to the entry.
        rows_in: u64,
        /// Answers according to the entry.
        answers: u64,
        /// Rejects according to the entry.
        rejects: u64,
        /// Rows of the span according to the manifest.
        n_rows: u64,
    },
    /// A committed file is missing.
    #[error("`{path}` is committed but missing: run the job again")]
    Missing {
        /// The file.
        path: String,
    },
    /// A file differs from the committed one.
    #[error(
        "`{path}` has changed since it was committed: expected SHA-256 {expected}, got {actual}; remove it and run the job again"
    )]
    Digest {
        /// The file.
        path: String,
        /// Its digest in hex.
        actual: String,
        /// The committed digest in hex.
        expected: String,
    },
    /// A file cannot be read.
    #[error("failed to read `{path}`")]
    Unreadable {
        /// The file.
        path: String,
        /// The reader's error.
        source: Cause,
    },
    /// The number of rows in a file differs from its ledger entry.
    #[error("`{path}` has {actual} rows, but its ledger entry counts {expected}")]
    Rows {
        /// The file.
        path: String,
        /// The number of rows in the file.
        actual: u64,
        /// The number of rows in the ledger.
        expected: u64,
    },
    /// A reject file names a row twice, or one outside its span.
    #[error("`{path}` does not name {expected} distinct rows of its span")]
    RejectedRows {
        /// The file.
        path: String,
        /// The expected number of rows.
        expected: u64,
    },
    /// A part or reject file without a ledger entry.
    #[error("`{path}` was never committed: run the job again to remove it")]
    Stray {
        /// The file.
        path: String,
    },
    /// A part rewrite of a retry was interrupted.
    #[error(
        "the rewrite of the part of span `{id}` was interrupted: run the job or `legenda retry` again to recover"
    )]
    Rewritten {
        /// The span.
        id: SpanId,
    },
    /// Some sidecars are not written yet.
    #[error("`{path}` lists sidecars that are not written yet: run the job again to write them")]
    Sidecars {
        /// The note.
        path: String,
    },
    /// An input file changed after it was planned.
    #[error("the input `{path}` has changed since it was read: run the job again")]
    InputChanged {
        /// The file.
        path: String,
    },
    /// An input file cannot be read.
    #[error("failed to read the input `{path}`: {problem}")]
    Input {
        /// The file.
        path: String,
        /// The reason.
        problem: String,
    },
    /// The spans of the manifest do not cover every row of an input file exactly once.
    #[error(
        "the manifest does not cover every row of row group {row_group} of `{path}` exactly once"
    )]
    Uncovered {
        /// The file.
        path: String,
        /// The row group.
        row_group: usize,
    },
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Verification {
    /// Committed input rows.
    pub rows_in: u64,
    /// Answered rows.
    pub answers: u64,
    /// Rejected rows.
    pub rejects: u64,
    /// Committed spans.
    pub n_spans: usize,
    /// All problems; empty if the output is sound.
    pub problems: Vec<Problem>,
}

/// Verifies the output in `folder`.
///
/// A job with `source.query` keeps only some rows of a span. The query is not run again, so the ledger's
/// count of them is trusted. For kept spans, whose input has changed or vanished or which another job has
/// answered, the input is not checked.
///
/// # Errors
///
/// [`LedgerError`] if there is no output or its ledger cannot be read.
pub fn verify(folder: Folder) -> Result<Verification, LedgerError> {
    let output = OutputFiles::find(folder)?;
    let no_output = || LedgerError::NoOutput { path: output.folder.path_of("") };
    let (plan, entries) = (output.read_plan()?.ok_or_else(no_output)?, output.read_entries()?);
    let identity_value = |key: &str| plan.identity.get(key).cloned().unwrap_or_default();
    let inline = identity_value("output.rejects") == serde_json::json!(RejectsMode::Inline);
    let chooses = !identity_value("source.query").is_null();
    let mut found = Verification::default();
    let format = serde_json::from_value(identity_value("source.format")).unwrap_or_default();
    let inputs = Inputs { format, output: &output, groups: OnceCell::new() };
    let some_only = chooses || !identity_value("--limit").is_null();
    check_inputs(&plan, &inputs, some_only, &mut found.problems);

    let mut committed: BTreeMap<SpanId, LedgerEntry> =
        entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
    let mut kept = HashSet::new();
    let (mut rows_planned, mut rows_missing) = (0, 0);
    let planned = plan.spans.iter().map(|span| (span.id(&plan.fingerprint), span));
    for (id, span) in planned.chain(plan.kept.iter().map(|kept| (kept.id.clone(), &kept.span))) {
        let n_rows = span.n_rows as u64;
        let Some(entry) = committed.remove(&id) else {
            rows_planned += n_rows;
            rows_missing += n_rows;
            continue;
        };
        let rejects = entry.n_rejects();
        rows_planned += entry.rows_in;
        let (rows_in, answers) = (entry.rows_in, entry.answers);
        let in_parts: u64 = entry.parts.iter().map(|file| file.rows).sum();
        let in_rejects = entry.rejects_file.as_ref().map_or(0, |file| file.rows);
        let as_counted = if inline { (rows_in, 0) } else { (answers, rejects) };
        if !entry.balances()
            || rows_in > n_rows
            || (rows_in < n_rows && !chooses)
            || (in_parts, in_rejects) != as_counted
        {
            found.problems.push(Problem::Counts { id, rows_in, answers, rejects, n_rows });
        }
        if entry.before.is_some() {
            kept.extend(entry.files().map(|file| file.name.clone()));
            found.problems.push(Problem::Rewritten { id: entry.id });
            continue;
        }
        found.n_spans += 1;
        found.rows_in += rows_in;
        found.answers += answers;
        found.rejects += rejects;
        for file in entry.files() {
            let checked = check_file(&output, file).and_then(|rows| {
                let names_rows = entry.rejects_file.as_ref() == Some(file);
                let path = || output.folder.path_of(&file.name);
                if names_rows { check_rejected_rows(path, &rows, span) } else { Ok(()) }
            });
            found.problems.extend(checked.err());
            kept.insert(file.name.clone());
        }
    }
    found.problems.extend(committed.into_keys().map(|id| Problem::NotPlanned { id }));
    let there = output.list_tables(is_partitioned(&plan))?;
    let strays = there.iter().filter(|key| !kept.contains(*key));
    if rows_missing > 0 {
        // This includes partly processed files of a run that ended early.
        let rows = rows_missing;
        found.problems.insert(0, Problem::Unfinished { rows, rows_planned });
    } else {
        let stray = |key: &String| Problem::Stray { path: output.folder.path_of(key) };
        found.problems.extend(strays.map(stray));
    }
    let waiting = sidecar::waiting(&output.folder)?;
    let path = |key: String| output.folder.path_of(&key);
    found.problems.extend(waiting.into_iter().map(|key| Problem::Sidecars { path: path(key) }));
    Ok(found)
}

/// Lists the input files again.
struct Inputs<'a> {
    /// The source format in the job.
    format: Option<SourceFormat>,
    output: &'a OutputFiles,
    /// Groups of media files, by the path of the first.
    groups: OnceCell<Result<HashMap<String, TableFile>, String>>,
}

impl Inputs<'_> {
    /// Opens the input at `path` and passes it to `check`.
    fn look<T>(&self, path: &str, check: impl FnOnce(&TableFile) -> T) -> Result<T, String> {
        let listed = Listed::new(path.to_owned(), self.format);
        if listed.format == SourceFormat::Media {
            let groups = self.groups.get_or_init(|| self.list_media()).as_ref();
            let groups = groups.map_err(String::clone)?;
            let gone = || "the file and those beside it are grouped differently now".to_owned();
            return Ok(check(groups.get(path).ok_or_else(gone)?));
        }
        let file = TableFile::open(&listed, u64::MAX, &BytesRead::default());
        file.map(|file| check(&file)).map_err(|error| chain(&error))
    }

    /// Lists the media files as the job did.
    fn list_media(&self) -> Result<HashMap<String, TableFile>, String> {
        let StoredJob { job, base_dir, .. } =
            self.output.read_job().map_err(|error| chain(&error))?;
        let Source { paths, format, follow_links, .. } = &job.source;
        let listed = list_files(paths, Path::new(&base_dir), *format, *follow_links);
        let mut listed = listed.map_err(|error| chain(&error))?.files;
        listed.retain(|file| file.format == SourceFormat::Media);
        let table = SourceTable::open(&listed, u64::MAX).map_err(|error| chain(&error))?;
        Ok(table.files.into_iter().map(|file| (file.object.path.clone(), file)).collect())
    }
}

/// Checks that the input files are unchanged and that the spans cover each of their rows exactly once, or
/// only some of them if `some_only`.
fn check_inputs(
    plan: &Manifest,
    inputs: &Inputs<'_>,
    some_only: bool,
    problems: &mut Vec<Problem>,
) {
    let mut spans: BTreeMap<&str, (&SourceObject, Vec<&Span>)> = BTreeMap::new();
    // Answers of another job for the current version of a file count too.
    let planned_files: HashSet<&SourceObject> =
        plan.spans.iter().map(|span| &span.object).collect();
    let kept = plan.kept.iter().map(|kept| &kept.span);
    let kept = kept.filter(|span| planned_files.contains(&span.object));
    for span in plan.spans.iter().chain(kept) {
        let object = &span.object;
        spans.entry(&object.path).or_insert_with(|| (object, Vec::new())).1.push(span);
    }
    for (path, (object, spans)) in spans {
        let checked =
            inputs.look(path, |file| check_input(file, object, spans, some_only, problems));
        if let Err(problem) = checked {
            problems.push(Problem::Input { path: path.to_owned(), problem });
        }
    }
}

/// Checks that an input file is unchanged and that its spans cover each of its rows exactly once.
fn check_input(
    file: &TableFile,
    object: &SourceObject,
    mut spans: Vec<&Span>,
    some_only: bool,
    problems: &mut Vec<Problem>,
) {
    let path = &object.path;
    if file.object != *object {
        problems.push(Problem::InputChanged { path: path.to_owned() });
        return;
    }
    spans.sort_by_key(|span| (span.row_group, span.row_start));
    for (row_group, size) in file.row_groups.iter().enumerate() {
        let group_spans = spans.iter().filter(|span| span.row_group == row_group);
        let mut next = 0;
        let mut twice = false;
        let mut gaps = false;
        for span in group_spans {
            twice |= span.row_start < next;
            gaps |= span.row_start > next;
            next = span.row_start + span.n_rows;
        }
        gaps |= next < size.n_rows;
        if twice || next > size.n_rows || (gaps && !some_only) {
            problems.push(Problem::Uncovered { path: path.to_owned(), row_group });
        }
    }
}

/// Checks that a committed file exists and has the recorded digest and row count; returns its rows.
fn check_file(output: &OutputFiles, file: &CommittedFile) -> Result<Vec<RecordBatch>, Problem> {
    let path = || output.folder.path_of(&file.name);
    let unreadable = |source: Cause| Problem::Unreadable { path: path(), source };
    let bytes = output.folder.read(&file.name).map_err(|error| unreadable(error.source.into()))?;
    let bytes = bytes.ok_or_else(|| Problem::Missing { path: path() })?;
    let actual = sha256(&bytes);
    if actual != file.sha256 {
        return Err(Problem::Digest { path: path(), actual, expected: file.sha256.clone() });
    }
    let rows = output.decode(file, bytes).map_err(|error| unreadable(error.into()))?;
    let actual = rows.iter().map(|rows| rows.num_rows() as u64).sum();
    if actual != file.rows {
        return Err(Problem::Rows { path: path(), actual, expected: file.rows });
    }
    Ok(rows)
}

/// Checks that rejects name distinct rows of their span.
fn check_rejected_rows(
    path: impl Fn() -> String,
    batches: &[RecordBatch],
    span: &Span,
) -> Result<(), Problem> {
    let mut named = HashSet::new();
    let mut expected = 0;
    for batch in batches {
        let column = row_numbers(batch).ok_or_else(|| Problem::Unreadable {
            path: path(),
            source: format!("missing column `{ROW_COLUMN}`").into(),
        })?;
        named.extend(column.values().iter().copied());
        expected += batch.num_rows();
    }
    let span_rows = span.file_row_start..span.file_row_start + span.n_rows as u64;
    if named.len() != expected || !named.iter().all(|row| span_rows.contains(row)) {
        return Err(Problem::RejectedRows { path: path(), expected: expected as u64 });
    }
    Ok(())
}
