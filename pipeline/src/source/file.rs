//! A file of the source, read at any place: on a local disk, or an object of a store.

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
use legenda_schemas::span::SourceObject;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

use super::{reader::ReadError, windows::Windows};
use crate::store::{ObjectAt, is_url};

/// Counts the bytes that are read of the source.
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
pub struct SourceFile {
    object: SourceObject,
    /// Bytes of what is read: of a compressed file more than the object has.
    n_bytes: u64,
    place: Place,
    bytes_read: BytesRead,
    /// What went wrong with the disk or the store, which the Parquet reader cannot tell from a damaged
    /// file.
    failure: Arc<Mutex<Option<String>>>,
}

#[derive(Clone, Debug)]
enum Place {
    Disk(Arc<File>),
    Store(Arc<Windows>),
}

/// Opens a file of a disk to read it, which is no pipe or device: the system may let a reader of those wait
/// without end.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let no_wait = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        options.custom_flags(no_wait.bits().cast_signed());
    }
    let file = options.read(true).open(path)?;
    // A folder is told of when it is read.
    match file.metadata()?.is_file() || path.is_dir() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a file")),
    }
}

impl SourceFile {
    /// Opens the file at `path`, absolute or a URL. What is read of it adds to `bytes_read`.
    ///
    /// # Errors
    ///
    /// That of the disk or the store.
    pub fn open(path: &str, bytes_read: &BytesRead) -> io::Result<Self> {
        let (object, place) = if is_url(path) {
            let at = ObjectAt::look(path)?;
            (at.object.clone(), Place::Store(Arc::new(Windows::new(at, bytes_read.clone()))))
        } else {
            let file = open_file(Path::new(path))?;
            let object = disk_object(path, &file.metadata()?)?;
            (object, Place::Disk(Arc::new(file)))
        };
        let n_bytes = object.size_bytes;
        Ok(Self { object, n_bytes, place, bytes_read: bytes_read.clone(), failure: Arc::default() })
    }

    /// Returns the same file, whose contents are those of a local copy. What is read of that does not
    /// count as read of the source.
    pub(super) fn with_contents(self, copy: Arc<File>) -> io::Result<Self> {
        let n_bytes = copy.metadata()?.len();
        Ok(Self { n_bytes, place: Place::Disk(copy), bytes_read: BytesRead::default(), ..self })
    }

    /// Returns the identity of the file as it was opened.
    #[must_use]
    pub fn object(&self) -> &SourceObject {
        &self.object
    }

    /// Returns the same file, of which only `ranges` are going to be read: a store is asked for none of
    /// the bytes between them.
    #[must_use]
    pub fn within(&self, ranges: Vec<Range<u64>>) -> Self {
        let place = match &self.place {
            Place::Disk(file) => Place::Disk(Arc::clone(file)),
            Place::Store(windows) => Place::Store(Arc::new(windows.within(ranges))),
        };
        Self { place, failure: Arc::default(), ..self.clone() }
    }

    /// Reads on from `start`.
    pub(super) fn read_from(&self, start: u64) -> From {
        From { file: self.clone(), at: start }
    }

    /// Returns what went wrong with the disk or the store, if anything has.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns why rows of a row group cannot be read: what went wrong with the disk or the store, or
    /// else `problem`, what is wrong with the file.
    pub(super) fn read_error(&self, row_group: usize, problem: String) -> ReadError {
        let failure = self.failure();
        ReadError {
            path: self.object.path.clone(),
            row_group,
            may_pass: failure.is_some(),
            problem: failure.unwrap_or(problem),
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

    /// Reads bytes at `start`, at least one unless the file ends there.
    fn read_some(&self, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.n_bytes.saturating_sub(start);
        let n_max = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if n_max == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..n_max];
        self.keep_failure(match &self.place {
            Place::Disk(file) => read_at(file, start, buffer).inspect(|&n| self.bytes_read.add(n)),
            Place::Store(windows) => windows.some(start, n_max).map(|bytes| {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }),
        })
    }
}

/// Returns the identity of a file of a disk.
///
/// # Errors
///
/// The system's, where it knows no time of change.
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

/// Reads on from a place of a file.
#[derive(Debug)]
pub struct From {
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
        // Lengths come from the file itself: nothing is allocated for what cannot be there.
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.n_bytes) {
            let size = self.n_bytes;
            let problem = format!("{length} bytes at {start} are wanted of {size} in all");
            return Err(ParquetError::EOF(problem));
        }
        if let Place::Store(windows) = &self.place {
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
