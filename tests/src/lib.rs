//! Helpers for the end-to-end tests: temporary folders, the real binary, test tables.

#![expect(clippy::missing_panics_doc, reason = "a test that cannot be set up has failed")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod bucket;
pub mod hub;
pub mod mutate;
pub mod npm;
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

/// Returns all Rust files under a folder, sorted.
#[must_use]
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files_with_extension(folder, "rs")
}

/// Returns all files with an extension under a folder, sorted.
#[must_use]
pub fn files_with_extension(folder: &Path, wanted: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_with_extension(&path, wanted));
        } else if path.extension().is_some_and(|extension| extension == wanted) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Returns the path of the binary that `cargo test --workspace` builds.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("legenda{}", std::env::consts::EXE_SUFFIX);
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{} is not built: run the tests with `--workspace`", path.display());
    path
}

/// The output and exit code of a command.
#[derive(Debug)]
pub struct CommandResult {
    /// The exit code, or `None` if a signal killed the process.
    pub code: Option<i32>,
    /// The captured stdout.
    pub stdout: String,
    /// The captured stderr.
    pub stderr: String,
}

impl CommandResult {
    /// Asserts the exit code; on failure, prints the output.
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

    /// Asserts that stderr contains all of `texts`.
    pub fn stderr_contains(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "missing `{text}` in stderr:\n{}", self.stderr);
        }
    }
}

/// A temporary folder for jobs and tables, removed on drop.
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
    /// Creates an empty folder.
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

    /// Returns a command of the binary that runs in the folder. It uses the user's ONNX Runtime
    /// cache, so that the library is downloaded once and not by every test.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir.path()).env_remove("RUST_LOG");
        command
    }

    /// Runs the binary and waits for it to exit.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> CommandResult {
        run_command(&mut self.command(args))
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

    /// Removes an output folder and its `.legenda` folder.
    pub fn remove_output(&self, output: &str) {
        fs::remove_dir_all(self.path(output)).unwrap();
        fs::remove_dir_all(self.path(&format!("{output}.legenda"))).unwrap();
    }
}

/// Runs a command and waits for it to exit.
#[must_use]
pub fn run_command(command: &mut Command) -> CommandResult {
    let output = command.output().unwrap();
    CommandResult {
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

/// Reads a Parquet file from memory.
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
    // Write one group at a time: the writer recurses once for each group that it splits off.
    for start in (0..rows.num_rows()).step_by(group_rows) {
        let n_rows = group_rows.min(rows.num_rows() - start);
        writer.write(&rows.slice(start, n_rows)).unwrap();
    }
    writer.close().unwrap();
}

/// Returns a table of texts with ids `row-0`, `row-1`, ...
#[must_use]
pub fn texts(questions: &[&str]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..questions.len()).map(|row| format!("row-{row}")));
    let questions = StringArray::from(questions.to_vec());
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("question", Arc::new(questions))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Returns a table of images from encoded bytes.
#[must_use]
pub fn image_table(cells: &[Option<Vec<u8>>]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let bytes: BinaryArray = cells.iter().map(Option::as_deref).collect();
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new(ids), false), ("image", Arc::new(bytes), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Returns a 32 x 32 PNG whose pixels depend on `shade`.
#[must_use]
pub fn png(shade: u8) -> Vec<u8> {
    numbered_png(shade.into())
}

/// Returns a 32 x 32 PNG whose pixels depend on `number`.
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

/// The first part of a job that answers the column `question` of `table.parquet`.
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

/// A job that captions the column `image` of `table.parquet`.
pub const IMAGE_JOB: &str = r#"
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
