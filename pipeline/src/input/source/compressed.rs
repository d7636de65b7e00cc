//! Compressed text files and shards, decompressed to a temporary file because rows need random access.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read},
    sync::{Arc, Mutex, PoisonError},
};

use flate2::read::MultiGzDecoder;
use legenda_schemas::span::SourceObject;

use super::file::SourceFile;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// The bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;
/// The number of decompressed files kept on disk: the current one, and those whose rejects are reread.
const KEPT_MAX: usize = 3;

/// The most recently decompressed files, newest last.
static KEPT: Mutex<Vec<(SourceObject, Arc<File>)>> = Mutex::new(Vec::new());

/// Returns whether a file that begins with `head` is compressed with gzip or zstd.
pub(super) fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(GZIP) || head.starts_with(ZSTD)
}

/// Returns the file with its contents decompressed if it is compressed with gzip or zstd; else unchanged.
///
/// # Errors
///
/// An I/O error, or one of the kind [`io::ErrorKind::InvalidData`] if the contents are damaged.
pub(super) fn unpacked(file: SourceFile) -> io::Result<SourceFile> {
    let mut head = Vec::new();
    file.read_from(0).take(4).read_to_end(&mut head)?;
    if !is_compressed(&head) {
        return Ok(file);
    }
    let is_gzip = head.starts_with(GZIP);
    let known = {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(object, _)| object == file.object()).map(|(_, copy)| Arc::clone(copy))
    };
    if let Some(copy) = known {
        return file.with_contents(copy);
    }
    let packed = BufReader::with_capacity(PIECE_BYTES, file.read_from(0));
    let copy = if is_gzip {
        copy(MultiGzDecoder::new(packed))
    } else {
        zstd::stream::read::Decoder::with_buffer(packed).and_then(copy)
    };
    let copy = copy.map_err(|error| match file.failure() {
        Some(problem) => io::Error::other(problem),
        None if error.kind() == io::ErrorKind::StorageFull => error,
        None => {
            let name = if is_gzip { "gzip" } else { "zstd" };
            let problem = format!("damaged {name} data: {error}");
            io::Error::new(io::ErrorKind::InvalidData, problem)
        }
    })?;
    let copy = Arc::new(copy);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() == KEPT_MAX {
        kept.remove(0);
    }
    kept.push((file.object().clone(), Arc::clone(&copy)));
    drop(kept);
    file.with_contents(copy)
}

fn copy(mut unpacked: impl Read) -> io::Result<File> {
    let mut writer = BufWriter::with_capacity(PIECE_BYTES, tempfile::tempfile()?);
    io::copy(&mut unpacked, &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}
