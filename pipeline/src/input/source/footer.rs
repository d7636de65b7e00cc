//! Parquet footers, read tolerantly: an anomaly costs at most a column, never the file.
//!
//! | anomaly | treatment |
//! |---|---|
//! | a field of a column has another type than in the format | ignored |
//! | the offset of a dictionary page is 0 or after the data | treated as no dictionary |
//! | an INTERVAL, or a DECIMAL without an Arrow type | read as stored, then shown as text (`stored.rs`) |
//! | another annotation that does not fit its column | the column is read as stored |
//! | an unreadable embedded Arrow schema | its unreadable fields are ignored |
//! | 96-bit timestamps by Spark, in microseconds | read in microseconds: nanoseconds end in 2262 |

mod thrift;

use std::sync::Arc;

use arrow::{
    datatypes::{
        DECIMAL256_MAX_PRECISION, DataType, Decimal256Type, Field, FieldRef, Schema, SchemaRef,
        TimeUnit, validate_decimal_precision_and_scale,
    },
    ipc,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use parquet::{
    arrow::{
        ARROW_SCHEMA_META_KEY,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
        encode_arrow_schema, parquet_to_arrow_schema,
    },
    basic::{ConvertedType, LogicalType, Type as PhysicalType},
    errors::ParquetError,
    file::{
        metadata::{
            FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader,
        },
        reader::{ChunkReader, Length},
    },
    schema::types::{GroupTypeBuilder, SchemaDescriptor, Type, TypePtr},
};

use self::thrift::{depth, without_foreign_fields};
use super::{file::SourceFile, portable::portable, stored::Stored};
use crate::base::guard::guarded;

/// The maximum bytes of a decimal that Arrow supports.
const DECIMAL_BYTES_MAX: i32 = 32;
/// The prefix of metadata keys written by Spark.
const SPARK: &str = "org.apache.spark";

/// Reads the footer of a file.
///
/// # Errors
///
/// The Parquet crate's.
pub(super) fn read_footer(file: &SourceFile) -> Result<ParquetMetaData, ParquetError> {
    let Some(footer) = footer_bytes(file) else {
        // The crate's reader reports the precise error.
        return ParquetMetaDataReader::new().parse_and_finish(file);
    };
    if depth(&footer) > LEVELS_MAX {
        let problem = format!("columns are nested more than {LEVELS_MAX} levels deep");
        return Err(ParquetError::General(problem));
    }
    ParquetMetaDataReader::decode_metadata(&footer).or_else(|error| {
        let footer = without_foreign_fields(&footer);
        footer.map_or(Err(error), |footer| ParquetMetaDataReader::decode_metadata(&footer))
    })
}

/// Returns the footer bytes from the end of a file.
fn footer_bytes(file: &SourceFile) -> Option<Bytes> {
    let end = file.len().checked_sub(TAIL_BYTES)?;
    let tail = file.get_bytes(end, usize::try_from(TAIL_BYTES).ok()?).ok()?;
    // An encrypted file ends with `PARE`.
    if !tail.ends_with(b"PAR1") {
        return None;
    }
    let length = u32::from_le_bytes(*tail.first_chunk()?);
    let start = end.checked_sub(length.into())?;
    file.get_bytes(start, usize::try_from(length).ok()?).ok()
}

/// The maximum nesting of columns: readers recurse for each level.
const LEVELS_MAX: usize = 128;
/// The length of a footer and `PAR1`, at the end of a file.
const TAIL_BYTES: u64 = 8;

/// Returns the reader metadata for the columns of a file.
///
/// # Errors
///
/// The Parquet crate's, if the columns in the footer are inconsistent.
pub(super) fn columns_of(footer: ParquetMetaData) -> Result<ArrowReaderMetadata, ParquetError> {
    let mut footer = with_sound_offsets(footer);
    let mut stored: Vec<Option<Stored>> =
        leaves(&footer).iter().map(|leaf| stored_as(leaf)).collect();
    if stored.iter().any(Option::is_some) {
        let mut is_stored = stored.iter().map(Option::is_some);
        footer = without_annotations(&footer, |_| is_stored.next().unwrap_or_default())?;
    }
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let plain = ArrowReaderMetadata::try_new(Arc::new(footer.clone()), plain).or_else(|_| {
        footer = without_annotations(&footer, |leaf| !is_readable(leaf))?;
        footer = without_unreadable_groups(&footer)?;
        let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        ArrowReaderMetadata::try_new(Arc::new(footer.clone()), plain)
    })?;
    let embedded =
        || ArrowReaderMetadata::try_new(Arc::new(footer.clone()), ArrowReaderOptions::new());
    let found = match guarded(embedded) {
        Ok(Ok(found)) => found,
        _ => with_readable_fields(&footer, &plain, &mut stored).unwrap_or(plain),
    };
    let is_of_spark = has_key(&footer, SPARK);
    supplied(found, &footer, &stored, is_of_spark)
}

/// Returns the leaf columns of a file.
fn leaves(footer: &ParquetMetaData) -> Vec<TypePtr> {
    let columns = footer.file_metadata().schema_descr().columns();
    columns.iter().map(|column| column.self_type_ptr()).collect()
}

fn has_key(footer: &ParquetMetaData, head: &str) -> bool {
    let pairs = footer.file_metadata().key_value_metadata().into_iter().flatten();
    pairs.into_iter().any(|pair| pair.key.starts_with(head))
}

/// Removes impossible offsets of dictionary pages, as other readers do.
fn with_sound_offsets(footer: ParquetMetaData) -> ParquetMetaData {
    let is_odd = |at: i64, data_at: i64| at <= 0 || at >= data_at;
    let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
    let mut offsets = chunks.map(|one| (one.dictionary_page_offset(), one.data_page_offset()));
    if !offsets.any(|(at, data_at)| at.is_some_and(|at| is_odd(at, data_at))) {
        return footer;
    }
    let mut builder = footer.into_builder();
    let groups = builder.take_row_groups().into_iter().map(|group| {
        let chunks = group.columns().iter().map(|chunk| {
            let data_at = chunk.data_page_offset();
            let at = chunk.dictionary_page_offset().filter(|&at| !is_odd(at, data_at));
            chunk.clone().into_builder().set_dictionary_page_offset(at).build()
        });
        let chunks = chunks.collect::<Result<Vec<_>, _>>();
        let rebuilt = chunks
            .and_then(|chunks| group.clone().into_builder().set_column_metadata(chunks).build());
        rebuilt.unwrap_or(group)
    });
    let groups = groups.collect();
    builder.set_row_groups(groups).build()
}

/// Returns the stored type of a column without an Arrow type.
fn stored_as(leaf: &Type) -> Option<Stored> {
    let Type::PrimitiveType { physical_type, type_length, precision, scale, .. } = leaf else {
        return None;
    };
    let info = leaf.get_basic_info();
    if info.logical_type_ref().is_none() && info.converted_type() == ConvertedType::INTERVAL {
        return (*type_length == 12).then_some(Stored::Interval);
    }
    let (precision, scale) = match info.logical_type_ref() {
        Some(LogicalType::Decimal(decimal)) => (decimal.precision, decimal.scale),
        None if info.converted_type() == ConvertedType::DECIMAL => (*precision, *scale),
        _ => return None,
    };
    let is_long =
        *physical_type == PhysicalType::FIXED_LEN_BYTE_ARRAY && *type_length > DECIMAL_BYTES_MAX;
    let fits = || {
        let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
        let valid = validate_decimal_precision_and_scale::<Decimal256Type>(precision, scale);
        (scale >= 0 && precision <= DECIMAL256_MAX_PRECISION).then_some(())?;
        valid.ok()
    };
    let is_held = !is_long && fits().is_some();
    (!is_held).then(|| Stored::Decimal { scale: usize::try_from(scale).unwrap_or_default() })
}

fn is_readable(leaf: &Type) -> bool {
    let root = Type::group_type_builder("root").with_fields(vec![Arc::new(leaf.clone())]).build();
    root.is_ok_and(|root| {
        parquet_to_arrow_schema(&SchemaDescriptor::new(Arc::new(root)), None).is_ok()
    })
}

/// Returns the footer without the annotations of the `plain` columns.
///
/// # Errors
///
/// The Parquet crate's.
pub(super) fn without_annotations(
    footer: &ParquetMetaData,
    mut plain: impl FnMut(&Type) -> bool,
) -> Result<ParquetMetaData, ParquetError> {
    let root = footer.file_metadata().schema_descr().root_schema();
    let fields = root.get_fields().iter().map(|kind| without_annotation(kind, &mut plain));
    with_columns(footer, fields.collect::<Result<_, _>>()?)
}

fn without_annotation(
    kind: &TypePtr,
    plain: &mut impl FnMut(&Type) -> bool,
) -> Result<TypePtr, ParquetError> {
    let info = kind.get_basic_info();
    if let Type::PrimitiveType { physical_type, type_length, .. } = kind.as_ref() {
        if !plain(kind) {
            return Ok(Arc::clone(kind));
        }
        let mut builder = Type::primitive_type_builder(kind.name(), *physical_type);
        if info.has_repetition() {
            builder = builder.with_repetition(info.repetition());
        }
        let id = info.has_id().then(|| info.id());
        return builder.with_length(*type_length).with_id(id).build().map(Arc::new);
    }
    let fields = kind.get_fields().iter().map(|field| without_annotation(field, plain));
    plain_group(kind, fields.collect::<Result<_, _>>()?)
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .build()
        .map(Arc::new)
}

/// Returns a builder for a group like `kind`, without its annotation.
fn plain_group(kind: &Type, fields: Vec<TypePtr>) -> GroupTypeBuilder<'_> {
    let info = kind.get_basic_info();
    let builder = Type::group_type_builder(kind.name())
        .with_fields(fields)
        .with_id(info.has_id().then(|| info.id()));
    match info.has_repetition() {
        true => builder.with_repetition(info.repetition()),
        false => builder,
    }
}

