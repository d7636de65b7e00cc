//! Support for the end-to-end tests: a folder of their own, the real binary, tables.

#![expect(clippy::missing_panics_doc, reason = "a test that cannot be set up has failed")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod bucket;
pub mod hub;
pub mod mutate;
pub mod python;
pub mod references;
pub mod service;
pub mod torture;

use std::{
    fs::{self, File},
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray},
    compute::concat_batches,
};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::properties::WriterProperties,
};

/// Returns the root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the Rust files in a folder and the folders below it, sorted.
#[must_use]
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Returns the binary that `cargo test --workspace` has built beside the tests.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("legenda{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{} is not built: run the tests with `--workspace`", path.display());
    path
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code; shows what was printed otherwise.
    #[must_use = "look at what it printed, or call `.drop()`"]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Checks that stderr holds every one of `texts`.
    pub fn complains_of(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "no `{text}` in stderr:\n{}", self.stderr);
        }
    }
}

/// A folder that is removed afterwards, with jobs and tables in it.
#[derive(Debug)]
pub struct Workplace {
    dir: tempfile::TempDir,
}

impl Default for Workplace {
    fn default() -> Self {
        Self::new()
    }
}

impl Workplace {
    /// Makes an empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Returns a path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a text file.
    pub fn write(&self, name: &str, text: &str) {
        File::create(self.path(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Makes a command of the binary, run in the folder. The cache of ONNX Runtime is the user's,
    /// so that it is fetched once and not by every test.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir.path()).env_remove("RUST_LOG");
        command
    }

    /// Runs the binary to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    /// Starts the binary.
    #[must_use]
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Reads the Parquet parts of an output folder, in the order of their names.
    #[must_use]
    pub fn answers(&self, output: &str) -> RecordBatch {
        read_parts(&self.path(output), "part-")
    }

    /// Reads the rejects of an output folder.
    #[must_use]
    pub fn rejects(&self, output: &str) -> RecordBatch {
        read_parts(&self.path(&format!("{output}.legenda/rejects")), "rejects-")
    }

    /// Removes an output folder, and the one beside it.
    pub fn remove_output(&self, output: &str) {
        fs::remove_dir_all(self.path(output)).unwrap();
        fs::remove_dir_all(self.path(&format!("{output}.legenda"))).unwrap();
    }
}

/// Runs a command to its end.
#[must_use]
pub fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn read_parts(dir: &Path, prefix: &str) -> RecordBatch {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect();
    paths.sort();
    let batches: Vec<RecordBatch> = paths.iter().flat_map(|path| read_table(path)).collect();
    assert!(!batches.is_empty(), "no {prefix} in {}", dir.display());
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// Reads a Parquet file.
#[must_use]
pub fn read_table(path: &Path) -> Vec<RecordBatch> {
    let file = File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// Reads the bytes of a Parquet file.
#[must_use]
pub fn read_rows(bytes: Vec<u8>) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

/// Writes a Parquet file with row groups of `group_rows` rows.
pub fn write_table(path: &Path, rows: &RecordBatch, group_rows: usize) {
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
    // Group by group: the writer calls itself once for each that it cuts off.
    for start in (0..rows.num_rows()).step_by(group_rows) {
        let n_rows = group_rows.min(rows.num_rows() - start);
        writer.write(&rows.slice(start, n_rows)).unwrap();
    }
    writer.close().unwrap();
}

/// Makes a table of texts: `id` is `row-0`, `row-1`, …
#[must_use]
pub fn texts(questions: &[&str]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..questions.len()).map(|row| format!("row-{row}")));
    let questions = StringArray::from(questions.to_vec());
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("question", Arc::new(questions))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Makes a table of pictures from encoded bytes.
#[must_use]
pub fn pictures(cells: &[Option<Vec<u8>>]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let bytes: BinaryArray = cells.iter().map(Option::as_deref).collect();
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new(ids), false), ("image", Arc::new(bytes), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Makes a PNG of 32 x 32 pixels that differs with `shade`.
#[must_use]
pub fn png(shade: u8) -> Vec<u8> {
    numbered_png(shade.into())
}

/// Makes a PNG of 32 x 32 pixels that differs with `number`.
#[must_use]
pub fn numbered_png(number: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let [red, green] = number.to_le_bytes();
    RgbImage::from_pixel(32, 32, Rgb([red, green.wrapping_add(90), 200]))
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

/// Returns a text column.
#[must_use]
pub fn text_column(rows: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = rows.column_by_name(name).unwrap_or_else(|| panic!("no column `{name}`"));
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

/// The head of a job over `table.parquet` that answers its column `question`.
pub const TEXT_JOB: &str = r#"
version = 1
[task]
kind = "generate"
[source]
paths = ["table.parquet"]
columns = { id = "id", text = "question" }
[output]
path = "out"
span_rows = 4
"#;

/// A job over `table.parquet` that captions its column `image`.
pub const PICTURE_JOB: &str = r#"
version = 1
[task]
kind = "caption"
[source]
paths = ["table.parquet"]
columns = { id = "id", image = "image" }
[output]
path = "out"
span_rows = 4
"#;
