//! The table of a job: its files, their common schema, its spans and rows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arrow::datatypes::{Field, Schema};
use legenda_schemas::{
    job::{ColumnType, OnBadFile, SourceFormat},
    span::{SourceObject, Span},
};

use super::{
    SourceError,
    file::BytesRead,
    known::KnownColumns,
    listing::{Listed, Listing},
    media,
    reader::FileReader,
    skipped::{SkipReason, Skipped},
    table_file::TableFile,
    unify::unify,
    unify_declared::{adopt_declared, unify_declared},
    walk::has_no_bytes,
};
use crate::base::store::is_url;

/// The table of a job, with at least one file.
#[derive(Debug)]
pub struct SourceTable {
    /// The files in reading order.
    pub files: Vec<TableFile>,
    /// Spans of completed files, which need not be read.
    pub done: Vec<Span>,
    /// Skipped files.
    pub skipped: Skipped,
    /// The bytes read from the files.
    pub bytes_read: BytesRead,
    /// The columns of all files, including completed ones.
    pub known_columns: KnownColumns,
    by_path: HashMap<String, usize>,
    /// Completed files by path.
    unopened: HashMap<String, Unopened>,
    media_bytes_max: u64,
    /// Shard columns with several extensions.
    alternatives: Vec<String>,
}

/// A file that need not be read.
#[derive(Debug)]
enum Unopened {
    File(Listed),
    /// A group of media files, which needs no I/O.
    Group(TableFile),
}

/// The result of inspecting a file.
enum Looked {
    Opened(TableFile),
    Done(Vec<Span>, Unopened),
    Bad(SourceError),
}

/// The parameters of opening a table.
#[derive(Debug)]
pub struct OpenTable<'a> {
    /// The files.
    pub listing: Listing,
    /// The spans of completed files, by path.
    pub done: &'a HashMap<String, Vec<Span>>,
    /// Files with committed rows. If one of these is unreadable, opening fails: otherwise it would be treated
    /// as removed.
    pub known: &'a HashSet<String>,
    /// The columns of completed files.
    pub known_columns: KnownColumns,
    /// How to treat an unreadable file.
    pub on_bad_file: OnBadFile,
    /// The maximum bytes of an image or audio file; a larger one is rejected.
    pub media_bytes_max: u64,
}

impl SourceTable {
    /// Locates the rows of all listed files. Images and audio of more than `media_bytes_max` bytes will be
    /// rejected.
    ///
    /// # Errors
    ///
    /// [`SourceError`] for the first unreadable file.
    pub fn open(listed: &[Listed], media_bytes_max: u64) -> Result<Self, SourceError> {
        let listing = Listing { files: listed.to_vec(), skipped: Skipped::default() };
        Self::open_as(OpenTable {
            listing,
            done: &HashMap::new(),
            known: &HashSet::new(),
            known_columns: KnownColumns::default(),
            on_bad_file: OnBadFile::Stop,
            media_bytes_max,
        })
    }

