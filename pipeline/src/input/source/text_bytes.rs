//! Text columns read as bytes, so that invalid UTF-8 only rejects its own row.
//!
//! The Parquet reader validates the text of a whole batch or dictionary at once and rejects all of it
//! together. It does not validate columns without a string annotation, so those annotations are removed from
//! the footer, and each text is validated here.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListArray, LargeListArray, LargeStringArray, ListArray,
        ListLikeArray, MapArray, RecordBatch, RecordBatchOptions, StringArray, StringViewArray,
        StructArray,
    },
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    error::ArrowError,
};
use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    errors::ParquetError,
};

use super::footer::without_annotations;

/// Returns the footer with all text columns, including nested ones, as bytes.
pub(super) fn without_text(
    metadata: &ArrowReaderMetadata,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let footer = metadata.metadata();
    let schema = metadata.schema();
    let mut leaves = Vec::new();
    schema.fields().iter().for_each(|field| push_leaves(field.data_type(), &mut leaves));
    let mut leaves = leaves.into_iter();
    let footer = without_annotations(footer, |_| leaves.next() == Some(true))?;
    let options = ArrowReaderOptions::new().with_schema(schema_of_bytes(schema));
    ArrowReaderMetadata::try_new(Arc::new(footer), options)
}

/// Returns the schema with bytes in place of text.
pub(super) fn schema_of_bytes(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field_of_bytes).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Returns the type with bytes in place of text, if it contains any.
fn bytes_of(kind: &DataType) -> Option<DataType> {
    let field = |field: &FieldRef| {
        let binary_field = field_of_bytes(field);
        (binary_field != *field).then_some(binary_field)
    };
    match kind {
        DataType::Utf8 => Some(DataType::Binary),
        DataType::LargeUtf8 => Some(DataType::LargeBinary),
        DataType::Utf8View => Some(DataType::BinaryView),
        DataType::Dictionary(_, values) => bytes_of(values),
        DataType::List(item) => field(item).map(DataType::List),
        DataType::LargeList(item) => field(item).map(DataType::LargeList),
        DataType::FixedSizeList(item, size) => {
            field(item).map(|item| DataType::FixedSizeList(item, *size))
        }
        DataType::Map(entries, is_sorted) => {
            field(entries).map(|entries| DataType::Map(entries, *is_sorted))
        }
        DataType::Struct(fields) => fields
            .iter()
            .any(|one| field(one).is_some())
            .then(|| DataType::Struct(fields.iter().map(field_of_bytes).collect())),
        _ => None,
    }
}

fn field_of_bytes(field: &FieldRef) -> FieldRef {
    match bytes_of(field.data_type()) {
        Some(bytes) => Arc::new(field.as_ref().clone().with_data_type(bytes)),
        None => Arc::clone(field),
    }
}

/// Appends, for each leaf column of a type, whether it is text.
fn push_leaves(kind: &DataType, leaves: &mut Vec<bool>) {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => leaves.push(true),
        DataType::Dictionary(_, values) => push_leaves(values, leaves),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => push_leaves(item.data_type(), leaves),
        DataType::Struct(fields) => {
            fields.iter().for_each(|field| push_leaves(field.data_type(), leaves));
        }
        _ => leaves.push(false),
    }
}

/// Rows whose texts were read as bytes.
pub(crate) struct CheckedTexts {
    /// The rows with text restored; invalid text is null, or empty if the field is not nullable.
    pub rows: RecordBatch,
    /// For each row, a column with invalid text, if any.
    pub bad: Vec<Option<String>>,
}

/// Validates the texts of rows read with [`without_text`]; `schema` is the file's own.
///
/// # Errors
///
/// Arrow's, if the rows do not have that schema.
pub(crate) fn check_texts(rows: &RecordBatch, schema: &Schema) -> Result<CheckedTexts, ArrowError> {
    let mut bad: Vec<Option<String>> = vec![None; rows.num_rows()];
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let wanted = schema.field_with_name(field.name())?;
        let has_texts = bytes_of(wanted.data_type()).as_ref() == Some(field.data_type());
        columns.push(if has_texts {
            let Checked { values, bad: bad_values } = checked(column, wanted)?;
            for (bad, _) in bad.iter_mut().zip(bad_values).filter(|(_, is_bad)| *is_bad) {
                bad.get_or_insert_with(|| wanted.name().clone());
            }
            values
        } else {
            Arc::clone(column)
        });
        fields.push(wanted.clone());
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(CheckedTexts { rows: RecordBatch::try_new_with_options(schema, columns, &options)?, bad })
}