/// Converts malformed lists and maps to plain groups.
fn without_unreadable_groups(footer: &ParquetMetaData) -> Result<ParquetMetaData, ParquetError> {
    fn plain(kind: &TypePtr) -> Result<TypePtr, ParquetError> {
        if kind.is_primitive() {
            return Ok(Arc::clone(kind));
        }
        let fields = kind.get_fields().iter().map(plain).collect::<Result<_, _>>()?;
        plain_group(kind, fields).build().map(Arc::new)
    }
    let root = footer.file_metadata().schema_descr().root_schema();
    let fields = root.get_fields().iter();
    let fields =
        fields.map(|kind| if is_readable(kind) { Ok(Arc::clone(kind)) } else { plain(kind) });
    with_columns(footer, fields.collect::<Result<_, _>>()?)
}

fn with_columns(
    footer: &ParquetMetaData,
    columns: Vec<TypePtr>,
) -> Result<ParquetMetaData, ParquetError> {
    let file = footer.file_metadata();
    let name = file.schema_descr().root_schema().name();
    let root = Type::group_type_builder(name).with_fields(columns).build()?;
    let columns = Arc::new(SchemaDescriptor::new(Arc::new(root)));
    Ok(with_file(footer, file.key_value_metadata().cloned(), columns))
}

