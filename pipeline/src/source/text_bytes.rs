//! Columns of text read as bytes, so that a text that is not UTF-8 costs its row.
//!
//! The Parquet reader checks the texts of a batch, or of a whole dictionary, at once, and refuses all
//! of them together. Of a column without the annotation "string" it checks none, so a footer without
//! them is made, and the texts are checked here, one by one.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, LargeStringBuilder, RecordBatch, RecordBatchOptions,
        StringBuilder, StringViewBuilder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    errors::ParquetError,
    file::metadata::{FileMetaData, ParquetMetaDataBuilder},
    schema::types::{SchemaDescriptor, Type, TypePtr},
};

/// Returns the footer with its columns of text, though not those within lists and structs, as columns
/// of bytes.
pub(super) fn without_text(
    metadata: &ArrowReaderMetadata,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let footer = metadata.metadata();
    let file = footer.file_metadata();
    let root = file.schema_descr().root_schema();
    let schema = metadata.schema();
    let types = root
        .get_fields()
        .iter()
        .zip(schema.fields())
        .map(|(kind, field)| match bytes_of(field.data_type()) {
            Some(_) if kind.is_primitive() => plain(kind),
            _ => Ok(Arc::clone(kind)),
        })
        .collect::<Result<Vec<TypePtr>, ParquetError>>()?;
    let root = Type::group_type_builder(root.name()).with_fields(types).build()?;
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(Arc::new(root))),
        file.column_orders().cloned(),
    );
    let footer =
        ParquetMetaDataBuilder::new(file).set_row_groups(footer.row_groups().to_vec()).build();
    let fields = schema.fields().iter().map(|field| match bytes_of(field.data_type()) {
        Some(bytes) => Arc::new(field.as_ref().clone().with_data_type(bytes)),
        None => Arc::clone(field),
    });
    let fields: Vec<Arc<Field>> = fields.collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields)));
    ArrowReaderMetadata::try_new(Arc::new(footer), options)
}

fn bytes_of(text: &DataType) -> Option<DataType> {
    match text {
        DataType::Utf8 => Some(DataType::Binary),
        DataType::LargeUtf8 => Some(DataType::LargeBinary),
        DataType::Utf8View => Some(DataType::BinaryView),
        _ => None,
    }
}

/// Returns the type of a column without what it says of its bytes.
fn plain(kind: &Type) -> Result<TypePtr, ParquetError> {
    let info = kind.get_basic_info();
    let mut builder = Type::primitive_type_builder(kind.name(), kind.get_physical_type());
    if info.has_repetition() {
        builder = builder.with_repetition(info.repetition());
    }
    builder.with_id(info.has_id().then(|| info.id())).build().map(Arc::new)
}

/// Rows whose texts were read as bytes.
pub struct CheckedTexts {
    /// The rows, with text again; what is no text is null, or empty where nothing may be null.
    pub rows: RecordBatch,
    /// For each row the column that is no text, if one is.
    pub bad: Vec<Option<String>>,
}

/// Checks the texts of rows that came of a reader of [`without_text`]; `schema` is the file's own.
///
/// # Errors
///
/// Arrow's, if the rows are not of that schema.
pub fn check_texts(rows: &RecordBatch, schema: &Schema) -> Result<CheckedTexts, ArrowError> {
    let mut bad: Vec<Option<String>> = vec![None; rows.num_rows()];
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let wanted = schema.field_with_name(field.name())?;
        let is_text = bytes_of(wanted.data_type()).as_ref() == Some(field.data_type());
        columns.push(if is_text {
            checked(column.as_ref(), wanted, &mut bad)
        } else {
            Arc::clone(column)
        });
        fields.push(wanted.clone());
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(CheckedTexts { rows: RecordBatch::try_new_with_options(schema, columns, &options)?, bad })
}

fn checked(column: &dyn Array, wanted: &Field, bad: &mut [Option<String>]) -> ArrayRef {
    let cells: Vec<Option<&[u8]>> = match column.data_type() {
        DataType::LargeBinary => column.as_binary::<i64>().iter().collect(),
        DataType::BinaryView => column.as_binary_view().iter().collect(),
        _ => column.as_binary::<i32>().iter().collect(),
    };
    let texts = cells.into_iter().zip(bad).map(|(cell, bad)| {
        cell.and_then(|bytes| {
            std::str::from_utf8(bytes).ok().or_else(|| {
                bad.get_or_insert_with(|| wanted.name().clone());
                (!wanted.is_nullable()).then_some("")
            })
        })
    });
    match wanted.data_type() {
        DataType::LargeUtf8 => {
            let mut builder = LargeStringBuilder::new();
            texts.for_each(|text| builder.append_option(text));
            Arc::new(builder.finish())
        }
        DataType::Utf8View => {
            let mut builder = StringViewBuilder::new();
            texts.for_each(|text| builder.append_option(text));
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = StringBuilder::new();
            texts.for_each(|text| builder.append_option(text));
            Arc::new(builder.finish())
        }
    }
}
