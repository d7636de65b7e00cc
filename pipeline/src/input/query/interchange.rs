//! Columns from Arrow to Polars and back, without a copy where the layouts are equal.
//!
//! Both crates implement the [Arrow C data interface]; each array crosses in its two structs.
//!
//! [Arrow C data interface]: https://arrow.apache.org/docs/format/CDataInterface.html

#![expect(unsafe_code, reason = "the C structs of one crate become those of another")]

use std::{mem, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema},
    error::ArrowError,
    ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi},
};
use polars::prelude::{Column, CompatLevel, PolarsError, Series};
use polars_arrow::ffi::{self, ArrowArray, ArrowSchema};

const _: () = assert!(size_of::<FFI_ArrowArray>() == size_of::<ArrowArray>());
const _: () = assert!(size_of::<FFI_ArrowSchema>() == size_of::<ArrowSchema>());

/// Returns a column of Polars with `chunks`, which have one type.
///
/// # Errors
///
/// Polars', for a type that it does not have.
pub(super) fn to_polars<'a>(
    name: &str,
    chunks: impl Iterator<Item = &'a ArrayRef>,
) -> Result<Series, PolarsError> {
    let refused = |error: ArrowError| PolarsError::ComputeError(error.to_string().into());
    let chunks = chunks.map(|chunk| {
        let (array, schema) = to_ffi(&chunk.to_data()).map_err(refused)?;
        // SAFETY: both types are the struct `ArrowArray` of the C data interface, which arrow has filled;
        // the call takes it over, with its `release`. Likewise `ArrowSchema`, which is only read.
        unsafe {
            let schema = &*(&raw const schema).cast::<ArrowSchema>();
            let array = mem::transmute::<FFI_ArrowArray, ArrowArray>(array);
            ffi::import_array_from_c(array, ffi::import_field_from_c(schema)?.dtype)
        }
    });
    Series::from_arrow_chunks(name.into(), chunks.collect::<Result<_, PolarsError>>()?)
}

/// Returns columns of Polars, of `n_rows` rows, with the types that readers of answers know.
///
/// # Errors
///
/// Arrow's, for a type that it does not have.
pub(super) fn to_arrow<'a>(
    columns: impl Iterator<Item = &'a Column>,
    n_rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let columns = columns.map(|column| {
        let array = column.clone().rechunk_to_arrow(CompatLevel::oldest());
        let field = polars_arrow::datatypes::Field::new("".into(), array.dtype().clone(), true);
        let (array, schema) = (ffi::export_array_to_c(array), ffi::export_field_to_c(&field));
        // SAFETY: as above, the other way around.
        let data = unsafe {
            let schema = &*(&raw const schema).cast::<FFI_ArrowSchema>();
            from_ffi(mem::transmute::<ArrowArray, FFI_ArrowArray>(array), schema)
        }?;
        let array = make_array(data);
        let array = cast(&array, &plain(array.data_type()))?;
        Ok((Field::new(column.name().as_str(), array.data_type().clone(), true), array))
    });
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        columns.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Returns the type for one of Polars, whose texts and lists have 64-bit offsets.
fn plain(data_type: &DataType) -> DataType {
    let of_field = |field: &FieldRef| {
        let plain = plain(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(plain))
    };
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeList(item) => DataType::List(of_field(item)),
        DataType::FixedSizeList(item, n) => DataType::FixedSizeList(of_field(item), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(of_field).collect()),
        other => other.clone(),
    }
}
