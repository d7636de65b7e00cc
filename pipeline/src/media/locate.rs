//! Media cells that hold a path instead of bytes.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Why the file of a media cell is not read; the row is rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// A URL.
    #[error(
        "`{url}` is a URL, and this job may not fetch from the network: store the bytes in the table"
    )]
    Url {
        /// The URL.
        url: String,
    },
    /// The file lies outside the folders the job allows.
    #[error(
        "`{path}` lies outside the folders that media may come from ({allowed}): move it, or name its folder in `source.media_dirs`"
    )]
    Outside {
        /// The path as the cell has it.
        path: String,
        /// The folders.
        allowed: String,
    },
    /// The file cannot be read.
    #[error("cannot read the media file `{path}`: {problem}")]
    Io {
        /// The path as the cell has it.
        path: String,
        /// The system's reason.
        problem: String,
    },
}

impl LocateError {
    /// Returns the reject code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } => "media_url_refused",
            Self::Outside { .. } => "media_path_refused",
            Self::Io { .. } => "media_unreadable",
        }
    }
}

/// Reads the file that a media cell names: relative to the table's file, and within that file's
/// folder or one of `dirs` after links are followed. At most `bytes_max + 1` bytes are read, so
/// that a caller can tell too large a file.
///
/// # Errors
///
/// [`LocateError`].
pub fn read_media(
    path: &str,
    table_file: &Path,
    dirs: &[PathBuf],
    bytes_max: u64,
) -> Result<Vec<u8>, LocateError> {
    if path.contains("://") {
        return Err(LocateError::Url { url: path.to_owned() });
    }
    let io_error = |error: std::io::Error| LocateError::Io {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let own_dir = table_file.parent().unwrap_or(Path::new("."));
    let real = own_dir.join(path).canonicalize().map_err(io_error)?;
    let allowed = || dirs.iter().map(PathBuf::as_path).chain([own_dir]);
    if !allowed().any(|dir| real.starts_with(dir)) {
        let names: Vec<String> = allowed().map(|dir| format!("`{}`", dir.display())).collect();
        return Err(LocateError::Outside { path: path.to_owned(), allowed: names.join(", ") });
    }
    let mut bytes = Vec::new();
    File::open(&real)
        .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(io_error)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path};

    use super::read_media;

    #[test]
    fn paths_may_not_leave_the_allowed_folders() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for dir in ["table/media", "other"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["table/media/a", "other/b", "c"] {
            fs::File::create(root.join(file)).unwrap().write_all(b"bytes").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(root.join("c"), root.join("table/link")).unwrap();
        let table = root.join("table/t.parquet");
        let read = |path: &str, dirs: &[&str]| {
            let dirs: Vec<_> = dirs.iter().map(|dir| root.join(dir)).collect();
            read_media(path, &table, &dirs, 3).map_err(|error| error.code())
        };
        assert_eq!(read("media/a", &[]).unwrap(), b"byte");
        assert_eq!(read("../other/b", &[]), Err("media_path_refused"));
        assert_eq!(read("../other/b", &["other"]).unwrap(), b"byte");
        let absolute = root.join("c");
        assert_eq!(read(&absolute.to_string_lossy(), &[]), Err("media_path_refused"));
        #[cfg(unix)]
        assert_eq!(read("link", &[]), Err("media_path_refused"));
        assert_eq!(read("none", &[]), Err("media_unreadable"));
        assert_eq!(read("http://localhost/x", &[]), Err("media_url_refused"));
        assert!(Path::new(&root).is_dir());
    }
}
