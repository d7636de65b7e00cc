//! Typed answers: the form that every answer of a job has, and its columns.

mod decimal;
mod error;
mod json_schema;
mod shape;
mod short;

pub use error::ShapeError;
pub use json_schema::members_of_schema;
pub use shape::{Form, Member, NumberShape, Shape};
pub use short::shape_of_name;
