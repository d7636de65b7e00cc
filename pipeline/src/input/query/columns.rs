//! The columns of a file that a query sees, with types that Polars has.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    compute::{can_cast_types, cast},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit},
};
use legenda_schemas::cause::Cause;

use super::QueryError;
use crate::input::source::{BytesRead, TableFile, column::holds_bytes, reader::FileReader};

/// Rows that are read at a time.
const BATCH_ROWS: usize = 8192;

/// Returns the columns that a query may see: all that hold no bytes and that Polars has a type for.
pub(super) fn cheap(file: &TableFile) -> Vec<String> {
    let fields = file.schema.fields().iter();
    let cheap = fields.filter(|field| {
        !holds_bytes(field.data_type()) && queried_type(field.data_type()).is_some()
    });
    cheap.map(|field| field.name().clone()).collect()
}

/// Returns the schema of `names` as a query sees it, in the order of the file.
pub(super) fn schema(file: &TableFile, names: &[&String]) -> SchemaRef {
    let fields = file.schema.fields().iter().filter(|field| names.contains(&field.name()));
    Arc::new(Schema::new(fields.filter_map(queried_field).collect::<Vec<_>>()))
}

/// Reads the columns of `schema` from first row to last, and calls `take` with each batch; returns the rows
/// that are damaged.
///
/// # Errors
///
/// [`QueryError::Failed`], and what `take` returns.
pub(super) fn read(
    file: &TableFile,
    schema: &SchemaRef,
    bytes_read: &BytesRead,
    mut take: impl FnMut(RecordBatch) -> Result<(), QueryError>,
) -> Result<Vec<u64>, QueryError> {
    let failed = |source: Cause| QueryError::Failed { path: file.object.path.clone(), source };
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let reader = FileReader::open(file, bytes_read).map_err(|error| failed(error.into()))?;
    let (mut damaged, mut n_rows) = (Vec::new(), 0);
    for (row_group, size) in file.row_groups.iter().enumerate() {
        let all = 0..size.n_rows;
        let batches = reader.read(row_group, &[all], Some(&names), BATCH_ROWS);
        for batch in batches.map_err(|error| failed(error.into()))? {
            let batch = batch.map_err(|error| failed(error.into()))?;
            let columns = batch.rows.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()));
            let rows = columns.collect::<Result<_, _>>();
            let options = RecordBatchOptions::new().with_row_count(Some(batch.rows.num_rows()));
            let rows = rows.and_then(|columns| {
                RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
            });
            damaged.extend(batch.damaged.iter().map(|one| n_rows + one.row as u64));
            n_rows += batch.rows.num_rows() as u64;
            take(rows.map_err(|error| failed(error.into()))?)?;
        }
    }
    Ok(damaged)
}

fn queried_field(field: &FieldRef) -> Option<FieldRef> {
    let queried = queried_type(field.data_type())?;
    Some(Arc::new(Field::new(field.name(), queried, field.is_nullable())))
}

/// Returns the type with which a query sees values of a type: the same, or the nearest that this build of
/// Polars has; none if there is none. The rows that are kept are read from the file itself.
fn queried_type(data_type: &DataType) -> Option<DataType> {
    let queried = match data_type {
        DataType::UInt8 | DataType::UInt16 => DataType::UInt32,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) => {
            DataType::Float64
        }
        DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Dictionary(_, value) => queried_type(value)?,
        DataType::List(item) => DataType::List(queried_field(item)?),
        DataType::LargeList(item) => DataType::LargeList(queried_field(item)?),
        DataType::FixedSizeList(item, _) => DataType::List(queried_field(item)?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(queried_field).collect::<Option<_>>()?)
        }
        DataType::Map(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Interval(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => return None,
        other => other.clone(),
    };
    can_cast_types(data_type, &queried).then_some(queried)
}
