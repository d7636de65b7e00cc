//! The short form of a column: the name of its type.

use arrow::datatypes::DataType;

use super::{
    Member, NumberShape, Shape, ShapeError,
    shape::{DEPTH_MAX, LIST_ITEMS_LIMIT, LIST_ITEMS_MAX, TEXT_CHARS_LIMIT, TEXT_CHARS_MAX},
};
use crate::job::ColumnType;

/// Returns the shape that the name of a type means, and whether it may be null: `decimal(10, 2)?`.
///
/// # Errors
///
/// [`ShapeError::Name`] if there is no such type.
pub fn shape_of_name(text: &str) -> Result<(Shape, bool), ShapeError> {
    named(text, 0).ok_or_else(|| ShapeError::Name { text: text.to_owned() })
}

fn named(text: &str, depth: usize) -> Option<(Shape, bool)> {
    let text = text.trim();
    let (name, is_nullable) = match text.strip_suffix('?') {
        Some(name) => (name.trim_end(), true),
        None => (text, false),
    };
    Some((shape(name, depth)?, is_nullable))
}

fn shape(name: &str, depth: usize) -> Option<Shape> {
    let name = name.to_lowercase();
    if let Some(inner) = name.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
        if depth == DEPTH_MAX {
            return None;
        }
        // `list<string, 5>`; the comma of `list<decimal(10, 2)>` is not one of the list.
        let (item, items_max) = match inner.rsplit_once(',') {
            Some((item, count)) if count.trim().parse::<usize>().is_ok() => {
                (item, count.trim().parse().ok()?)
            }
            _ => (inner, LIST_ITEMS_MAX),
        };
        let (shape, is_nullable) = named(item, depth + 1)?;
        let item = Member { name: "item".to_owned(), shape, is_nullable, is_required: true };
        let is_valid = (1..=LIST_ITEMS_LIMIT).contains(&items_max);
        return is_valid.then(|| Shape::List { item: Box::new(item), items_min: 0, items_max });
    }
    if let Some(chars) = name.strip_prefix("string(").and_then(|rest| rest.strip_suffix(')')) {
        let chars_max: usize = chars.trim().parse().ok()?;
        let is_valid = (1..=TEXT_CHARS_LIMIT).contains(&chars_max);
        return is_valid.then_some(Shape::Text { chars_min: 0, chars_max });
    }
    if name == "float" {
        return Some(Shape::Number(NumberShape::float(DataType::Float64)));
    }
    if name == "timestamp" {
        return Some(Shape::Timestamp);
    }
    let known: ColumnType = name.parse().ok()?;
    match known.data_type() {
        DataType::Utf8 => Some(Shape::Text { chars_min: 0, chars_max: TEXT_CHARS_MAX }),
        DataType::Boolean => Some(Shape::Bool),
        DataType::Date32 => Some(Shape::Date),
        DataType::Float32 | DataType::Float64 => {
            Some(Shape::Number(NumberShape::float(known.data_type().clone())))
        }
        DataType::Decimal128(precision, scale) => {
            Some(Shape::Number(NumberShape::decimal(*precision, scale.unsigned_abs())))
        }
        other => NumberShape::whole(other.clone()).map(Shape::Number),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::{super::Shape, shape_of_name};

    #[test]
    fn names_of_types_are_shapes() {
        for (name, expected) in [
            ("string", DataType::Utf8),
            ("string(80)", DataType::Utf8),
            ("int", DataType::Int64),
            ("uint8", DataType::UInt8),
            ("float", DataType::Float64),
            ("decimal(10,2)", DataType::Decimal128(10, 2)),
            ("bool", DataType::Boolean),
            ("date", DataType::Date32),
        ] {
            let (shape, is_nullable) = shape_of_name(name).unwrap();
            assert_eq!((shape.data_type(), is_nullable), (expected, false), "{name}");
        }
        let (list, is_nullable) = shape_of_name("list<decimal(10, 2)?, 5>?").unwrap();
        assert!(is_nullable);
        let Shape::List { item, items_max, .. } = list else { panic!("{list:?}") };
        assert_eq!((items_max, item.is_nullable), (5, true));
        assert_eq!(item.shape.data_type(), DataType::Decimal128(10, 2));
        for name in ["", "text[]", "string(0)", "list<>", "decimal(39,2)", "list<string, 0>"] {
            let error = shape_of_name(name).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }
}
