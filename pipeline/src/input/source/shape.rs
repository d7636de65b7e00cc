//! Type inference, from single values to all files of a table.
//!
//! Shapes only widen: a type that appears late in a file applies to the whole column. Values that no type
//! represents exactly are text; objects and lists become their JSON.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use super::numbers::Numbers;

/// The field metadata key that says how integers in a `Float64` column are written.
pub(super) const WHOLE_NUMBERS: &str = "legenda.whole_numbers";
/// The value of [`WHOLE_NUMBERS`] for integers without a decimal point.
pub(super) const PLAIN: &str = "plain";

/// The maximum members of an object within a column; a larger one, such as an object used as a dictionary,
/// is text.
const MEMBERS_MAX: usize = 1000;

/// The inferred shape of a column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Shape {
    /// Every value is null.
    #[default]
    Null,
    Truth(Spelling),
    Number(Numbers),
    /// Texts, or values without a common type.
    Text,
    List(Box<Shape>),
    Object(Members),
}

/// The spelling of booleans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Spelling {
    /// `true`
    Lower,
    /// `True`
    Title,
    /// `TRUE`
    Upper,
}

impl Spelling {
    /// Parses a boolean.
    pub(super) fn read(text: &str) -> Option<(Self, bool)> {
        Some(match text {
            "true" => (Self::Lower, true),
            "false" => (Self::Lower, false),
            "True" => (Self::Title, true),
            "False" => (Self::Title, false),
            "TRUE" => (Self::Upper, true),
            "FALSE" => (Self::Upper, false),
            _ => return None,
        })
    }
}

impl Shape {
    /// Widens the shape to include another.
    pub(super) fn widen(&mut self, other: Self) {
        let merged = match (std::mem::take(self), other) {
            (Self::Null, other) | (other, Self::Null) => other,
            (Self::Number(one), Self::Number(other)) => Self::Number(one.merge(other)),
            (Self::Truth(one), Self::Truth(other)) if one == other => Self::Truth(one),
            (Self::List(mut one), Self::List(other)) => {
                one.widen(*other);
                Self::List(one)
            }
            (Self::Object(mut one), Self::Object(other)) => {
                one.widen(other);
                Self::Object(one)
            }
            _ => Self::Text,
        };
        *self = merged;
        self.limit();
    }

    /// Converts an object with too many members to text.
    pub(super) fn limit(&mut self) {
        if matches!(self, Self::Object(members) if members.len() > MEMBERS_MAX) {
            *self = Self::Text;
        }
    }

    /// Returns the type of the column.
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Truth(_) => DataType::Boolean,
            Self::Number(numbers) => numbers.data_type(),
            Self::List(item) => {
                DataType::List(Arc::new(Field::new_list_field(item.data_type(), true)))
            }
            // Parquet does not support empty structs.
            Self::Object(members) if members.len() > 0 => {
                let fields =
                    members.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true));
                DataType::Struct(fields.collect())
            }
            _ => DataType::Utf8,
        }
    }

    fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.data_type(), true);
        match self {
            Self::Number(numbers)
                if *field.data_type() == DataType::Float64 && numbers.are_written_plain() =>
            {
                let written = HashMap::from([(WHOLE_NUMBERS.to_owned(), PLAIN.to_owned())]);
                field.with_metadata(written)
            }
            _ => field,
        }
    }
}

/// The members of objects, or the columns of a table, in order of appearance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(String, Shape)>", into = "Vec<(String, Shape)>")]
pub(super) struct Members {
    shapes: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

impl From<Vec<(String, Shape)>> for Members {
    fn from(shapes: Vec<(String, Shape)>) -> Self {
        let places = shapes.iter().enumerate().map(|(place, (name, _))| (name.clone(), place));
        Self { places: places.collect(), shapes }
    }
}

impl From<Members> for Vec<(String, Shape)> {
    fn from(members: Members) -> Self {
        members.shapes
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.shapes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.shapes.iter().map(|(name, shape)| (name.as_str(), shape))
    }

    /// Returns the shape of a member; `place` is its probable index.
    pub(super) fn member(&mut self, name: &str, place: usize) -> &mut Shape {
        let place = match self.shapes.get(place) {
            Some((known, _)) if known == name => place,
            _ => match self.places.get(name) {
                Some(&place) => place,
                None => {
                    self.places.insert(name.to_owned(), self.shapes.len());
                    self.shapes.push((name.to_owned(), Shape::Null));
                    self.shapes.len() - 1
                }
            },
        };
        &mut self.shapes[place].1
    }

    /// Returns the type of a column.
    pub(super) fn type_of(&self, name: &str) -> Option<DataType> {
        let (_, shape) = self.shapes.get(*self.places.get(name)?)?;
        Some(shape.data_type())
    }

    /// Widens every member to include those of another.
    pub(super) fn widen(&mut self, other: Self) {
        for (place, (name, shape)) in other.shapes.into_iter().enumerate() {
            self.member(&name, place).widen(shape);
        }
    }

    /// Returns the columns of a table.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
        self.iter().map(|(name, shape)| shape.field(name))
    }
}
