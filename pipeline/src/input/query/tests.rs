//! Queries over files on disk.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot be set up has failed; the files have few rows"
)]

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray as _, BinaryArray, Date32Array, Decimal128Array, Int8Array, Int64Array,
        RecordBatch, StringArray, TimestampMillisecondArray, UInt8Array, UInt64Array,
    },
    datatypes::{DataType, Float64Type, Int64Type},
};
use parquet::arrow::ArrowWriter;

use super::{Query, QueryError};
use crate::input::source::{SourceTable, list_files, reader::FileReader};

/// What a query gave of one file: the kept rows, and the file's reader with what was computed.
struct Asked {
    rows: Vec<u64>,
    reader: FileReader,
}

impl Asked {
    /// Reads the kept rows of a column.
    fn column(&self, name: &str) -> ArrayRef {
        let ranges: Vec<_> = self.rows.iter().map(|&row| row as usize..row as usize + 1).collect();
        let names = [name.to_owned()];
        let read = self.reader.read(0, &ranges, Some(&names), 1 << 20).unwrap();
        let batches: Vec<RecordBatch> = read.map(|batch| batch.unwrap().rows).collect();
        let columns: Vec<&dyn arrow::array::Array> =
            batches.iter().map(|batch| batch.column(0).as_ref()).collect();
        arrow::compute::concat(&columns).unwrap()
    }
}

fn ask_with(path: &Path, query: &str, bytes_max: u64) -> Result<Asked, QueryError> {
    let name = glob::Pattern::escape(&path.to_string_lossy());
    let files = list_files(&[name], Path::new("/"), None, false).unwrap().files;
    let mut table = SourceTable::open(&files, 1 << 20).unwrap();
    let query = Query { text: query.to_owned(), tables: Vec::new(), bytes_max };
    let kept = query.ask(&mut table.files, &table.bytes_read.clone(), None)?;
    let reader = FileReader::open(&table.files[0], &table.bytes_read).unwrap();
    Ok(Asked { rows: kept.by_file.into_values().next().unwrap(), reader })
}

fn asked(path: &Path, query: &str) -> Result<Asked, QueryError> {
    ask_with(path, query, 64 << 20)
}

#[test]
fn a_file_with_the_characters_of_patterns_is_asked_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["t[1].parquet", "t1.parquet", "t*.parquet"] {
        table(&dir.path().join(name));
    }
    let odd = dir.path().join("t*.parquet");
    let kept = asked(&odd, "SELECT * FROM source WHERE lang = 'fr'").unwrap();
    assert_eq!(kept.rows, [3]);
    assert!(asked(&dir.path().join("t[1].parquet"), "SELECT * FROM source").is_ok());
}

fn table(path: &Path) {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let lang: ArrayRef = Arc::new(StringArray::from(vec!["en", "de", "en", "fr", "en", "de"]));
    let image: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]; 6]));
    let batch = RecordBatch::try_from_iter([("n", n), ("lang", lang), ("image", image)]).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_query_chooses_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    table(&path);
    let kept = |query: &str| asked(&path, query).map(|answer| answer.rows);
    assert_eq!(kept("SELECT * FROM source WHERE lang = 'en'").unwrap(), [0, 2, 4]);
    assert_eq!(kept("select n from source where n > 2 and lang <> 'fr'").unwrap(), [4, 5]);
    assert_eq!(kept("SELECT n FROM source ORDER BY n DESC LIMIT 2").unwrap(), [4, 5]);
    assert!(kept("SELECT * FROM source WHERE n > 99").unwrap().is_empty());
    // What a refusal says to write.
    assert_eq!(kept("SELECT n, count(*) OVER () AS n_rows FROM source").unwrap().len(), 6);
    assert_eq!(kept("SELECT n, max(n) OVER () AS top FROM source").unwrap().len(), 6);
}