fn with_file(
    footer: &ParquetMetaData,
    pairs: Option<Vec<KeyValue>>,
    columns: Arc<SchemaDescriptor>,
) -> ParquetMetaData {
    let file = footer.file_metadata();
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        pairs,
        columns,
        file.column_orders().cloned(),
    );
    ParquetMetaDataBuilder::new(file).set_row_groups(footer.row_groups().to_vec()).build()
}

/// Reads the readable fields of the embedded Arrow schema; the others are taken from `plain`, except for
/// integers of more than 64 bits, which are recorded in `stored`.
fn with_readable_fields(
    footer: &ParquetMetaData,
    plain: &ArrowReaderMetadata,
    stored: &mut [Option<Stored>],
) -> Option<ArrowReaderMetadata> {
    let file = footer.file_metadata();
    let mut pairs = file.key_value_metadata().cloned()?;
    let pair = pairs.iter_mut().find(|pair| pair.key == ARROW_SCHEMA_META_KEY)?;
    let bytes = BASE64_STANDARD.decode(pair.value.as_deref()?).ok()?;
    let message = bytes.strip_prefix(&[0xFF; 4]).and_then(|rest| rest.get(4..)).unwrap_or(&bytes);
    let embedded = ipc::root_as_message(message).ok()?.header_as_schema()?.fields()?;
    let own = plain.schema().fields();
    if embedded.len() != own.len() {
        return None;
    }
    let mut leaf = 0;
    let mut fields: Vec<FieldRef> = Vec::with_capacity(own.len());
    for (embedded, own) in embedded.iter().zip(own) {
        if let Some(int) = embedded.type_as_int().filter(|int| int.bitWidth() > 64)
            && matches!(own.data_type(), DataType::FixedSizeBinary(_))
            && let Some(stored) = stored.get_mut(leaf)
        {
            *stored = Some(Stored::Integer { is_signed: int.is_signed() });
        }
        leaf += n_leaves(own.data_type());
        let read = guarded(|| Field::from(embedded)).ok().filter(|read| read.name() == own.name());
        fields.push(read.map_or_else(|| Arc::clone(own), Arc::new));
    }
    pair.value = Some(encode_arrow_schema(&Schema::new(fields)));
    let columns = file.schema_descr_ptr();
    let footer = Arc::new(with_file(footer, Some(pairs), columns));
    guarded(|| ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())).ok()?.ok()
}

