//! A look at a table before any model is loaded: its columns, what its media are, and the job that may
//! be meant.
//!
//! Rows of a sample are read and their media decoded, as a run would, under the limits that a job has by
//! default. What a column holds its cells say by how they begin, not its name.

mod column;
mod medium;
mod proposal;
mod sample;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use legenda_schemas::job::{Columns, Incremental, Limits, OnBadFile, Source, SourceFormat};
use serde::Serialize;
use tokio::runtime::Handle;

use self::{column::Look, sample::Reading};
use crate::{
    media::locate::{MediaPlaces, PlacesError},
    source::{
        OpenTable, Skipped, SourceError, SourceFailed, SourceTable, TableFile, known::KnownColumns,
        list_files,
    },
};

pub use self::{
    column::{ColumnFacts, Holds, MediaFacts, Problem, Spread, TextFacts},
    proposal::Proposal,
};

/// Why a table cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The table.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The disk or the store fails.
    #[error("cannot read `{}`: {}; try again once this is mended", .0.path, .0.problem)]
    Failed(SourceFailed),
    /// Media cannot be looked for.
    #[error(transparent)]
    Places(#[from] PlacesError),
}

/// What a table is and holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// What its files are.
    pub format: SourceFormat,
    /// Its files.
    pub files: usize,
    /// Files that are not read.
    pub skipped: Skipped,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Row groups: of another format than Parquet the parts that are read at a time.
    pub row_groups: usize,
    /// Its rows.
    pub rows: u64,
    /// Rows of the sample; all that follows is about these.
    pub sampled: u64,
    /// Bytes read of the files for all this.
    pub bytes_read: u64,
    /// Rows of the sample that cannot be read, by the code of the reject that each would be.
    pub unreadable: BTreeMap<String, Problem>,
    /// Its columns.
    pub columns: Vec<ColumnFacts>,
}

/// Looks at the table that `entries` name, as `source.paths` of a job in `base_dir` would, by `rows_max`
/// rows of it. `runtime` may not be the one whose thread this is.
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
    let reading = Reading::new(&limits, MediaPlaces::new(&source, base_dir)?, runtime);
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

/// Begins to look at every column that a file of the table has.
fn looks(table: &SourceTable, format: SourceFormat) -> Vec<Look> {
    let mut looks: Vec<Look> = Vec::new();
    for field in table.files.iter().flat_map(|file| file.schema.fields()) {
        if looks.iter().all(|look| look.name() != field.name()) {
            let is_common = table.common_column("", field.name()).is_ok();
            // Where files are rows, their paths lead to what the row has anyway.
            looks.push(Look::new(field, is_common, format != SourceFormat::Media));
        }
    }
    looks
}