#[test]
fn queries_that_cannot_choose_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    table(&path);
    let refused = |query: &str| asked(&path, query).err().unwrap();
    assert!(matches!(refused("DELETE FROM source"), QueryError::Shape { .. }));
    assert!(matches!(refused("SELECT DISTINCT lang FROM source"), QueryError::Shape { .. }));
    assert!(matches!(refused("SELECT n + 1 AS lang FROM source"), QueryError::Taken { .. }));
    assert!(matches!(refused("SELECT n AS image FROM source"), QueryError::Taken { .. }));
    for (query, named) in [
        ("SELECT count(*) FROM source", "`count(*)`"),
        ("SELECT COUNT(1) AS n_rows FROM source", "`COUNT(1)`"),
        ("SELECT n, max(n) + 1 AS top FROM source", "`max(n)`"),
        ("SELECT *, round(avg(n), 2) AS mean FROM source", "`avg(n)`"),
        ("SELECT n FROM source ORDER BY sum(n)", "`sum(n)`"),
        ("SELECT n FROM source HAVING n > 1", "`WHERE`"),
        ("SELECT lang FROM source GROUP BY lang", "`GROUP BY`"),
        ("SELECT lang, count(*) AS n_rows FROM source GROUP BY lang", "`GROUP BY`"),
    ] {
        let refused = refused(query);
        assert!(matches!(refused, QueryError::Shape { .. }), "{query}: {refused}");
        assert!(refused.to_string().contains(named), "{query}: {refused}");
    }
    for query in [
        "SELECT * FROM read_parquet('/etc/t.parquet')",
        "SELECT * FROM Read_CSV('/etc/passwd') AS source",
        "SELECT * FROM source WHERE n IN (SELECT n FROM read_ipc('t.arrow'))",
        "WITH t AS (SELECT * FROM read_json('t.json')) SELECT * FROM source JOIN t ON t.n = source.n",
        "SELECT * FROM source, LATERAL read_parquet('t')",
        "SELECT * FROM TABLE(read_parquet('t'))",
        "SELECT * FROM (source JOIN read_parquet('t') AS t ON t.n = source.n)",
    ] {
        let refused = refused(query).to_string();
        assert!(refused.to_lowercase().contains("read_"), "{query}: {refused}");
        assert!(refused.contains("`source.tables`"), "{query}: {refused}");
    }
    for (query, n_most) in [
        ("1 + ", 900),
        ("1 - n * ", 400),
        ("n = 1 OR ", 400),
        ("NOT n = 1 AND ", 300),
        ("n BETWEEN 1 AND 2 AND ", 300),
        ("n IN (1, 2, 3) OR ", 200),
    ] {
        let chain = |n: usize| format!("SELECT * FROM source WHERE {}n = 1", query.repeat(n));
        assert!(!matches!(asked(&path, &chain(n_most)), Err(QueryError::Shape { .. })), "{query}");
        for n in [2000, 30_000] {
            assert!(refused(&chain(n)).to_string().contains("operators"), "{query} {n}");
        }
    }
    let ids: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
    let listed = format!("SELECT * FROM source WHERE n IN ({})", ids.join(", "));
    assert_eq!(asked(&path, &listed).unwrap().rows.len(), 6);
    let replaced = "SELECT * REPLACE (n + 1 AS n) FROM source";
    assert!(matches!(refused(replaced), QueryError::Shape { .. }));
    let doubled = "SELECT source.n FROM source JOIN source AS t ON source.lang = t.lang";
    assert!(matches!(refused(doubled), QueryError::Shape { .. }));
    assert!(matches!(refused("SELECT image FROM source"), QueryError::Failed { .. }));
    assert!(matches!(refused("SELECT n FROM source WHERE"), QueryError::Syntax { .. }));
    assert!(matches!(refused("SELECT n FROM other"), QueryError::Failed { .. }));
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn values_of_every_kind_are_compared_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let price =
        Decimal128Array::from(vec![150, 1000, -25]).with_precision_and_scale(20, 2).unwrap();
    let huge =
        Decimal128Array::from(vec![0, 10_i128.pow(30), 1]).with_precision_and_scale(38, 0).unwrap();
    let lists: ArrayRef =
        Arc::new(arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1)]),
            Some(vec![Some(1), Some(2)]),
            None,
        ]));
    write(
        &path,
        vec![
            ("day", Arc::new(Date32Array::from(vec![19_723, 19_800, 20_000]))),
            ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 1_700_000_000_000, 1]))),
            ("price", Arc::new(price)),
            ("huge", Arc::new(huge)),
            ("tiny", Arc::new(Int8Array::from(vec![-3, 0, 3]))),
            ("byte", Arc::new(UInt8Array::from(vec![0, 255, 7]))),
            ("wide", Arc::new(UInt64Array::from(vec![0, u64::MAX, 7]))),
            ("list", lists),
        ],
    );
    for condition in [
        "day = DATE '2024-03-18'",
        "day > '2024-01-01' AND day < '2024-10-01'",
        "at > '2020-01-01'",
        "price > 9.5",
        "huge > 5",
        "tiny = 0",
        "byte = 255",
        "wide > 9223372036854775807",
        "array_length(list) = 2",
    ] {
        let query = format!("SELECT * FROM source WHERE {condition}");
        assert_eq!(asked(&path, &query).unwrap().rows, [1], "{condition}");
    }
    let query =
        "SELECT price * 2 AS twice, day AS other, upper('a') AS letter, list AS same FROM source";
    let of_all = asked(&path, query).unwrap();
    assert_eq!(of_all.column("other").data_type(), &DataType::Date32);
    assert_eq!(of_all.column("letter").as_string::<i32>().value(2), "A");
    assert_eq!(
        of_all.column("same").as_list::<i32>().value(1).as_primitive::<Int64Type>().values(),
        &[1, 2]
    );
    let twice = arrow::compute::cast(&of_all.column("twice"), &DataType::Float64).unwrap();
    assert_eq!(twice.as_primitive::<Float64Type>().values(), &[3.0, 20.0, -0.5]);
}