fn n_leaves(kind: &DataType) -> usize {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => n_leaves(item.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| n_leaves(field.data_type())).sum(),
        _ => 1,
    }
}

/// Requests types from the reader that need no conversion where supported, and records the columns that
/// are read as stored.
fn supplied(
    found: ArrowReaderMetadata,
    footer: &ParquetMetaData,
    stored: &[Option<Stored>],
    is_of_spark: bool,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let leaves = leaves(footer);
    let mut leaves = leaves.iter().zip(stored.iter().copied().chain(std::iter::repeat(None)));
    let mut next = || {
        let (leaf, stored) = leaves.next()?;
        let is_int96 = leaf.get_physical_type() == PhysicalType::INT96;
        Some(Leaf { stored, is_coarse: is_int96 && is_of_spark })
    };
    let fields = found.schema().fields().iter();
    let fields: Vec<FieldRef> = fields.map(|field| supplied_field(field, &mut next)).collect();
    if fields.as_slice() == found.schema().fields().as_ref() {
        return Ok(found);
    }
    let schema: SchemaRef =
        Arc::new(Schema::new_with_metadata(fields, found.schema().metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)
}

/// The anomalies of a column.
struct Leaf {
    stored: Option<Stored>,
    /// Whether its timestamps are in microseconds.
    is_coarse: bool,
}

fn supplied_field(field: &FieldRef, next: &mut impl FnMut() -> Option<Leaf>) -> FieldRef {
    let mut children = |field: &FieldRef| supplied_field(field, next);
    let data_type = match field.data_type() {
        DataType::List(item) | DataType::ListView(item) => DataType::List(children(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(children(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(children(item), *size),
        DataType::Map(entries, is_sorted) => DataType::Map(children(entries), *is_sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(children).collect()),
        leaf => {
            let odd = next().unwrap_or(Leaf { stored: None, is_coarse: false });
            let data_type = match leaf {
                DataType::Dictionary(..) => portable(leaf),
                DataType::Timestamp(TimeUnit::Nanosecond, None) if odd.is_coarse => {
                    DataType::Timestamp(TimeUnit::Microsecond, None)
                }
                leaf => leaf.clone(),
            };
            let mut field = field.as_ref().clone().with_data_type(data_type);
            if let Some(stored) = odd.stored {
                stored.mark(&mut field);
            }
            return Arc::new(field);
        }
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

#[cfg(test)]
mod tests;
