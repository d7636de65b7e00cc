//! The rows of an output in input order: as one file, or as lines of text while a run commits them.

mod error;
mod file;
mod lines;
mod rows;

pub use self::{
    error::ExportError,
    file::{ExportOptions, Exported, export},
    lines::{AnswerLine, LineLabel, LineOrder, answer_lines},
};
