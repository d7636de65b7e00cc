//! Asks a query of each file of a table, in chunks where it compares no rows.

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use legenda_schemas::cause::Cause;

use super::{
    KeptRows, Query, QueryError, columns,
    engine::{self, Frame, QueriedFile},
    statement::Statement,
};
use crate::input::source::{
    BytesRead, SourceTable, TableFile,
    computed::{Computed, ComputedWriter},
};

/// The size at which a chunk of a file is asked.
const CHUNK_BYTES: u64 = 32 << 20;

/// Asks `query` of `files`; see [`Query::ask`].
pub(super) fn ask(
    query: &Query,
    files: &mut [TableFile],
    bytes_read: &BytesRead,
    limit: Option<u64>,
) -> Result<KeptRows, QueryError> {
    let statement = engine::on_large_stack(|| Statement::parse(&query.text))
        .unwrap_or_else(|problem| Err(QueryError::Syntax { source: problem.into() }))?;
    let mut left_bytes = query.bytes_max;
    let mut tables = Vec::new();
    for (name, table) in &query.tables {
        tables.push((name.clone(), further_table(name, table, query, &mut left_bytes)?));
    }
    let mut left = limit.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
    let mut kept = KeptRows::default();
    for file in files {
        let asked = AskedFile { query, statement: &statement, tables: &tables, left_bytes };
        let (mut rows, computed) = asked.ask(file, bytes_read)?;
        if let Some(computed) = computed {
            if let Some((column, kind)) = computed.bytes_column() {
                return Err(QueryError::Bytes { column, kind });
            }
            file.add_computed(computed);
        }
        rows.truncate(left);
        left -= rows.len();
        kept.by_file.insert(file.object.path.clone(), rows);
    }
    Ok(kept)
}

/// Reads a further table, which takes from `left_bytes`.
fn further_table(
    name: &str,
    table: &SourceTable,
    query: &Query,
    left_bytes: &mut u64,
) -> Result<Frame, QueryError> {
    let Some(first) = table.files.first() else {
        return Err(failed(name, "the table has no files"));
    };
    let cheap = columns::cheap(first);
    let schema = columns::schema(first, &cheap.iter().collect::<Vec<_>>());
    let mut chunk = Chunk::default();
    for file in &table.files {
        columns::read(file, &schema, &table.bytes_read, |batch| {
            chunk.push(batch);
            chunk.check(*left_bytes, name, query.bytes_max)
        })?;
    }
    *left_bytes -= chunk.bytes;
    Frame::new(&schema, &chunk.batches).map_err(|error| failed(name, error))
}

/// Rows that are in memory.
#[derive(Default)]
struct Chunk {
    batches: Vec<RecordBatch>,
    bytes: u64,
    n_rows: u64,
}

impl Chunk {
    fn push(&mut self, batch: RecordBatch) {
        let sizes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
        self.bytes += sizes.map(|size| size.unwrap_or(0) as u64).sum::<u64>();
        self.n_rows += batch.num_rows() as u64;
        self.batches.push(batch);
    }

    fn check(&self, left: u64, table: &str, bytes_max: u64) -> Result<(), QueryError> {
        if self.bytes <= left {
            return Ok(());
        }
        Err(QueryError::TooLarge { table: table.to_owned(), mib_max: bytes_max >> 20 })
    }
}

/// What a query is asked of a file with.
struct AskedFile<'a> {
    query: &'a Query,
    statement: &'a Statement,
    tables: &'a [(String, Frame)],
    /// What the further tables leave of the query's memory.
    left_bytes: u64,
}

/// What a query said of the chunks of a file so far.
#[derive(Default)]
struct Answered {
    n_asked: u64,
    rows: Vec<u64>,
    computed: Option<ComputedWriter>,
}

impl AskedFile<'_> {
    /// Returns the rows of a file that the query keeps, and the columns that it computes of them.
    fn ask(
        &self,
        file: &TableFile,
        bytes_read: &BytesRead,
    ) -> Result<(Vec<u64>, Option<Computed>), QueryError> {
        let cheap = columns::cheap(file);
        let schema = columns::schema(file, &self.statement.used(&cheap));
        let taken: Vec<&str> =
            file.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let path = file.object.path.as_str();
        let queried = QueriedFile { path, cheap: &cheap, taken: &taken };
        let (mut chunk, mut answered) = (Chunk::default(), Answered::default());
        let damaged = columns::read(file, &schema, bytes_read, |batch| {
            chunk.push(batch);
            if !self.statement.is_row_wise {
                return chunk.check(self.left_bytes, path, self.query.bytes_max);
            }
            if chunk.bytes < CHUNK_BYTES {
                return Ok(());
            }
            self.add(&mut answered, &queried, &schema, std::mem::take(&mut chunk))
        })?;
        // A file without rows is asked too: it has the same columns as the others.
        if chunk.n_rows > 0 || answered.n_asked == 0 {
            self.add(&mut answered, &queried, &schema, chunk)?;
        }
        let Answered { mut rows, computed, .. } = answered;
        let computed = computed.map(|writer| writer.finish(rows.clone())).transpose();
        // What a damaged row holds nobody knows: it is kept, and rejected with the reason.
        if !damaged.is_empty() {
            rows.extend(damaged);
            rows.sort_unstable();
            rows.dedup();
        }
        Ok((rows, computed.map_err(|error| failed(path, error))?))
    }

    fn add(
        &self,
        answered: &mut Answered,
        queried: &QueriedFile<'_>,
        schema: &SchemaRef,
        chunk: Chunk,
    ) -> Result<(), QueryError> {
        let wrong = |error: ArrowError| failed(queried.path, error);
        let frame =
            Frame::new(schema, &chunk.batches).map_err(|error| failed(queried.path, error))?;
        let answer = engine::answer(self.statement, queried, answered.n_asked, frame, self.tables)?;
        answered.n_asked += chunk.n_rows;
        answered.rows.extend(answer.rows);
        if answer.computed.num_columns() == 0 {
            return Ok(());
        }
        let writer = match &mut answered.computed {
            Some(writer) => writer,
            none => none.insert(ComputedWriter::new(&answer.computed.schema()).map_err(wrong)?),
        };
        writer.write(&answer.computed).map_err(wrong)
    }
}

fn failed(path: &str, source: impl Into<Cause>) -> QueryError {
    QueryError::Failed { path: path.to_owned(), source: source.into() }
}
