//! Folders that name columns (`lang=de/year=2026/x.parquet`), as Hive writes them.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use super::rows::ReadRows;

/// The value of a folder that stands for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that the folders of a file name, and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partitions(Arc<[(String, Option<String>)]>);

impl Partitions {
    /// Reads the folders of the file at `path`, but for names that its own `schema` has.
    pub(super) fn of(path: &str, schema: &Schema) -> Self {
        let mut named: Vec<(String, Option<String>)> = Vec::new();
        let folders = path.rsplit_once(['/', std::path::MAIN_SEPARATOR]);
        let folders = folders.map_or("", |(folders, _)| folders);
        for folder in folders.split(['/', std::path::MAIN_SEPARATOR]) {
            let Some((name, value)) = folder.split_once('=') else { continue };
            let (name, value) = (decoded(name), decoded(value));
            if name.is_empty() || schema.field_with_name(&name).is_ok() {
                continue;
            }
            named.retain(|(known, _)| *known != name);
            named.push((name, (value != NULL).then_some(value)));
        }
        Self(named.into())
    }

    pub(super) fn names(&self, column: &str) -> bool {
        self.0.iter().any(|(name, _)| name == column)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the columns to a file's schema.
    pub(super) fn add_to(&self, schema: &SchemaRef) -> SchemaRef {
        if self.is_empty() {
            return Arc::clone(schema);
        }
        let own = schema.fields().iter().map(|field| field.as_ref().clone());
        let named = self.0.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true));
        let fields: Vec<Field> = own.chain(named).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// Adds the columns that are wanted to rows of the file.
    pub(super) fn fill(&self, read: ReadRows, is_wanted: impl Fn(&str) -> bool) -> ReadRows {
        let wanted: Vec<_> = self.0.iter().filter(|(name, _)| is_wanted(name)).collect();
        if wanted.is_empty() {
            return read;
        }
        let ReadRows { rows, damaged } = read;
        let n_rows = rows.num_rows();
        let schema = rows.schema();
        let mut fields: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut columns = rows.columns().to_vec();
        for (name, value) in wanted {
            fields.push(Field::new(name, DataType::Utf8, true));
            let cells = std::iter::repeat_n(value.as_deref(), n_rows);
            columns.push(Arc::new(cells.collect::<StringArray>()) as ArrayRef);
        }
        let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
        ReadRows::new(Arc::new(schema), columns, n_rows, damaged)
    }
}

/// Decodes `%2F` and its like.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                plain.push(byte);
                at += 3;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::Partitions;

    #[test]
    fn folders_name_columns_unless_the_file_does() {
        let own = Schema::new(vec![Field::new("year", DataType::Int64, true)]);
        let path = "/data/lang=de/year=2026/kind=a%2Fb/none=__HIVE_DEFAULT_PARTITION__/x=1.parquet";
        let named = Partitions::of(path, &own);
        let of = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            named.0.as_ref(),
            [of("lang", Some("de")), of("kind", Some("a/b")), of("none", None)]
        );
        assert!(Partitions::of("/data/x.parquet", &own).is_empty());
    }
}