    /// Locates the rows of the files of a source; of unchanged completed files, only opens the first. Files
    /// without rows are skipped if others have some.
    ///
    /// # Errors
    ///
    /// [`SourceError`] for the first unreadable file that is not skipped, that was readable before or may be
    /// later, or that is the last one.
    pub fn open_as(
        OpenTable { listing, done, known, known_columns, on_bad_file, media_bytes_max }: OpenTable<
            '_,
        >,
    ) -> Result<Self, SourceError> {
        let Listing { files: listed, mut skipped } = listing;
        skipped.missing_among(known)?;
        let bytes_read = BytesRead::default();
        let (media, tables): (Vec<&Listed>, Vec<&Listed>) =
            listed.iter().partition(|file| file.format == SourceFormat::Media);
        // Stores have high latency, so open several files concurrently.
        let n_threads =
            if tables.iter().any(|file| is_url(&file.path)) { OPENED_AT_A_TIME } else { 1 };
        let next = AtomicUsize::new(0);
        let opened: Mutex<Vec<(usize, Result<Looked, SourceError>)>> = Mutex::default();
        let open_one = |idx: usize, listed: &Listed| {
            // Always open the first file: it provides the columns.
            if let Some(spans) = done.get(&listed.path).filter(|_| idx > 0)
                && spans.first().is_some_and(|span| listed.is_still(&span.object))
            {
                return Ok(Looked::Done(spans.clone(), Unopened::File(listed.clone())));
            }
            let opened = TableFile::open(listed, media_bytes_max, &bytes_read);
            let skips = on_bad_file == OnBadFile::Skip && !known.contains(&listed.path);
            match opened {
                Err(error) if skips && error.is_of_file() => Ok(Looked::Bad(error)),
                opened => opened.map(Looked::Opened),
            }
        };
        let open_some = || {
            while let Some((idx, file)) =
                Some(next.fetch_add(1, Relaxed)).and_then(|idx| Some((idx, tables.get(idx)?)))
            {
                let file = open_one(idx, file);
                opened.lock().unwrap_or_else(PoisonError::into_inner).push((idx, file));
            }
        };
        std::thread::scope(|threads| {
            for _ in 1..n_threads.min(tables.len()) {
                threads.spawn(open_some);
            }
            open_some();
        });
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_by_key(|(idx, _)| *idx);
        let mut looked =
            opened.into_iter().map(|(_, file)| file).collect::<Result<Vec<Looked>, _>>()?;
        let mut objects = Vec::with_capacity(media.len());
        for file in media {
            match file.object() {
                Ok(object) => objects.push(object),
                Err(error) if on_bad_file == OnBadFile::Skip && error.is_of_file() => {
                    looked.push(Looked::Bad(error));
                }
                Err(error) => return Err(error),
            }
        }
        for group in media::groups(objects) {
            let file = TableFile::from_media(group, media_bytes_max);
            let spans = done.get(&file.object.path).filter(|_| !looked.is_empty());
            let spans =
                spans.filter(|spans| spans.first().is_some_and(|span| span.object == file.object));
            looked.push(match spans {
                Some(spans) => Looked::Done(spans.clone(), Unopened::Group(file)),
                None => Looked::Opened(file),
            });
        }
        let mut bad = None;
        let mut empty = Vec::new();
        let mut this = Self {
            files: Vec::new(),
            done: Vec::new(),
            skipped: Skipped::default(),
            bytes_read,
            known_columns,
            by_path: HashMap::new(),
            unopened: HashMap::new(),
            media_bytes_max,
            alternatives: Vec::new(),
        };
        for one in looked {
            match one {
                Looked::Opened(file) if file.is_empty() => empty.push(file),
                Looked::Opened(file) => this.files.push(file),
                Looked::Bad(error) => {
                    let (path, problem) = error.path_and_problem();
                    if has_no_bytes(&path) {
                        skipped.add(SkipReason::Empty, &path, None);
                    } else {
                        skipped.add(SkipReason::Bad, &path, Some(problem));
                    }
                    bad.get_or_insert(error);
                }
                Looked::Done(spans, file) => {
                    this.unopened.insert(spans[0].object.path.clone(), file);
                    this.done.extend(spans);
                }
            }
        }
        if this.files.is_empty()
            && let Some(path) = this.done.first().map(|span| span.object.path.clone())
        {
            // Every readable file is completed: open one for the columns.
            this.done.retain(|span| span.object.path != path);
            this.files.extend(match this.unopened.remove(&path) {
                Some(Unopened::File(listed)) => {
                    Some(TableFile::open(&listed, media_bytes_max, &this.bytes_read)?)
                }
                Some(Unopened::Group(file)) => Some(file),
                None => None,
            });
        }
        if this.files.is_empty() {
            // A table without rows still has columns.
            this.files.extend(empty.drain(..empty.len().min(1)));
        }
        for file in empty {
            skipped.add(SkipReason::Empty, &file.object.path, None);
        }
        if this.files.is_empty()
            && let Some(error) = bad
        {
            return Err(error);
        }
        this.skipped = skipped;
        unify(&mut this.files, &mut this.known_columns);
        unify_declared(&mut this.files, &mut this.known_columns.declared);
        let by_path = this.files.iter().enumerate();
        this.by_path = by_path.map(|(idx, file)| (file.object.path.clone(), idx)).collect();
        Ok(this)
    }