/// Values with text restored, and for each whether it contains invalid text.
struct Checked {
    values: ArrayRef,
    bad: Vec<bool>,
}

fn checked(values: &ArrayRef, wanted: &Field) -> Result<Checked, ArrowError> {
    let nulls = values.nulls().cloned();
    // Items of a list belong to the row of the list.
    let any = |range: Range<usize>, bad: &[bool]| bad[range].iter().any(|is_bad| *is_bad);
    Ok(match wanted.data_type() {
        kind if bytes_of(kind).is_none() => {
            Checked { values: Arc::clone(values), bad: vec![false; values.len()] }
        }
        DataType::Struct(fields) => {
            let mut bad = vec![false; values.len()];
            let mut columns = Vec::with_capacity(fields.len());
            for (column, field) in values.as_struct().columns().iter().zip(fields) {
                let one = checked(column, field)?;
                bad.iter_mut().zip(one.bad).for_each(|(bad, also)| *bad |= also);
                columns.push(one.values);
            }
            let values = Arc::new(StructArray::try_new(fields.clone(), columns, nulls)?);
            Checked { values, bad }
        }
        DataType::List(item) => {
            let list = values.as_list::<i32>();
            let items = checked(list.values(), item)?;
            let bad = (0..list.len()).map(|row| any(list.element_range(row), &items.bad)).collect();
            let offsets = list.offsets().clone();
            let values = ListArray::try_new(Arc::clone(item), offsets, items.values, nulls)?;
            Checked { values: Arc::new(values), bad }
        }
        DataType::LargeList(item) => {
            let list = values.as_list::<i64>();
            let items = checked(list.values(), item)?;
            let bad = (0..list.len()).map(|row| any(list.element_range(row), &items.bad)).collect();
            let offsets = list.offsets().clone();
            let values = LargeListArray::try_new(Arc::clone(item), offsets, items.values, nulls)?;
            Checked { values: Arc::new(values), bad }
        }
        DataType::FixedSizeList(item, size) => {
            let list = values.as_fixed_size_list();
            let items = checked(list.values(), item)?;
            let bad = (0..list.len()).map(|row| any(list.element_range(row), &items.bad)).collect();
            let values = FixedSizeListArray::try_new(Arc::clone(item), *size, items.values, nulls)?;
            Checked { values: Arc::new(values), bad }
        }
        DataType::Map(entries, is_sorted) => {
            let map = values.as_map();
            let items = checked(&(Arc::new(map.entries().clone()) as ArrayRef), entries)?;
            let range = |row: usize| {
                let ends = [map.offsets()[row], map.offsets()[row + 1]];
                let [start, end] = ends.map(|end| usize::try_from(end).unwrap_or(0));
                start..end
            };
            let bad = (0..map.len()).map(|row| any(range(row), &items.bad)).collect();
            let (entries, items) = (Arc::clone(entries), items.values.as_struct().clone());
            let values =
                MapArray::try_new(entries, map.offsets().clone(), items, nulls, *is_sorted)?;
            Checked { values: Arc::new(values), bad }
        }
        DataType::Dictionary(_, kind) => {
            let plain = wanted.clone().with_data_type(kind.as_ref().clone());
            let Checked { values, bad } = checked(values, &plain)?;
            Checked { values: cast(&values, wanted.data_type())?, bad }
        }
        _ => texts(values.as_ref(), wanted),
    })
}

fn texts(column: &dyn Array, wanted: &Field) -> Checked {
    let cells: Vec<Option<&[u8]>> = match column.data_type() {
        DataType::LargeBinary => column.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => column.as_binary_view().iter().collect(),
        _ => column.as_binary::<i32>().iter().collect(),
    };
    let mut bad = vec![false; cells.len()];
    let texts = cells.into_iter().zip(&mut bad).map(|(cell, bad)| {
        let text = std::str::from_utf8(cell?);
        *bad = text.is_err();
        text.ok().or((!wanted.is_nullable()).then_some(""))
    });
    let values: ArrayRef = match wanted.data_type() {
        DataType::LargeUtf8 => Arc::new(texts.collect::<LargeStringArray>()),
        DataType::Utf8View => Arc::new(texts.collect::<StringViewArray>()),
        _ => Arc::new(texts.collect::<StringArray>()),
    };
    Checked { values, bad }
}
