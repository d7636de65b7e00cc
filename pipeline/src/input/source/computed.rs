//! Columns that a query computed from the rows of a file, kept in a temporary file until they are read.

use std::{
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

use super::{column::holds_bytes, rows::ReadRows};
use arrow::{
    array::{Array, RecordBatch, new_null_array},
    compute::interleave,
    datatypes::{FieldRef, Schema, SchemaRef},
    error::ArrowError,
    ipc::{reader::FileReader, writer::FileWriter},
};

/// The maximum rows per block of the temporary file, the unit of reading.
const BLOCK_ROWS: usize = 1024;

/// Computed columns of some rows of a file; null for the others.
#[derive(Clone)]
pub struct Computed(Arc<Columns>);

struct Columns {
    fields: Vec<FieldRef>,
    /// The row numbers within the file, ascending.
    rows: Vec<u64>,
    /// The number of rows before each block.
    starts: Vec<usize>,
    /// The columns, in row order.
    blocks: Mutex<FileReader<File>>,
}

impl std::fmt::Debug for Computed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Computed").field(&self.0.fields).finish()
    }
}

/// Writes computed columns to their temporary file.
pub(crate) struct ComputedWriter {
    fields: Vec<FieldRef>,
    starts: Vec<usize>,
    n_rows: usize,
    file: File,
    writer: FileWriter<File>,
}

#[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "only queries compute columns"))]
impl ComputedWriter {
    /// Creates the temporary file for columns of `schema`.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be written.
    pub(crate) fn new(schema: &Schema) -> Result<Self, ArrowError> {
        let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let fields: Vec<FieldRef> = schema.fields().iter().map(nullable).collect();
        let file = tempfile::tempfile()?;
        let writer = FileWriter::try_new(file.try_clone()?, &Schema::new(fields.clone()))?;
        Ok(Self { fields, starts: Vec::new(), n_rows: 0, file, writer })
    }

    /// Adds the columns of the next rows.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be written.
    pub(crate) fn write(&mut self, columns: &RecordBatch) -> Result<(), ArrowError> {
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let columns = columns.clone().with_schema(schema)?;
        for start in (0..columns.num_rows()).step_by(BLOCK_ROWS) {
            let n_rows = BLOCK_ROWS.min(columns.num_rows() - start);
            self.starts.push(self.n_rows);
            self.n_rows += n_rows;
            self.writer.write(&columns.slice(start, n_rows))?;
        }
        Ok(())
    }

    /// Finishes the columns, which belong to the ascending `rows` of a file.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be written.
    pub(crate) fn finish(mut self, rows: Vec<u64>) -> Result<Computed, ArrowError> {
        self.writer.finish()?;
        let Self { fields, starts, file, .. } = self;
        let blocks = Mutex::new(FileReader::try_new(file, None)?);
        Ok(Computed(Arc::new(Columns { fields, rows, starts, blocks })))
    }
}

impl Computed {
    /// Returns the name and type of a column with bytes, if any.
    #[must_use]
    pub fn bytes_column(&self) -> Option<(String, String)> {
        let field = self.0.fields.iter().find(|field| holds_bytes(field.data_type()))?;
        Some((field.name().clone(), field.data_type().to_string()))
    }

    pub(super) fn names(&self, column: &str) -> bool {
        self.0.fields.iter().any(|field| field.name() == column)
    }

    /// Adds the columns to a file's schema.
    pub(super) fn add_to(&self, schema: &Schema) -> SchemaRef {
        let fields: Vec<FieldRef> = schema.fields().iter().chain(&self.0.fields).cloned().collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// Adds the requested columns to rows of the file with the numbers `file_rows`.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be read.
    pub(super) fn fill(
        &self,
        read: ReadRows,
        file_rows: &[u64],
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<ReadRows, ArrowError> {
        let wanted: Vec<usize> = (0..self.0.fields.len())
            .filter(|&column| is_wanted(self.0.fields[column].name()))
            .collect();
        if wanted.is_empty() {
            return Ok(read);
        }
        let starts = &self.0.starts;
        let place = |row: &u64| {
            let place = self.0.rows.binary_search(row).ok()?;
            let block = starts.partition_point(|&start| start <= place).checked_sub(1)?;
            Some((block, place - starts[block]))
        };
        let places: Vec<Option<(usize, usize)>> = file_rows.iter().map(place).collect();
        let mut needed: Vec<usize> = places.iter().flatten().map(|(block, _)| *block).collect();
        needed.sort_unstable();
        needed.dedup();
        let blocks: Vec<RecordBatch> = {
            let mut reader = self.0.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            needed.iter().map(|&block| read_block(&mut reader, block)).collect::<Result<_, _>>()?
        };
        // The row after the blocks is null, for rows without computed values.
        let index_of = |place: &Option<(usize, usize)>| {
            place
                .and_then(|(block, row)| Some((needed.binary_search(&block).ok()?, row)))
                .unwrap_or((blocks.len(), 0))
        };
        let indices: Vec<(usize, usize)> = places.iter().map(index_of).collect();
        let ReadRows { rows, damaged } = read;
        let schema = rows.schema();
        let mut fields: Vec<FieldRef> = schema.fields().to_vec();
        let mut columns = rows.columns().to_vec();
        for column in wanted {
            let field = &self.0.fields[column];
            let null = new_null_array(field.data_type(), 1);
            let arrays: Vec<&dyn Array> = blocks
                .iter()
                .map(|block| block.column(column).as_ref())
                .chain(std::iter::once(null.as_ref()))
                .collect();
            columns.push(interleave(&arrays, &indices)?);
            fields.push(Arc::clone(field));
        }
        let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
        Ok(ReadRows::new(Arc::new(schema), columns, file_rows.len(), damaged))
    }
}

fn read_block(blocks: &mut FileReader<File>, block: usize) -> Result<RecordBatch, ArrowError> {
    blocks.set_index(block)?;
    blocks.next().unwrap_or_else(|| {
        Err(ArrowError::IpcError("the temporary file of computed columns has changed".to_owned()))
    })
}
