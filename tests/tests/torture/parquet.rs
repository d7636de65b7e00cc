//! Damaged Parquet files: the program never crashes or hangs, rows of intact row groups are
//! answered, and unreadable rows are rejected. `just torture-parquet` tries 2,000 files; by default
//! a share.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use legenda_pipeline::{
    guard::quiet_panics,
    source::{BytesRead, Listed, TableFile, reader::FileReader},
};
use legenda_tests::{
    TEXT_JOB, Workplace,
    mutate::{Random, mutated},
    text_column,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, GzipLevel, ZstdLevel},
    file::{
        metadata::ParquetMetaData,
        properties::{WriterProperties, WriterVersion},
    },
};

const GROUPS: usize = 3;
const GROUP_ROWS: usize = 40;
/// The time after which reading a file counts as a hang.
const HANG: Duration = Duration::from_secs(10);

/// The number of files to try.
fn n_files() -> usize {
    std::env::var("LEGENDA_TORTURE_FILES").map_or(200, |text| text.parse().unwrap())
}

fn codecs() -> [(&'static str, Compression); 5] {
    [
        ("none", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4", Compression::LZ4_RAW),
        ("gzip", Compression::GZIP(GzipLevel::default())),
    ]
}

fn table() -> RecordBatch {
    let n_rows = GROUPS * GROUP_ROWS;
    let ids = StringArray::from_iter_values((0..n_rows).map(|row| format!("row-{row}")));
    let questions = (0..n_rows).map(|row| (row % 7 != 3).then(|| format!("What is {}?", row % 11)));
    let numbers = Int64Array::from_iter_values((0_i64..).take(n_rows).map(|row| row * row));
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("id", Arc::new(ids), false),
        ("question", Arc::new(questions.collect::<StringArray>()), true),
        ("number", Arc::new(numbers), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Writes the table; returns the file's bytes and its footer.
fn file(compression: Compression, version: WriterVersion) -> (Vec<u8>, ParquetMetaData) {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut bytes = Vec::new();
    let rows = table();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let metadata = writer.close().unwrap();
    (bytes, metadata)
}

/// Returns the byte range of a row group's columns in the file.
fn place_of(metadata: &ParquetMetaData, row_group: usize) -> std::ops::Range<usize> {
    let ranges = metadata.row_group(row_group).columns().iter().map(|column| column.byte_range());
    let (starts, ends): (Vec<u64>, Vec<u64>) =
        ranges.map(|(start, length)| (start, start + length)).unzip();
    let start = usize::try_from(*starts.iter().min().unwrap()).unwrap();
    start..usize::try_from(*ends.iter().max().unwrap()).unwrap()
}

/// Damages bytes of the file in place, without moving those after them.
fn damaged(bytes: &[u8], within: std::ops::Range<usize>, random: &mut Random) -> Vec<u8> {
    let mut piece = mutated(&bytes[within.clone()], bytes, random);
    piece.resize(within.len(), 0xA5);
    [&bytes[..within.start], &piece, &bytes[within.end..]].concat()
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).and_then(|mut file| file.write_all(bytes)).unwrap();
}

#[derive(Default)]
struct Tally {
    tried: usize,
    whole: usize,
    refused_footer: usize,
    refused_rows: usize,
    panics: usize,
    slowest: Duration,
}

/// Reads every row group of a file as `scan` does; returns the row count of each.
fn read(path: &Path, tally: &mut Tally) -> Option<Vec<usize>> {
    let start = Instant::now();
    tally.tried += 1;
    let mut problems: Vec<String> = Vec::new();
    let listed = Listed::new(path.to_string_lossy().into_owned(), None);
    let file = TableFile::open(&listed, u64::MAX, &BytesRead::default());
    let rows = match file.and_then(|file| FileReader::open(&file, &BytesRead::default())) {
        Err(error) => {
            problems.push(format!("{error:?}"));
            tally.refused_footer += 1;
            None
        }
        Ok(reader) => {
            let mut rows = Vec::new();
            for row_group in 0..GROUPS {
                let mut n_rows = 0;
                let range = 0..GROUP_ROWS;
                match reader.read(row_group, std::slice::from_ref(&range), None, 16) {
                    Err(error) => problems.push(error.to_string()),
                    Ok(batches) => {
                        for batch in batches {
                            match batch {
                                Ok(batch) => n_rows += batch.rows.num_rows(),
                                Err(error) => problems.push(error.to_string()),
                            }
                        }
                    }
                }
                rows.push(n_rows);
            }
            if problems.is_empty() {
                tally.whole += 1;
            } else {
                tally.refused_rows += 1;
            }
            Some(rows)
        }
    };
    tally.panics += problems.iter().filter(|problem| problem.contains("panicked")).count();
    tally.slowest = tally.slowest.max(start.elapsed());
    rows
}

#[test]
fn damage_is_an_error_and_leaves_other_row_groups_readable() {
    quiet_panics();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    println!(
        "codec | tried | as if whole | footer refused | rows refused | panics caught | slowest ms"
    );
    let each = n_files() / (codecs().len() * 2);
    for (codec_idx, (codec, compression)) in codecs().into_iter().enumerate() {
        let mut tally = Tally::default();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let (bytes, metadata) = file(compression, version);
            let footer_start = place_of(&metadata, GROUPS - 1).end;
            write(&path, &bytes);
            let intact = read(&path, &mut Tally::default());
            assert_eq!(intact, Some(vec![GROUP_ROWS; GROUPS]), "{codec}: the undamaged file");
            for number in 0..each {
                let mut random = Random(((codec_idx as u64) << 32) | number as u64);
                // Pages (with headers, dictionaries and levels) of the middle row group; the footer
                // (with statistics); a truncated file.
                match number % 4 {
                    0 | 1 => {
                        let hurt = damaged(&bytes, place_of(&metadata, 1), &mut random);
                        write(&path, &hurt);
                        let rows = read(&path, &mut tally).unwrap();
                        assert_eq!(
                            (rows[0], rows[2]),
                            (GROUP_ROWS, GROUP_ROWS),
                            "{codec} {number}"
                        );
                    }
                    2 => {
                        write(&path, &damaged(&bytes, footer_start..bytes.len(), &mut random));
                        read(&path, &mut tally);
                    }
                    _ => {
                        write(&path, &bytes[..random.below(bytes.len())]);
                        assert!(read(&path, &mut tally).is_none(), "{codec} {number}: truncated");
                    }
                }
            }
        }
        let Tally { tried, whole, refused_footer, refused_rows, panics, slowest } = tally;
        let slowest_ms = slowest.as_millis();
        println!(
            "{codec} | {tried} | {whole} | {refused_footer} | {refused_rows} | {panics} | {slowest_ms}"
        );
        assert!(slowest < HANG, "{codec}: {slowest_ms} ms");
    }
}

#[test]
fn the_binary_answers_intact_row_groups_and_rejects_unreadable_rows() {
    let audio_ids: Vec<String> = (0..GROUPS * GROUP_ROWS)
        .filter(|row| row / GROUP_ROWS != 1 && row % 7 != 3)
        .map(|row| format!("row-{row}"))
        .collect();
    for (codec_idx, (codec, compression)) in codecs().into_iter().enumerate() {
        let place = Workplace::new();
        let (bytes, metadata) = file(compression, WriterVersion::PARQUET_1_0);
        let mut random = Random(codec_idx as u64);
        let mut hurt = damaged(&bytes, place_of(&metadata, 1), &mut random);
        // Damage that is always detected: the first page's header.
        let start = place_of(&metadata, 1).start;
        hurt[start..start + 16].fill(0xFF);
        write(&place.path("table.parquet"), &hurt);
        place.write("job.toml", TEXT_JOB);
        let args = ["run", "job.toml", "--set", "generation.max_new_tokens=1"];
        let ended = place.run(&args).expect(0);
        assert!(ended.stdout.contains("rows_in 120 == "), "{codec}: {}", ended.stdout);
        assert!(!ended.stderr.contains("panicked"), "{codec}: {}", ended.stderr);
        let answered = text_column(&place.answers("out"), "id");
        for id in &audio_ids {
            assert!(answered.contains(&Some(id.clone())), "{codec}: {id} of an intact row group");
        }
        let rejects = place.rejects("out");
        let told = text_column(&rejects, "legenda_code").into_iter();
        let messages: Vec<String> = told
            .zip(text_column(&rejects, "legenda_message"))
            .filter_map(|(code, message)| {
                message.filter(|_| code.as_deref() == Some("source_damaged"))
            })
            .collect();
        assert_eq!(
            messages.len(),
            GROUP_ROWS,
            "{codec}: expected all rows of the damaged row group"
        );
        for message in messages {
            assert!(
                message.contains("row group 1 of") && message.contains("table.parquet"),
                "{message}"
            );
        }
    }
}
