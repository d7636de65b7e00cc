//! The input of a run: its files, their schema, their spans and their rows.

mod arrow_ipc;
pub(crate) mod batch;
pub(crate) mod cell;
pub(crate) mod column;
mod compact;
mod compressed;
pub(crate) mod computed;
mod contents;
pub(crate) mod conversation;
pub(crate) mod convert;
mod csv;
mod error;
pub(crate) mod file;
mod footer;
mod foreign;
mod json;
mod json_lines;
pub(crate) mod known;
pub(crate) mod listing;
mod media;
pub(crate) mod names;
mod numbers;
pub(crate) mod pages;
mod parquet;
pub(crate) mod partitions;
mod portable;
pub(crate) mod reader;
mod records;
pub(crate) mod roots;
pub(crate) mod rows;
mod shape;
pub(crate) mod skipped;
mod steps;
mod stored;
pub(crate) mod table;
pub(crate) mod table_file;
mod tar;
pub(crate) mod text_bytes;
mod typed;
mod unify;
mod unify_declared;
mod walk;
mod widen;
mod windows;

#[cfg(test)]
mod tests;

pub use error::{SourceError, SourceFailed};
pub use file::BytesRead;
pub use listing::Listed;
pub(crate) use listing::list_files;
pub(crate) use rows::ReadRows;
pub use skipped::Skipped;
pub(crate) use table::{OpenTable, SourceTable};
pub use table_file::TableFile;
