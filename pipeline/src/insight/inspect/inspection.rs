//! The inspection of a table.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use legenda_schemas::job::{Columns, Incremental, Limits, OnBadFile, Source, SourceFormat};
use serde::Serialize;
use tokio::runtime::Handle;

use super::{
    column::{ColumnFacts, Look, Problem},
    sample::Reading,
};
use crate::input::{
    media::locate::{MediaRoots, MediaRootsError},
    source::{
        OpenTable, Skipped, SourceError, SourceFailed, SourceTable, TableFile, known::KnownColumns,
        list_files,
    },
};

/// An error of inspecting a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The table cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The disk or the store failed.
    #[error(transparent)]
    Failed(SourceFailed),
    /// The media roots cannot be used.
    #[error(transparent)]
    MediaRoots(#[from] MediaRootsError),
}

/// The summary of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The format of its files.
    pub format: SourceFormat,
    /// The number of files.
    pub files: usize,
    /// Skipped files.
    pub skipped: Skipped,
    /// The size of all files.
    pub file_bytes: u64,
    /// The number of row groups, or of equivalent ranges in other formats.
    pub row_groups: usize,
    /// The number of rows.
    pub rows: u64,
    /// The number of sampled rows, the basis of everything below.
    pub sampled: u64,
    /// The bytes read from the files.
    pub bytes_read: u64,
    /// Unreadable rows of the sample, by the reject code they would get.
    pub unreadable: BTreeMap<String, Problem>,
    /// Its columns.
    pub columns: Vec<ColumnFacts>,
}

/// Inspects the table of `entries`, resolved like `source.paths` of a job in `base_dir`, using up to
/// `rows_max` rows. `runtime` must not be that of the current thread.
///
/// # Errors
///
/// [`InspectError`].
pub fn inspect(
    entries: &[String],
    base_dir: &Path,
    format: Option<SourceFormat>,
    rows_max: usize,
    runtime: &Handle,
) -> Result<Inspection, InspectError> {
    let limits = Limits::default();
    let listing = list_files(entries, base_dir, format, false)?;
    let format = listing.files.first().map_or(SourceFormat::Parquet, |file| file.format);
    let table = SourceTable::open_as(OpenTable {
        listing,
        done: &HashMap::new(),
        known: &HashSet::new(),
        known_columns: KnownColumns::default(),
        on_bad_file: OnBadFile::Skip,
        media_bytes_max: limits.media_bytes.0,
    })?;
    let source = Source {
        paths: entries.to_vec(),
        format: Some(format),
        schema: BTreeMap::new(),
        query: None,
        tables: BTreeMap::new(),
        incremental: Incremental::default(),
        on_bad_file: OnBadFile::Skip,
        follow_links: false,
        columns: Columns::default(),
        media_dirs: Vec::new(),
        media_hosts: Vec::new(),
    };
    let reading = Reading::new(&limits, MediaRoots::new(&source, base_dir)?, runtime);
    let mut looks = looks(&table, format);
    let mut unreadable = BTreeMap::new();
    let sampled = reading.read(&table, rows_max, &mut looks, &mut unreadable)?;
    let media = |file: &TableFile| file.media().len().max(1);
    let size = |file: &TableFile| match file.media() {
        [] => file.object.size_bytes,
        media => media.iter().map(|file| file.size_bytes).sum(),
    };
    Ok(Inspection {
        format,
        files: table.files.iter().map(media).sum(),
        file_bytes: table.files.iter().map(size).sum(),
        row_groups: table.files.iter().map(|file| file.row_groups.len()).sum(),
        rows: table.files.iter().flat_map(|file| &file.row_groups).map(|g| g.n_rows as u64).sum(),
        sampled,
        skipped: table.skipped.clone(),
        bytes_read: table.bytes_read.total(),
        unreadable,
        columns: looks.into_iter().map(Look::facts).collect(),
    })
}

/// Starts the inspection of every column in any file of the table.
fn looks(table: &SourceTable, format: SourceFormat) -> Vec<Look> {
    let mut looks: Vec<Look> = Vec::new();
    for field in table.files.iter().flat_map(|file| file.schema.fields()) {
        if looks.iter().all(|look| look.name() != field.name()) {
            let is_common = table.common_column("", field.name()).is_ok();
            // Media files are rows themselves, so their paths add nothing.
            looks.push(Look::new(field, is_common, format != SourceFormat::Media));
        }
    }
    looks
}
