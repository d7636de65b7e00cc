//! Files that appear whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{
        CompressionType,
        reader::FileReader,
        writer::{FileWriter, IpcWriteOptions},
    },
};
use legenda_schemas::{hex, job::Format};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use sha2::{Digest, Sha256};

use crate::crash;

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write `{path}`: {problem}; what was committed is safe, run the same command again once this is mended"
)]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the system or the encoder says.
    pub problem: String,
}

impl WriteError {
    /// Describes that `path` cannot be written because of `error`.
    pub fn new(path: &Path, error: impl std::fmt::Display) -> Self {
        Self { path: path.to_owned(), problem: error.to_string() }
    }
}

/// Counts what passes through into a digest.
struct Digesting<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.digest.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a file by `write` under a temporary name in `tmp_dir`, syncs it, and renames it to
/// `path`, which must lie on the same file system. Returns the SHA-256 of its bytes, hex.
///
/// # Errors
///
/// [`WriteError`]; then `path` is as it was before.
pub fn write_whole(
    tmp_dir: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<String, WriteError> {
    let name = path.file_name().unwrap_or_default();
    let tmp = tmp_dir.join(name);
    let io_error = |error: io::Error| WriteError::new(path, error);
    let file = File::create(&tmp).map_err(io_error)?;
    crash::step();
    let mut out = Digesting { inner: BufWriter::new(file), digest: Sha256::new() };
    write(&mut out).map_err(|problem| WriteError::new(path, problem))?;
    let digest = hex(out.digest);
    let file = out.inner.into_inner().map_err(|error| io_error(error.into_error()))?;
    crash::step();
    file.sync_all().map_err(io_error)?;
    drop(file);
    crash::step();
    fs::rename(&tmp, path).map_err(io_error)?;
    crash::step();
    // The rename itself is durable only when the folder is synced too.
    if let Some(dir) = path.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error)?;
    }
    crash::step();
    Ok(digest)
}

/// Rows of a row group of a part: large enough to compress, small enough to read piecewise.
const ROW_GROUP_ROWS: usize = 64 * 1024;

/// Writes `batch` in `format`.
///
/// The bytes depend on the rows alone, so that a part written again is the same file.
///
/// # Errors
///
/// The encoder's message, or that of `out`.
pub fn write_table(
    out: &mut dyn Write,
    format: Format,
    schema: SchemaRef,
    batch: &RecordBatch,
) -> Result<(), String> {
    // The Parquet writer wants a sized, sendable sink: parts are small, so memory is one.
    let mut bytes = Vec::new();
    match format {
        Format::Parquet => {
            let properties = WriterProperties::builder()
                .set_created_by(format!("legenda {}", env!("CARGO_PKG_VERSION")))
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .build();
            let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties))
                .map_err(|error| error.to_string())?;
            writer.write(batch).map_err(|error| error.to_string())?;
            writer.close().map_err(|error| error.to_string())?;
        }
        Format::Arrow => {
            let options = IpcWriteOptions::default()
                .try_with_compression(Some(CompressionType::ZSTD))
                .map_err(|error| error.to_string())?;
            let mut writer = FileWriter::try_new_with_options(&mut bytes, &schema, options)
                .map_err(|error| error.to_string())?;
            writer.write(batch).map_err(|error| error.to_string())?;
            writer.finish().map_err(|error| error.to_string())?;
        }
    }
    out.write_all(&bytes).map_err(|error| error.to_string())
}

/// Reads a table that [`write_table`] wrote.
///
/// # Errors
///
/// The reader's message.
pub fn read_table(path: &Path, format: Format) -> Result<Vec<RecordBatch>, ArrowError> {
    let file = File::open(path)?;
    match format {
        Format::Parquet => ParquetRecordBatchReaderBuilder::try_new(file)?.build()?.collect(),
        Format::Arrow => FileReader::try_new(file, None)?.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::write_whole;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let tmp = dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        let first = write_whole(&tmp, &path, |out| {
            out.write_all(b"old").map_err(|error| error.to_string())
        });
        assert_eq!(first.unwrap(), sha256_of("old"));
        let second = write_whole(&tmp, &path, |out| {
            out.write_all(b"ne").map_err(|error| error.to_string())?;
            Err("disk full".to_owned())
        });
        assert!(second.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    fn sha256_of(text: &str) -> String {
        use sha2::{Digest, Sha256};
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