/// A file of rows that take several chunks.
fn many(path: &Path) {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40_000));
    let text: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..40_000).map(|n| format!("{n:02000}"))));
    write(path, vec![("n", n), ("text", text)]);
}

#[test]
fn chunks_of_a_file_give_what_the_file_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    many(&path);
    // 80 MB of text, of which 4 MiB may be in memory where rows are compared.
    let small = |query: &str| ask_with(&path, query, 4 << 20);
    let kept =
        small("SELECT *, upper(text) || n AS long FROM source WHERE n % 7 = 3 AND text <> ''")
            .unwrap();
    assert_eq!(kept.rows, (3..40_000).step_by(7).collect::<Vec<u64>>());
    let long = kept.column("long");
    for (idx, row) in kept.rows.iter().enumerate().step_by(500) {
        assert_eq!(long.as_string::<i32>().value(idx), format!("{row:02000}{row}"));
    }
    for query in [
        "SELECT * FROM source ORDER BY text",
        "SELECT * FROM source ORDER BY 2",
        "SELECT n, row_number() OVER (ORDER BY text) AS place FROM source",
        "SELECT * FROM source WHERE n > (SELECT avg(n) FROM source)",
        "SELECT * FROM (SELECT * FROM source) AS t",
        "SELECT COLUMNS('t.*') FROM source",
    ] {
        assert!(matches!(small(query), Err(QueryError::TooLarge { .. })), "{query}");
    }
    // Columns that a query does not name are not read.
    assert_eq!(
        small("SELECT * FROM source ORDER BY n DESC LIMIT 3").unwrap().rows,
        [39_997, 39_998, 39_999]
    );
    assert_eq!(small("SELECT * FROM source LIMIT 3").unwrap().rows, [0, 1, 2]);
    assert_eq!(small("SELECT * FROM source").unwrap().rows.len(), 40_000);
    // As the refusal of aggregates says.
    let above = "SELECT * FROM (SELECT *, avg(n) OVER () AS mean FROM source) AS t WHERE n > mean";
    assert!(asked(&path, above).is_err(), "80 MB are more than 64 MiB");
    assert_eq!(ask_with(&path, above, 1 << 30).unwrap().rows.len(), 20_000);
}