    /// Sets the types of CSV and JSON Lines columns chosen in the job; cells that do not fit are rejected
    /// with their rows.
    ///
    /// # Errors
    ///
    /// [`SourceError::UnknownTyped`] or [`SourceError::TypedFile`].
    pub fn set_types(&mut self, types: &BTreeMap<String, ColumnType>) -> Result<(), SourceError> {
        for column in types.keys() {
            if self.files.iter().all(|file| file.schema.field_with_name(column).is_err()) {
                return Err(SourceError::UnknownTyped {
                    column: column.clone(),
                    available: self.files[0].column_names(),
                });
            }
        }
        for file in self.files.iter_mut().filter(|_| !types.is_empty()) {
            if file.contents.columns().is_none() {
                return Err(SourceError::TypedFile { path: file.path().to_owned() });
            }
            let schema = file.own_schema();
            let fields = schema.fields().iter().map(|field| match types.get(field.name()) {
                Some(chosen) => Field::new(field.name(), chosen.data_type().clone(), true),
                None => field.as_ref().clone(),
            });
            file.set_own_schema(&Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        }
        Ok(())
    }

    /// Joins columns of WebDataset shards: a name such as `jpg;png` is a column that contains, for each row,
    /// the member with the first of these extensions.
    pub fn join_alternatives<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        self.alternatives = names.cloned().collect();
        for file in &mut self.files {
            file.join_alternatives(&self.alternatives);
        }
    }

    /// Returns the table without completed spans.
    #[must_use]
    pub fn with_nothing_done(self) -> Self {
        Self { done: Vec::new(), ..self }
    }

    /// Returns the table with the files of completed spans opened after the others.
    ///
    /// # Errors
    ///
    /// [`SourceError`] for an unreadable file.
    pub fn with_all_opened(self) -> Result<Self, SourceError> {
        let mut this = Self { unopened: HashMap::new(), ..self };
        for file in self.unopened.into_values() {
            let file = match file {
                Unopened::File(listed) => this.open_late(&listed)?,
                Unopened::Group(file) => file,
            };
            this.by_path.insert(file.object.path.clone(), this.files.len());
            this.files.push(file);
        }
        Ok(this)
    }

    /// Opens a file with the columns of the others of its kind.
    fn open_late(&self, listed: &Listed) -> Result<TableFile, SourceError> {
        let mut file = TableFile::open(listed, self.media_bytes_max, &self.bytes_read)?;
        if file.contents.has_guessed_types()
            && let Some(other) = self.files.iter().find(|file| file.contents.has_guessed_types())
        {
            file.set_own_schema(&other.own_schema());
        }
        adopt_declared(&mut file, &self.files);
        file.join_alternatives(&self.alternatives);
        Ok(file)
    }

