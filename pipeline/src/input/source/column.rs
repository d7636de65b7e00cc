//! Classification of columns by type.

use arrow::datatypes::DataType;

/// Returns whether cells of this type can contain media: bytes, `{bytes, path}`, a path or other text, or a
/// list of those.
#[must_use]
pub fn holds_media(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            !matches!(
                item.data_type(),
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
            ) && holds_media(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| {
            matches!(field.name().as_str(), "bytes" | "path") && is_bytes_or_text(field.data_type())
        }),
        data_type => is_bytes_or_text(data_type),
    }
}

fn is_bytes_or_text(data_type: &DataType) -> bool {
    is_bytes(data_type) || is_text(data_type)
}

/// Returns whether a column contains text, plain or dictionary-encoded.
#[must_use]
pub(crate) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        kind => matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

pub(super) fn is_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_bytes(values),
        kind => matches!(
            kind,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        ),
    }
}

/// The maximum bytes of an identifier or a digest, such as a UUID or a SHA-512.
const NAME_BYTES_MAX: i32 = 64;

/// Returns whether a column is carried to the answers by default: all except those with bytes, such as
/// media. Values of a small fixed size are identifiers or digests.
#[must_use]
pub(crate) fn is_carried_unasked(data_type: &DataType) -> bool {
    matches!(data_type, DataType::FixedSizeBinary(..=NAME_BYTES_MAX)) || !holds_bytes(data_type)
}

/// Returns whether a column contains bytes at any level; such columns are not carried by default.
#[must_use]
pub(crate) fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_bytes(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_bytes(field.data_type())),
        data_type => is_bytes(data_type),
    }
}
