//! What columns can hold.

use arrow::datatypes::DataType;

/// Returns whether cells of this type can hold media: bytes, `{bytes, path}`, a path, or a list
/// of those.
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
    is_bytes(data_type)
        || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    )
}

/// Returns whether a column holds bytes anywhere, which are not carried to the answers unasked.
#[must_use]
pub fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_bytes(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_bytes(field.data_type())),
        data_type => is_bytes(data_type),
    }
}
