//! A source file with random access, on a local disk or in an object store.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, Read},
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use legenda_schemas::{cause::Cause, span::SourceObject};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

use super::{reader::ReadError, windows::Windows};
use crate::base::store::{ObjectAt, is_url};

/// Counts the bytes read from the source.
#[derive(Clone, Debug, Default)]
pub struct BytesRead(Arc<AtomicU64>);

impl BytesRead {
    /// Returns the bytes so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, n_bytes: usize) {
        self.0.fetch_add(n_bytes as u64, Relaxed);
    }
}

/// A file of the source.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    object: SourceObject,
    /// The size of the readable contents, decompressed.
    n_bytes: u64,
    backing: Backing,
    bytes_read: BytesRead,
    /// The last I/O error, which the Parquet reader cannot distinguish from a damaged file.
    failure: Arc<Mutex<Option<String>>>,
}

#[derive(Clone, Debug)]
enum Backing {
    Disk(Arc<File>),
    Store(Arc<Windows>),
}

/// Opens a regular file on disk; rejects pipes and devices, which may block a reader forever.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let no_wait = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        options.custom_flags(no_wait.bits().cast_signed());
    }
    let file = options.read(true).open(path)?;
    // Reading a folder reports a better error later.
    match file.metadata()?.is_file() || path.is_dir() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

impl SourceFile {
    /// Opens the file at `path`, absolute or a URL. Bytes read are added to `bytes_read`.
    ///
    /// # Errors
    ///
    /// The error of the disk or the store.
    pub(crate) fn open(path: &str, bytes_read: &BytesRead) -> io::Result<Self> {
        let (object, backing) = if is_url(path) {
            let at = ObjectAt::look(path)?;
            (at.object.clone(), Backing::Store(Arc::new(Windows::new(at, bytes_read.clone()))))
        } else {
            let file = open_file(Path::new(path))?;
            let object = disk_object(path, &file.metadata()?)?;
            (object, Backing::Disk(Arc::new(file)))
        };
        let n_bytes = object.size_bytes;
        Ok(Self {
            object,
            n_bytes,
            backing,
            bytes_read: bytes_read.clone(),
            failure: Arc::default(),
        })
    }

    /// Returns the same file with the contents of a local copy. Reads from the copy do not count as source
    /// reads.
    pub(super) fn with_contents(self, copy: Arc<File>) -> io::Result<Self> {
        let n_bytes = copy.metadata()?.len();
        Ok(Self { n_bytes, backing: Backing::Disk(copy), bytes_read: BytesRead::default(), ..self })
    }

    /// Returns the identity of the file as it was opened.
    #[must_use]
    pub(crate) fn object(&self) -> &SourceObject {
        &self.object
    }

    /// Returns the same file, restricted to `ranges`: no bytes between them are requested from a store.
    #[must_use]
    pub(crate) fn within(&self, ranges: Vec<Range<u64>>) -> Self {
        let backing = match &self.backing {
            Backing::Disk(file) => Backing::Disk(Arc::clone(file)),
            Backing::Store(windows) => Backing::Store(Arc::new(windows.within(ranges))),
        };
        Self { backing, failure: Arc::default(), ..self.clone() }
    }

    /// Returns a reader that starts at `start`.
    pub(super) fn read_from(&self, start: u64) -> From {
        From { file: self.clone(), at: start }
    }

    /// Returns the I/O error of the disk or the store, if any.
    #[must_use]
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the error of reading rows of a row group: an I/O error if there was one, else `problem` of the
    /// file.
    pub(super) fn read_error(&self, row_group: usize, problem: impl Into<Cause>) -> ReadError {
        let failure = self.failure();
        ReadError {
            path: self.object.path.clone(),
            row_group,
            may_pass: failure.is_some(),
            source: failure.map_or_else(|| problem.into(), Into::into),
        }
    }

    pub(super) fn fail(&self, problem: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(problem);
    }

    fn keep_failure<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.fail(error.to_string());
        }
        result
    }

    /// Reads bytes at `start`, at least one except at the end of the file.
    fn read_some(&self, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.n_bytes.saturating_sub(start);
        let n_max = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if n_max == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..n_max];
        self.keep_failure(match &self.backing {
            Backing::Disk(file) => {
                read_at(file, start, buffer).inspect(|&n| self.bytes_read.add(n))
            }
            Backing::Store(windows) => windows.some(start, n_max).map(|bytes| {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }),
        })
    }
}

/// Returns the identity of a file on disk.
///
/// # Errors
///
/// The system's error, if it does not report a modification time.
pub(super) fn disk_object(path: &str, stat: &Metadata) -> io::Result<SourceObject> {
    let modified = stat.modified()?.duration_since(UNIX_EPOCH);
    let modified_ns = modified.map_or(0, |since| since.as_nanos());
    Ok(SourceObject {
        path: path.to_owned(),
        size_bytes: stat.len(),
        modified_ns: u64::try_from(modified_ns).unwrap_or(u64::MAX),
        etag: None,
    })
}

#[cfg(unix)]
fn read_at(file: &File, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, start)
}

#[cfg(windows)]
fn read_at(file: &File, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, start)
}

impl Length for SourceFile {
    fn len(&self) -> u64 {
        self.n_bytes
    }
}

/// A sequential reader from a position of a file.
#[derive(Debug)]
pub(crate) struct From {
    file: SourceFile,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.file.read_some(self.at, buffer)?;
        self.at += n_bytes as u64;
        Ok(n_bytes)
    }
}

impl ChunkReader for SourceFile {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(From { file: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Lengths come from the file itself: do not allocate more than the file has.
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.n_bytes) {
            let size = self.n_bytes;
            let problem = format!("cannot read {length} bytes at {start}: the file has {size}");
            return Err(ParquetError::EOF(problem));
        }
        if let Backing::Store(windows) = &self.backing {
            return Ok(self.keep_failure(windows.all(start, length))?);
        }
        let mut bytes = vec![0; length];
        let mut n_read = 0;
        while n_read < length {
            match self.read_some(start + n_read as u64, &mut bytes[n_read..])? {
                0 => return Err(ParquetError::EOF("the file has become shorter".to_owned())),
                n_bytes => n_read += n_bytes,
            }
        }
        Ok(bytes.into())
    }
}