    /// Returns the open file at this path, if any.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&TableFile> {
        self.by_path.get(path).and_then(|&idx| self.files.get(idx)).or_else(|| {
            match self.unopened.get(path) {
                Some(Unopened::Group(file)) => Some(file),
                _ => None,
            }
        })
    }

    /// Opens the file that was `object` when it was planned, completed or not; `None` if it has changed.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn reader(&self, object: &SourceObject) -> Result<Option<FileReader>, SourceError> {
        let is_same = |file: &TableFile| file.object == *object;
        if let Some(file) = self.file(&object.path) {
            return is_same(file).then(|| FileReader::open(file, &self.bytes_read)).transpose();
        }
        let Some(Unopened::File(listed)) = self.unopened.get(&object.path) else { return Ok(None) };
        let file = self.open_late(listed)?;
        is_same(&file).then(|| FileReader::open(&file, &self.bytes_read)).transpose()
    }

    /// Returns the type of the column `name`, which must be equal in every file.
    ///
    /// # Errors
    ///
    /// [`SourceError::MissingColumn`] or [`SourceError::Differs`].
    pub fn common_column(&self, key: &str, name: &str) -> Result<&Field, SourceError> {
        let first = &self.files[0];
        let field = first.column(key, name)?;
        for file in &self.files[1..] {
            let other = file.column(key, name)?;
            if other.data_type() != field.data_type() {
                return Err(SourceError::Differs {
                    column: name.to_owned(),
                    path: file.path().to_owned(),
                    actual: other.data_type().to_string(),
                    first: first.path().to_owned(),
                    expected: field.data_type().to_string(),
                });
            }
        }
        Ok(field)
    }

    /// Returns the number of files, including completed ones.
    #[must_use]
    pub fn n_files(&self) -> usize {
        let unopened = self.unopened.values().map(|file| match file {
            Unopened::File(_) => 1,
            Unopened::Group(file) => file.media().len(),
        });
        self.files.iter().map(|file| file.media().len().max(1)).chain(unopened).sum()
    }

    /// Splits the open files into spans of at most `span_rows` rows, up to `limit` rows.
    #[must_use]
    pub fn spans(&self, span_rows: usize, limit: Option<u64>) -> Vec<Span> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut spans = Vec::new();
        for file in &self.files {
            let mut file_row_start = 0;
            for (row_group, size) in file.row_groups.iter().enumerate() {
                let mut row_start = 0;
                while row_start < size.n_rows && left > 0 {
                    let rows_left = usize::try_from(left).unwrap_or(usize::MAX);
                    let n_rows = span_rows.min(size.n_rows - row_start).min(rows_left);
                    spans.push(Span {
                        object: file.object.clone(),
                        row_group,
                        row_start,
                        n_rows,
                        file_row_start: file_row_start + row_start as u64,
                    });
                    row_start += n_rows;
                    left -= n_rows as u64;
                }
                file_row_start += size.n_rows as u64;
            }
        }
        spans
    }
}

/// The number of store files opened concurrently.
const OPENED_AT_A_TIME: usize = 16;

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, sync::Arc};

    use arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch},
        datatypes::Int64Type,
    };
    use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
    use proptest::prelude::*;

    use legenda_schemas::job::SourceFormat;

    use super::SourceTable;
    use crate::input::source::{Listed, reader::FileReader};

    fn write(path: &Path, n_rows: i64, group_rows: usize) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n_rows));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn spans_cover_every_row_once(
            n_rows in 0_i64..60,
            group_rows in 1_usize..20,
            span_rows in 1_usize..20,
            limit in prop::option::of(0_u64..70),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.parquet");
            write(&path, n_rows, group_rows);
            let path = path.to_string_lossy().into_owned();
            let listed = Listed::new(path, Some(SourceFormat::Parquet));
            let table = SourceTable::open(&[listed], u64::MAX).unwrap();
            let reader = FileReader::open(&table.files[0], &table.bytes_read).unwrap();
            let mut seen: Vec<i64> = Vec::new();
            for span in table.spans(span_rows, limit) {
                prop_assert_eq!(span.file_row_start, seen.len() as u64);
                let rows = span.row_start..span.row_start + span.n_rows;
                for batch in reader.read(span.row_group, &[rows], None, 7).unwrap() {
                    let batch = batch.unwrap().rows;
                    seen.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
                }
            }
            let wanted = n_rows.min(i64::try_from(limit.unwrap_or(99)).unwrap());
            prop_assert_eq!(seen, (0..wanted).collect::<Vec<_>>());
        }
    }
}
