//! The column types of `source.schema`.

use std::str::FromStr;

use arrow::datatypes::{DataType, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An unknown column type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "invalid type `{text}`: expected one of \"string\", \"int8\" to \"int64\", \"uint8\" to \"uint64\", \
     \"float32\", \"float64\", \"bool\", \"date\", \"timestamp[ms]\" (s, ms, us or ns), \"decimal(10, 2)\""
)]
pub struct ColumnTypeError {
    /// The input.
    text: String,
}

/// The type of a column: `string`, `int8` to `int64`, `uint8` to `uint64`, `float32`, `float64`, `bool`,
/// `date`, `timestamp[ms]` (`s`, `ms`, `us` or `ns`) or `decimal(10, 2)`. The Arrow and pandas names of these
/// types are accepted too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ColumnType(DataType);

impl ColumnType {
    /// Returns the Arrow type.
    #[must_use]
    pub fn data_type(&self) -> &DataType {
        &self.0
    }

    /// Returns the name of an Arrow type, in the notation of job files if possible.
    #[must_use]
    pub fn name_of(data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
            DataType::Boolean => "bool".to_owned(),
            DataType::Date32 => "date".to_owned(),
            DataType::Timestamp(unit, None) => format!("timestamp[{}]", unit_name(*unit)),
            DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
            DataType::List(item) | DataType::LargeList(item) => {
                format!("list<{}>", Self::name_of(item.data_type()))
            }
            DataType::Struct(fields) => {
                let member = |field: &std::sync::Arc<arrow::datatypes::Field>| {
                    format!("{}: {}", field.name(), Self::name_of(field.data_type()))
                };
                let members: Vec<String> = fields.iter().map(member).collect();
                format!("struct<{}>", members.join(", "))
            }
            other => other.to_string().to_lowercase(),
        }
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    fn from_str(text: &str) -> Result<Self, ColumnTypeError> {
        let name = text.trim().to_lowercase();
        let plain = match name.as_str() {
            "string" | "str" | "text" | "utf8" | "large_string" | "large_utf8" | "object" => {
                Some(DataType::Utf8)
            }
            "int8" => Some(DataType::Int8),
            "int16" => Some(DataType::Int16),
            "int32" => Some(DataType::Int32),
            "int64" | "int" | "integer" => Some(DataType::Int64),
            "uint8" => Some(DataType::UInt8),
            "uint16" => Some(DataType::UInt16),
            "uint32" => Some(DataType::UInt32),
            "uint64" => Some(DataType::UInt64),
            "float32" => Some(DataType::Float32),
            "float64" | "double" => Some(DataType::Float64),
            "bool" | "boolean" => Some(DataType::Boolean),
            "date" | "date32" | "date32[day]" => Some(DataType::Date32),
            "timestamp" | "datetime" => Some(DataType::Timestamp(TimeUnit::Microsecond, None)),
            _ => None,
        };
        let found = plain.or_else(|| timestamp(&name)).or_else(|| decimal(&name));
        found.map(Self).ok_or_else(|| ColumnTypeError { text: text.to_owned() })
    }
}

fn timestamp(name: &str) -> Option<DataType> {
    let unit = ["timestamp[", "datetime64["].iter().find_map(|head| name.strip_prefix(head))?;
    let units =
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let unit = unit.strip_suffix(']')?;
    let found = units.into_iter().find(|known| unit_name(*known) == unit)?;
    Some(DataType::Timestamp(found, None))
}

fn decimal(name: &str) -> Option<DataType> {
    let sizes = ["decimal128(", "decimal("].iter().find_map(|head| name.strip_prefix(head))?;
    let (precision, scale) = sizes.strip_suffix(')')?.split_once(',')?;
    let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let is_valid = (1..=38).contains(&precision) && scale <= precision;
    let scale = i8::try_from(scale).ok().filter(|_| is_valid)?;
    Some(DataType::Decimal128(precision, scale))
}

impl TryFrom<String> for ColumnType {
    type Error = ColumnTypeError;

    fn try_from(text: String) -> Result<Self, ColumnTypeError> {
        text.parse()
    }
}

impl From<ColumnType> for String {
    fn from(this: ColumnType) -> Self {
        ColumnType::name_of(&this.0)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::ColumnType;

    #[test]
    fn arrow_and_pandas_names_are_accepted() {
        for (text, expected) in [
            ("int64", DataType::Int64),
            ("Int64", DataType::Int64),
            ("str", DataType::Utf8),
            ("double", DataType::Float64),
            ("datetime64[ns]", DataType::Timestamp(TimeUnit::Nanosecond, None)),
            ("decimal128(10, 2)", DataType::Decimal128(10, 2)),
        ] {
            let parsed: ColumnType = text.parse().unwrap();
            assert_eq!(parsed.data_type(), &expected, "{text}");
            let round_trip: ColumnType = ColumnType::name_of(&expected).parse().unwrap();
            assert_eq!(round_trip, parsed);
        }
        for text in ["int65", "", "float", "decimal(39, 2)", "decimal(5, 6)", "timestamp[h]"] {
            let error = text.parse::<ColumnType>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("\"int64\""), "{error}");
        }
    }
}
