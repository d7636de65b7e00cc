//! Hive-style partition folders (`lang=de/year=2026/x.parquet`).

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{column::is_text, rows::ReadRows};
use crate::base::store::key_of;

/// The folder value that represents null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The partition columns of a file with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partitions(Arc<[(String, Option<String>)]>);

impl Partitions {
    /// Parses the partition folders of the file at `path`, or of the key in a URL, except names that are in
    /// its own `schema`. Names are percent-decoded once.
    pub(crate) fn from_path(path: &str, schema: &Schema) -> Self {
        let mut named: Vec<(String, Option<String>)> = Vec::new();
        let path = key_of(path);
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

    /// Adds the partition columns to a batch of the file.
    pub(crate) fn add(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let cells = self.0.iter().map(|(_, value)| -> ArrayRef {
            let cells = std::iter::repeat_n(value.as_deref(), batch.num_rows());
            Arc::new(cells.collect::<StringArray>())
        });
        let columns = batch.columns().iter().cloned().chain(cells).collect();
        RecordBatch::try_new(self.add_to(&batch.schema()), columns)
    }

    pub(super) fn names(&self, column: &str) -> bool {
        self.0.iter().any(|(name, _)| name == column)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the partition columns to a file's schema.
    pub(super) fn add_to(&self, schema: &SchemaRef) -> SchemaRef {
        if self.is_empty() {
            return Arc::clone(schema);
        }
        let own = schema.fields().iter().map(|field| field.as_ref().clone());
        let named = self.0.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true));
        let fields: Vec<Field> = own.chain(named).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// Adds the requested partition columns to rows of the file.
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

/// Percent-decodes a text.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

/// Characters that need no escape in folder names, object stores and shells.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.');

/// The maximum length of a folder name: file systems limit names to 255 bytes.
const FOLDER_BYTES_MAX: usize = 240;

/// Returns whether values of this type can name folders.
#[must_use]
pub(crate) fn may_name_folders(kind: &DataType) -> bool {
    kind.is_integer()
        || is_text(kind)
        || matches!(kind, DataType::Boolean | DataType::Date32 | DataType::Date64)
}

/// Returns the folder and the rows of each value in `column`, both in order of appearance. Values too long
/// for a name are grouped with nulls.
///
/// # Errors
///
/// The batch has no such column, or it cannot be converted to text.
pub(crate) fn folders(
    batch: &RecordBatch,
    column: &str,
) -> Result<Vec<(String, UInt64Array)>, ArrowError> {
    let values = batch
        .column_by_name(column)
        .ok_or_else(|| ArrowError::SchemaError(format!("no column `{column}`")))?;
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(values.as_ref(), &options)?;
    let head = format!("{}=", utf8_percent_encode(column, PLAIN));
    let mut found: Vec<(String, Vec<u64>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in 0..batch.num_rows() {
        let value = if values.is_null(row) {
            NULL.to_owned()
        } else {
            utf8_percent_encode(&shown.value(row).try_to_string()?, PLAIN).to_string()
        };
        let value = if value.len() > FOLDER_BYTES_MAX { NULL.to_owned() } else { value };
        let folder = head.clone() + &value;
        let place = *places.entry(folder).or_insert_with_key(|folder| {
            found.push((folder.clone(), Vec::new()));
            found.len() - 1
        });
        found[place].1.push(row as u64);
    }
    Ok(found.into_iter().map(|(folder, rows)| (folder, rows.into())).collect())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};

    use super::{Partitions, folders};

    #[test]
    fn values_come_back_from_the_names_of_their_folders() {
        let values = [
            Some("de"),
            None,
            Some("a/b=c %2F \u{e9}"),
            Some("de"),
            Some(""),
            Some(".."),
            Some("x y#?*"),
        ];
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let batch = RecordBatch::try_from_iter_with_nullable([("la ng", column, true)]).unwrap();
        let found = folders(&batch, "la ng").unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!(found[0].1.values().as_ref(), [0, 3]);
        for (folder, rows) in found {
            assert!(!folder.contains(['/', ' ', '#']), "{folder}");
            let named = Partitions::from_path(&format!("{folder}/part.parquet"), &Schema::empty());
            let row = usize::try_from(rows.value(0)).unwrap();
            let expected = ("la ng".to_owned(), values[row].map(str::to_owned));
            assert_eq!(named.0.as_ref(), [expected], "{folder}");
        }
        let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(300)]));
        let batch = RecordBatch::try_from_iter([("lang", long)]).unwrap();
        assert_eq!(folders(&batch, "lang").unwrap()[0].0, "lang=__HIVE_DEFAULT_PARTITION__");
        assert!(folders(&batch, "none").is_err());
    }

    #[test]
    fn folders_name_columns_unless_the_file_does() {
        let own = Schema::new(vec![Field::new("year", DataType::Int64, true)]);
        let path = "/data/lang=de/year=2026/kind=a%2Fb/none=__HIVE_DEFAULT_PARTITION__/x=1.parquet";
        let named = Partitions::from_path(path, &own);
        let of = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            named.0.as_ref(),
            [of("lang", Some("de")), of("kind", Some("a/b")), of("none", None)]
        );
        assert!(Partitions::from_path("/data/x.parquet", &own).is_empty());
    }

    #[test]
    fn folders_of_a_store_are_decoded_as_those_of_a_disk() {
        let named = |path: &str| Partitions::from_path(path, &Schema::empty()).0;
        let day = [("day".to_owned(), Some("2026-01-01 00:00".to_owned()))];
        for place in ["/data/out", "s3://bucket/out"] {
            assert_eq!(named(&format!("{place}/day=2026-01-01 00%3A00/x.jsonl")).as_ref(), day);
            assert_eq!(named(&format!("{place}/day=2026-01-01%2000%3A00/x.jsonl")).as_ref(), day);
        }
        // A web URL is decoded first, and its query is not a folder.
        assert_eq!(named("https://h/day=2026-01-01%2000%253A00/x.jsonl?a=b/c").as_ref(), day);
        assert_eq!(named("https://h/x.jsonl?a=b/c").as_ref(), []);
    }
}
