//! The shape of an answer: which texts are valid, and the Arrow types of their values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::ShapeError;
use crate::job::ColumnType;

/// The form of every answer of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A JSON object without white space. Each member becomes a column.
    Object(Vec<Member>),
    /// A text that matches a regular expression.
    Regex(String),
    /// One of some texts.
    Choices(Vec<String>),
}

/// A named value of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The name.
    pub name: String,
    /// The shape of the value.
    pub shape: Shape,
    /// Whether the value may be `null`.
    pub is_nullable: bool,
    /// Whether the member must be present.
    pub is_required: bool,
}

/// The shape of a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A string of any characters.
    Text {
        /// The minimum number of characters.
        chars_min: usize,
        /// The maximum number of characters.
        chars_max: usize,
    },
    /// A string that a regular expression matches somewhere. It has no quotes, backslashes or control characters.
    Pattern {
        /// The regular expression.
        regex: String,
        /// The maximum length in bytes.
        bytes_max: usize,
    },
    /// One of some strings.
    Choice(Vec<String>),
    /// One of some whole numbers.
    Numbers(Vec<i64>),
    /// `true` or `false`.
    Bool,
    /// A number without an exponent.
    Number(NumberShape),
    /// A string that is a calendar date of the years 1000 to 2999.
    Date,
    /// A string that is a time with an offset, as RFC 3339 writes it, of the years 1000 to 2999.
    Timestamp,
    /// An array.
    List {
        /// Its items; the name is not used.
        item: Box<Member>,
        /// The minimum number of items.
        items_min: usize,
        /// The maximum number of items.
        items_max: usize,
    },
    /// An object.
    Struct(Vec<Member>),
}

/// A bounded decimal number.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberShape {
    /// The Arrow type.
    pub data_type: DataType,
    /// The maximum number of fraction digits; 0 for a whole number.
    pub scale: u32,
    /// The lowest value, in units of the last fraction digit.
    pub low: i128,
    /// The highest value, in the same units.
    pub high: i128,
}

/// The default maximum number of characters of a string.
pub(super) const TEXT_CHARS_MAX: usize = 256;

/// The default maximum number of items of an array.
pub(super) const LIST_ITEMS_MAX: usize = 16;

/// The number of digits of a floating-point number before the point.
pub(super) const FLOAT_WHOLE_DIGITS: u32 = 15;

/// The number of digits of a floating-point number after the point.
pub(super) const FLOAT_FRACTION_DIGITS: u32 = 6;

/// The maximum nesting of arrays and objects.
pub(super) const DEPTH_MAX: usize = 16;

/// The maximum number of characters that a job may allow for a string.
pub(super) const TEXT_CHARS_LIMIT: usize = 65_536;

/// The maximum number of items that a job may allow for an array.
pub(super) const LIST_ITEMS_LIMIT: usize = 4_096;

impl Form {
    /// Returns the members of an object, else none.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        match self {
            Self::Object(members) => members,
            Self::Regex(_) | Self::Choices(_) => &[],
        }
    }
}

impl Member {
    /// Returns the Arrow field of the member. `is_nullable` adds nulls for another reason.
    #[must_use]
    pub fn field(&self, is_nullable: bool) -> Field {
        let is_nullable = is_nullable || self.is_nullable || !self.is_required;
        Field::new(&self.name, self.shape.data_type(), is_nullable)
    }

    /// Returns the column as text, for a person: `total decimal(10, 2)`.
    #[must_use]
    pub fn description(&self) -> String {
        let null = if self.is_nullable || !self.is_required { ", null" } else { "" };
        let bounds = self.shape.bounds().map_or(String::new(), |bounds| format!(": {bounds}"));
        format!("{} {}{bounds}{null}", self.name, self.shape.type_name())
    }

    /// Returns the field as [`field`](Self::field) does, with plain strings instead of dictionaries.
    #[must_use]
    pub fn plain_field(&self, is_nullable: bool) -> Field {
        let field = self.field(is_nullable);
        let plain = self.shape.plain_type();
        field.with_data_type(plain)
    }
}

