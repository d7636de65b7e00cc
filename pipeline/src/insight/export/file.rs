//! An output as one file.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, ErrorKind},
    path::Path,
};

use arrow::{
    array::{Array, RecordBatch},
    datatypes::{Schema, SchemaRef},
};
use legenda_schemas::{
    cause::Cause,
    job::Format,
    ledger::{LedgerEntry, Manifest},
    span::SpanId,
    suggest::did_you_mean,
    table::INLINE_CODE_COLUMN,
};

use super::{ExportError, rows::Shape};
use crate::{
    base::store::Folder,
    output::{
        ledger::{LedgerError, OutputFiles},
        sink::TableWriter,
    },
};

/// What to export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// The format of the file.
    pub format: Format,
    /// Whether to add the rejects, with a null answer, their code and message.
    pub has_rejects: bool,
    /// The columns, in this order. Default: all.
    pub columns: Option<Vec<String>>,
    /// Whether an existing file is replaced.
    pub replaces: bool,
}

/// The result of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The number of exported rows.
    pub rows: u64,
    /// The number of rejects among them.
    pub rejects: u64,
    /// The number of rows that the run has not committed yet.
    pub rows_missing: u64,
}

/// Writes the rows of the output in `folder` to the local file `path`, in input order; rows of files that
/// later runs added follow those of earlier runs. The file appears whole or not at all, and one span is in
/// memory at a time.
///
/// # Errors
///
/// [`ExportError`].
pub fn export(
    folder: Folder,
    path: &Path,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let shown = || path.display().to_string();
    let write_error = |source: Cause| ExportError::Write { path: shown(), source };
    if !options.replaces && path.try_exists().map_err(|error| write_error(error.into()))? {
        return Err(ExportError::Exists { path: shown() });
    }
    let output = OutputFiles::find(folder)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = dir.canonicalize().map_err(|error| write_error(error.into()))?;
    let real = real.join(path.file_name().unwrap_or_default());
    if output.folder.holds(&real.to_string_lossy()) {
        return Err(ExportError::Inside { path: shown() });
    }
    let no_output = || LedgerError::NoOutput { path: output.folder.path_of("") };
    let manifest = output.read_plan()?.ok_or_else(no_output)?;
    let entries = in_order(&manifest, output.read_entries()?);
    let no_answers = || ExportError::NoAnswers { path: output.folder.path_of("") };
    let shape = Shape::find(&output, &entries, options.has_rejects)?.ok_or_else(no_answers)?;
    let chosen = options.columns.as_ref().map(|names| chosen(&shape.schema, names)).transpose()?;
    let schema = match &chosen {
        Some(chosen) => {
            SchemaRef::new(shape.schema.project(chosen).map_err(|error| write_error(error.into()))?)
        }
        None => SchemaRef::clone(&shape.schema),
    };

    let (file, temporary) =
        unfinished(dir).map_err(|error| write_error(error.into()))?.into_parts();
    let mut exported =
        Exported { rows_missing: rows_missing(&manifest, &entries), ..Exported::default() };
    let mut writer = TableWriter::new(options.format, &schema, BufWriter::new(file))
        .map_err(|error| write_error(error.into()))?;
    for entry in &entries {
        let rows = shape.rows(&output, entry)?;
        exported.rows += rows.num_rows() as u64;
        exported.rejects += n_rejects(&rows);
        let rows = match &chosen {
            Some(chosen) => rows.project(chosen).map_err(|error| write_error(error.into()))?,
            None => rows,
        };
        if rows.num_rows() > 0 {
            writer.write(&rows).map_err(|error| write_error(error.into()))?;
        }
    }
    let written = writer.finish().map_err(|error| write_error(error.into()))?;
    let file = finished(written).map_err(|error| write_error(error.into()))?;
    let file = tempfile::NamedTempFile::from_parts(file, temporary);
    let put = if options.replaces { file.persist(path) } else { file.persist_noclobber(path) };
    match put {
        Ok(_) => Ok(exported),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            Err(ExportError::Exists { path: shown() })
        }
        Err(error) => Err(write_error(error.error.into())),
    }
}

/// Writes what is buffered, and the file itself to the disk.
fn finished(written: BufWriter<File>) -> std::io::Result<File> {
    let file = written.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file)
}

/// Creates a hidden file in `dir` with the permissions of a new file.
fn unfinished(dir: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".legenda-").suffix(".unfinished");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        // The process's mask applies to it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(dir)
}

/// Returns the committed spans of a manifest by file and row. Files are in the order of the manifest, then
/// those of which only earlier answers are kept, by path.
fn in_order(manifest: &Manifest, entries: Vec<LedgerEntry>) -> Vec<LedgerEntry> {
    let mut files: HashMap<&str, usize> = HashMap::new();
    let mut known: HashSet<SpanId> = manifest.kept.iter().map(|kept| kept.id.clone()).collect();
    for span in &manifest.spans {
        let number = files.len();
        files.entry(&span.object.path).or_insert(number);
        known.insert(span.id(&manifest.fingerprint));
    }
    let mut entries: Vec<LedgerEntry> =
        entries.into_iter().filter(|entry| known.contains(&entry.id)).collect();
    entries.sort_by_cached_key(|LedgerEntry { span, .. }| {
        let path = span.object.path.clone();
        (files.get(path.as_str()).copied().unwrap_or(usize::MAX), path, span.file_row_start)
    });
    entries
}

/// Returns the number of planned rows without a committed span.
fn rows_missing(manifest: &Manifest, entries: &[LedgerEntry]) -> u64 {
    let planned: u64 = manifest.spans.iter().map(|span| span.n_rows as u64).sum();
    let kept: u64 = manifest.kept.iter().map(|kept| kept.span.n_rows as u64).sum();
    let there: u64 = entries.iter().map(|entry| entry.span.n_rows as u64).sum();
    (planned + kept).saturating_sub(there)
}

/// Returns the places of the chosen columns.
fn chosen(schema: &Schema, names: &[String]) -> Result<Vec<usize>, ExportError> {
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let place = |name: &String| {
        known.iter().position(|known| known == name).ok_or_else(|| ExportError::Column {
            column: name.clone(),
            suggestion: did_you_mean(name, known.iter().copied()),
            available: known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        })
    };
    names.iter().map(place).collect()
}

fn n_rejects(rows: &RecordBatch) -> u64 {
    let codes = rows.column_by_name(INLINE_CODE_COLUMN);
    codes.map_or(0, |codes| (codes.len() - codes.null_count()) as u64)
}