impl Shape {
    /// Returns the Arrow type of the values.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self {
            Self::Choice(_) => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List { item, .. } => DataType::List(item_field(item.shape.data_type(), item)),
            Self::Struct(members) => {
                DataType::Struct(members.iter().map(|member| member.field(false)).collect())
            }
            _ => self.plain_type(),
        }
    }

    /// Returns the type that a reader of JSON gives the values: [`data_type`](Self::data_type) with
    /// strings for dictionaries, and an offset for the time zone.
    fn plain_type(&self) -> DataType {
        match self {
            Self::Text { .. } | Self::Pattern { .. } | Self::Choice(_) => DataType::Utf8,
            Self::Numbers(_) => DataType::Int64,
            Self::Bool => DataType::Boolean,
            Self::Number(number) => number.data_type.clone(),
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Self::List { item, .. } => DataType::List(item_field(item.shape.plain_type(), item)),
            Self::Struct(members) => {
                let fields = members.iter().map(|member| member.plain_field(false));
                DataType::Struct(fields.collect::<Fields>())
            }
        }
    }

    /// Returns the name of the Arrow type.
    fn type_name(&self) -> String {
        match self {
            Self::Choice(_) => "dictionary".to_owned(),
            Self::Timestamp => "timestamp[us, UTC]".to_owned(),
            Self::List { item, .. } => format!("list<{}>", item.shape.type_name()),
            Self::Struct(members) => {
                let members = members.iter();
                let members = members.map(|one| format!("{}: {}", one.name, one.shape.type_name()));
                format!("struct<{}>", members.collect::<Vec<_>>().join(", "))
            }
            _ => ColumnType::name_of(&self.data_type()),
        }
    }

    /// Returns the bounds of the values as text, for a person; `None` if the type says all.
    #[must_use]
    pub fn bounds(&self) -> Option<String> {
        match self {
            Self::Text { chars_max, .. } => Some(format!("up to {chars_max} characters")),
            Self::Pattern { regex, bytes_max } => {
                Some(format!("`{regex}`, up to {bytes_max} bytes"))
            }
            Self::Choice(values) => Some(values.join(" | ")),
            Self::Numbers(values) => {
                Some(values.iter().map(i64::to_string).collect::<Vec<_>>().join(" | "))
            }
            Self::Number(number) if number.is_bounded() => {
                Some(format!("{} to {}", number.text(number.low), number.text(number.high)))
            }
            Self::List { item, items_max, .. } => {
                let items = format!("up to {items_max} items");
                Some(match item.shape.bounds() {
                    Some(bounds) => format!("{items}: {bounds}"),
                    None => items,
                })
            }
            Self::Bool | Self::Number(_) | Self::Date | Self::Timestamp | Self::Struct(_) => None,
        }
    }
}

fn item_field(data_type: DataType, item: &Member) -> Arc<Field> {
    Arc::new(Field::new_list_field(data_type, item.is_nullable))
}

impl NumberShape {
    /// Returns the whole numbers of an Arrow type; `None` for other types.
    #[must_use]
    pub fn whole(data_type: DataType) -> Option<Self> {
        let (low, high) = match &data_type {
            DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
            DataType::UInt8 => (0, u8::MAX.into()),
            DataType::UInt16 => (0, u16::MAX.into()),
            DataType::UInt32 => (0, u32::MAX.into()),
            DataType::UInt64 => (0, u64::MAX.into()),
            _ => return None,
        };
        Some(Self { data_type, scale: 0, low, high })
    }

    /// Returns the numbers of a floating-point type, with the default number of digits.
    #[must_use]
    pub fn float(data_type: DataType) -> Self {
        Self::digits(data_type, FLOAT_WHOLE_DIGITS, FLOAT_FRACTION_DIGITS)
    }

    /// Returns the numbers of `Decimal128(precision, scale)`.
    #[must_use]
    pub fn decimal(precision: u8, scale: u8) -> Self {
        let whole = u32::from(precision.saturating_sub(scale));
        let data_type = DataType::Decimal128(precision, scale.cast_signed());
        Self::digits(data_type, whole, u32::from(scale))
    }

    fn digits(data_type: DataType, whole: u32, scale: u32) -> Self {
        let high = 10_i128.pow((whole + scale).min(38)) - 1;
        Self { data_type, scale, low: -high, high }
    }

    /// Restricts the values to those from `low` to `high`, in units of the last fraction digit.
    ///
    /// # Errors
    ///
    /// [`ShapeError::Values`] if none is left.
    pub fn within(self, low: Option<i128>, high: Option<i128>) -> Result<Self, ShapeError> {
        let low = low.map_or(self.low, |low| low.max(self.low));
        let high = high.map_or(self.high, |high| high.min(self.high));
        if low > high {
            let (low, high) = (self.text(low), self.text(high));
            return Err(ShapeError::Values(format!("allows no number: from {low} to {high}")));
        }
        Ok(Self { low, high, ..self })
    }

    /// Returns whether the range is narrower than that of the type.
    fn is_bounded(&self) -> bool {
        let whole = match &self.data_type {
            DataType::Decimal128(precision, scale) => {
                Some(Self::decimal(*precision, scale.unsigned_abs()))
            }
            DataType::Float32 | DataType::Float64 => Some(Self::float(self.data_type.clone())),
            other => Self::whole(other.clone()),
        };
        whole.is_some_and(|whole| (whole.low, whole.high) != (self.low, self.high))
    }

    /// Returns a value as JSON.
    #[must_use]
    pub fn text(&self, value: i128) -> String {
        let unit = 10_u128.pow(self.scale);
        let (sign, value) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
        let (whole, fraction) = (value / unit, value % unit);
        if fraction == 0 {
            return format!("{sign}{whole}");
        }
        let digits = format!("{fraction:0width$}", width = self.scale as usize);
        format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::NumberShape;

    #[test]
    fn numbers_are_written_without_an_exponent() {
        let price = NumberShape::decimal(10, 2);
        assert_eq!(price.text(-150), "-1.5");
        assert_eq!(price.text(7), "0.07");
        assert_eq!(price.text(price.high), "99999999.99");
        assert_eq!(
            NumberShape::decimal(38, 0).text(10_i128.pow(37)),
            format!("1{}", "0".repeat(37))
        );
        let byte = NumberShape::whole(DataType::UInt8).unwrap();
        assert_eq!((byte.low, byte.high), (0, 255));
        assert!(byte.clone().within(Some(300), None).is_err());
        assert_eq!(byte.within(Some(-3), Some(9)).unwrap().high, 9);
    }
}
