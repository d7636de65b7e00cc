//! Media cells with a path or a URL instead of bytes.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use legenda_schemas::{cause::Cause, job::Source};
use tokio::runtime::Handle;
use url::Url;

use super::web::{Web, WebError};
use crate::{
    base::{
        excerpt::excerpt,
        store::{ObjectAt, Reach, StoreFault, address, fault_of, is_url, is_web},
    },
    input::source::file::open_file,
};

/// An error of reading the file of a media cell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// The cell is a URL, and the job allows none.
    #[error(
        "`{url}` is a URL, but this job may not fetch from its host: add the host to `source.media_hosts`, or store the bytes in the table"
    )]
    Url {
        /// The URL.
        url: String,
    },
    /// The file is outside the allowed folders.
    #[error(
        "`{path}` is outside the allowed media folders ({allowed}): move it, or add its folder to `source.media_dirs`"
    )]
    Outside {
        /// The path in the cell.
        path: String,
        /// The allowed folders.
        allowed: String,
    },
    /// The cell refers to a file inside an archive.
    #[error(
        "`{path}` refers to a file inside the archive `{archive}`, and archives are not opened: extract it and store the new paths, or the bytes, in the table"
    )]
    Archive {
        /// The path in the cell.
        path: String,
        /// The path of the archive.
        archive: String,
    },
    /// The file cannot be read.
    #[error("failed to read the media file `{path}`: {problem}")]
    Io {
        /// The path in the cell.
        path: String,
        /// The system's error.
        problem: String,
    },
    /// The URL cannot be fetched.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The store failed. This is not the fault of a row, so the run ends and no row is rejected.
    #[error("failed to read the media file `{path}`")]
    Store {
        /// The URL of the file.
        path: String,
        /// The store's error.
        source: io::Error,
    },
}

impl LocateError {
    /// Returns the reject code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } | Self::Web(WebError::Refused { .. }) => "media_url_refused",
            Self::Outside { .. } | Self::Archive { .. } => "media_path_refused",
            Self::Io { .. } | Self::Store { .. } => "media_unreadable",
            Self::Web(WebError::Failed { .. }) => "media_not_fetched",
        }
    }
}

/// The allowed locations of media, besides the folder of their table.
#[derive(Debug, Default)]
pub struct MediaRoots {
    /// Canonical local folders.
    dirs: Vec<PathBuf>,
    /// Folders in stores.
    urls: Vec<String>,
    /// Web hosts.
    web: Option<Web>,
}

/// An error in `source.media_hosts` or `source.media_dirs`.
#[derive(Debug, thiserror::Error)]
#[error("invalid `source.media_hosts`")]
pub struct MediaRootsError(#[source] Cause);

impl MediaRoots {
    /// Returns the locations allowed by a job; relative folders are resolved against `base_dir`, and missing
    /// ones allow nothing.
    ///
    /// # Errors
    ///
    /// [`MediaRootsError`].
    pub fn new(source: &Source, base_dir: &Path) -> Result<Self, MediaRootsError> {
        let (urls, dirs): (Vec<&String>, Vec<&String>) =
            source.media_dirs.iter().partition(|dir| is_url(dir));
        let web = match source.media_hosts.as_slice() {
            [] => None,
            hosts => Some(Web::new(hosts).map_err(|error| MediaRootsError(error.into()))?),
        };
        Ok(Self {
            dirs: dirs.iter().filter_map(|dir| base_dir.join(dir).canonicalize().ok()).collect(),
            urls: urls.into_iter().cloned().collect(),
            web,
        })
    }

    /// Reads the file of a media cell in a row of `table_file`. Its path is relative to the table's file or
    /// to a folder of `source.media_dirs`, and must be within the table's folder or an allowed location.
    /// Reads at most `bytes_max + 1` bytes, so that callers can detect files that are too large. Blocks its
    /// thread, which must not belong to `runtime`.
    ///
    /// # Errors
    ///
    /// [`LocateError`].
    pub fn read(
        &self,
        cell: &str,
        table_file: &str,
        bytes_max: u64,
        runtime: &Handle,
    ) -> Result<Vec<u8>, LocateError> {
        if let Some(archive) = chained_archive(cell) {
            return Err(archive_error(cell, archive));
        }
        if is_url(cell) {
            if is_web(cell) {
                let refused = || LocateError::Url { url: shown(cell) };
                let web = self.web.as_ref().ok_or_else(refused)?;
                return Ok(web.fetch(cell, bytes_max, runtime)?);
            }
            return self.read_url(cell, table_file, bytes_max);
        }
        if is_url(table_file) {
            return self.read_beside_object(cell, table_file, bytes_max);
        }
        self.read_file(cell, Path::new(table_file), bytes_max)
    }

    fn read_file(
        &self,
        cell: &str,
        table_file: &Path,
        bytes_max: u64,
    ) -> Result<Vec<u8>, LocateError> {
        let io_error = |error: io::Error| match parent_archive(cell) {
            Some(archive) => archive_error(cell, archive),
            None => LocateError::Io {
                path: excerpt(cell).into_owned(),
                problem: excerpt(&error.to_string()).into_owned(),
            },
        };
        let own_dir = table_file.parent().unwrap_or(Path::new("."));
        // A table may have been moved away from its media, as reject files are.
        let own = own_dir.join(cell).canonicalize();
        let elsewhere = || self.dirs.iter().find_map(|dir| dir.join(cell).canonicalize().ok());
        let real = own.or_else(|error| elsewhere().ok_or(error)).map_err(io_error)?;
        // The table may be named by a link.
        let own_dir = own_dir.canonicalize().map_err(io_error)?;
        if !self.dirs.iter().chain([&own_dir]).any(|dir| real.starts_with(dir)) {
            return Err(self.outside(cell, &table_file.to_string_lossy()));
        }
        let mut bytes = Vec::new();
        open_file(&real)
            .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(io_error)?;
        Ok(bytes)
    }

    /// Reads the file of a table in a store: next to it, or in a folder of `source.media_dirs`.
    fn read_beside_object(
        &self,
        cell: &str,
        table_file: &str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, LocateError> {
        let own = beside(&address::whole(table_file), cell).map(|url| address::named(&url));
        let elsewhere = self.urls.iter().filter_map(|folder| join(folder, cell));
        let mut missing = self.outside(cell, table_file);
        for url in own.into_iter().chain(elsewhere) {
            match read_object(&url, bytes_max) {
                Err(error @ LocateError::Io { .. }) => missing = error,
                read => return read,
            }
        }
        Err(parent_archive(cell).map_or(missing, |archive| archive_error(cell, archive)))
    }

    /// Reads an object whose full URL is in the cell.
    fn read_url(
        &self,
        url: &str,
        table_file: &str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, LocateError> {
        let mut allowed = self.urls.iter().map(String::as_str).chain([folder_of(table_file)]);
        // Keys are compared verbatim and never decoded later.
        let within = |folder: &str| {
            let rest = url.strip_prefix(folder.strip_suffix('/').unwrap_or(folder));
            is_url(folder) && rest.is_some_and(|rest| rest.starts_with('/') && is_plain(&rest[1..]))
        };
        if !allowed.any(within) {
            return Err(self.outside(url, table_file));
        }
        read_object(url, bytes_max).map_err(|error| match parent_archive(url) {
            Some(archive) if matches!(error, LocateError::Io { .. }) => archive_error(url, archive),
            _ => error,
        })
    }

    fn outside(&self, cell: &str, table_file: &str) -> LocateError {
        let dirs = self.dirs.iter().map(|dir| dir.display().to_string());
        let allowed =
            dirs.chain(self.urls.iter().cloned()).chain([folder_of(table_file).to_owned()]);
        let allowed: Vec<String> = allowed.map(|place| format!("`{place}`")).collect();
        LocateError::Outside { path: shown(cell), allowed: allowed.join(", ") }
    }
}

/// URL schemes of `fsspec` for files inside archives, as in cells of Hub datasets.
const ARCHIVE_SCHEMES: [&str; 9] = [
    "zip://",
    "tar://",
    "gzip://",
    "gz://",
    "bz2://",
    "xz://",
    "lz4://",
    "zstd://",
    "libarchive://",
];
/// File extensions of archives.
const ARCHIVES: [&str; 12] = [
    ".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z",
    ".rar", ".gz",
];

fn archive_error(cell: &str, archive: &str) -> LocateError {
    LocateError::Archive { path: shown(cell), archive: shown(archive) }
}

/// Truncates a cell for a message; removes possible secrets from a web URL.
fn shown(cell: &str) -> String {
    let bare = is_web(cell).then(|| address::bare(cell));
    excerpt(bare.as_deref().unwrap_or(cell)).into_owned()
}

fn is_archive(name: &str) -> bool {
    let name = name.split(['?', '#']).next().unwrap_or_default().to_lowercase();
    ARCHIVES.iter().any(|extension| name.ends_with(extension))
}

/// Returns the archive of a cell that chains it with an inner path by `::`, in either order, or that has an
/// archive scheme.
fn chained_archive(cell: &str) -> Option<&str> {
    let has_scheme = |part: &str| {
        ARCHIVE_SCHEMES.iter().any(|scheme| {
            part.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
        })
    };
    let (first, last) = cell.split_once("::").unwrap_or((cell, ""));
    if has_scheme(first) {
        return Some(if last.is_empty() { first } else { last });
    }
    (!last.is_empty() && is_archive(first)).then_some(first)
}

/// Returns the archive among the parent folders of a path.
fn parent_archive(cell: &str) -> Option<&str> {
    let slashes = cell.match_indices('/').map(|(at, _)| &cell[..at]);
    slashes.into_iter().find(|folder| is_archive(folder))
}

/// Returns the folder of a table, given by path or URL.
fn folder_of(table_file: &str) -> &str {
    table_file.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

fn read_object(url: &str, bytes_max: u64) -> Result<Vec<u8>, LocateError> {
    let read = || -> io::Result<Vec<u8>> {
        // The table has named it.
        let object = ObjectAt::look_within(url, Reach::OwnOrigin)?;
        let end = object.object.size_bytes.min(bytes_max.saturating_add(1));
        if end == 0 {
            return Ok(Vec::new());
        }
        Ok(object.start_to_read(0..end).bytes()?.into())
    };
    read().map_err(|error| {
        let path = excerpt(url).into_owned();
        // S3 denies access to missing objects if listing is not allowed.
        let is_of_the_row = match fault_of(&error) {
            Some(StoreFault::Denied { .. } | StoreFault::Key { .. } | StoreFault::Changed) => true,
            Some(fault @ StoreFault::Answer { .. }) => !fault.may_pass(),
            _ => error.kind() == io::ErrorKind::NotFound,
        };
        if is_of_the_row {
            LocateError::Io { path, problem: excerpt(&error.to_string()).into_owned() }
        } else {
            LocateError::Store { path, source: error }
        }
    })
}

/// Joins a relative path to a folder URL in a store; `None` if it would leave the folder.
fn join(folder: &str, path: &str) -> Option<String> {
    let is_below = !path.is_empty() && !path.starts_with('/') && is_plain(path);
    is_below.then(|| format!("{}/{path}", folder.trim_end_matches('/')))
}

/// Returns the URL of a relative path next to the table at `table_file`; `None` if it would leave the
/// table's folder. The path consists of plain names, which are encoded as required by the URL.
fn beside(table_file: &str, path: &str) -> Option<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    if path.is_empty() || path.starts_with('/') || !is_plain(path) {
        return None;
    }
    if !is_web(table_file) {
        return Some(format!("{}/{path}", folder_of(table_file)));
    }
    let mut url = Url::parse(table_file).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().ok()?.pop().extend(path.split('/'));
    Some(url.into())
}

/// Returns whether a key has no `..`: stores do not interpret it, but readers of the names may.
fn is_plain(key: &str) -> bool {
    key.split(['/', '\\']).all(|name| !matches!(name, "." | ".."))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use legenda_schemas::job::{Columns, Incremental, OnBadFile, Source};

    use super::{MediaRoots, beside};

    fn media_roots(dirs: &[String]) -> MediaRoots {
        let source = Source {
            paths: Vec::new(),
            format: None,
            schema: std::collections::BTreeMap::new(),
            query: None,
            tables: std::collections::BTreeMap::new(),
            incremental: Incremental::default(),
            on_bad_file: OnBadFile::default(),
            follow_links: false,
            columns: Columns::default(),
            media_dirs: dirs.to_vec(),
            media_hosts: Vec::new(),
        };
        MediaRoots::new(&source, std::path::Path::new("/")).unwrap()
    }

    #[test]
    fn paths_may_not_leave_the_allowed_folders() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
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
        let table = root.join("table/t.parquet").to_string_lossy().into_owned();
        let read = |cell: &str, dirs: &[&str]| {
            let dirs: Vec<String> =
                dirs.iter().map(|dir| root.join(dir).to_string_lossy().into_owned()).collect();
            let read = media_roots(&dirs).read(cell, &table, 3, runtime.handle());
            read.map_err(|error| error.code())
        };
        assert_eq!(read("media/a", &[]).unwrap(), b"byte");
        assert_eq!(read("../other/b", &[]), Err("media_path_refused"));
        assert_eq!(read("../other/b", &["other"]).unwrap(), b"byte");
        let absolute = root.join("c");
        assert_eq!(read(&absolute.to_string_lossy(), &[]), Err("media_path_refused"));
        #[cfg(unix)]
        assert_eq!(read("link", &[]), Err("media_path_refused"));
        assert_eq!(read("none", &[]), Err("media_unreadable"));
        // A table that was moved away from its media finds them with `source.media_dirs`.
        assert_eq!(read("b", &["other"]).unwrap(), b"byte");
        assert_eq!(read("../c", &["other"]), Err("media_path_refused"));
        assert_eq!(read("http://localhost/x", &[]), Err("media_url_refused"));
        let file_url = format!("file://{}", absolute.display());
        assert_eq!(read(&file_url, &[]), Err("media_path_refused"));
        assert_eq!(read("s3://bucket/x", &[]), Err("media_path_refused"));
    }

    #[test]
    fn files_inside_of_archives_are_refused_by_name() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("raw.zip")).unwrap();
        for file in ["images.zip", "raw.zip/a.png", "a::b.png"] {
            fs::File::create(root.path().join(file)).unwrap().write_all(b"bytes").unwrap();
        }
        let table = root.path().join("t.parquet").to_string_lossy().into_owned();
        let read = |cell: &str| media_roots(&[]).read(cell, &table, 9, runtime.handle());
        for (cell, archive) in [
            ("images.zip::a.png", "images.zip"),
            ("zip://a.png::https://example.org/x/images.zip", "https://example.org/x/images.zip"),
            ("zip://train/a.png::images.zip", "images.zip"),
            ("tar://a.png::data/images.tar", "data/images.tar"),
            ("gzip://a.png::s3://bucket/a.png.gz", "s3://bucket/a.png.gz"),
            ("Images.TAR.GZ::a.png", "Images.TAR.GZ"),
            ("images.zip/train/a.png", "images.zip"),
            ("data/train.tar.gz/a.png", "data/train.tar.gz"),
        ] {
            let error = read(cell).unwrap_err();
            assert_eq!(error.code(), "media_path_refused", "{cell}");
            let message = error.to_string();
            assert!(message.contains(&format!("archive `{archive}`")), "{message}");
        }
        // Names that only resemble archives are read.
        assert_eq!(read("raw.zip/a.png").unwrap(), b"bytes");
        assert_eq!(read("a::b.png").unwrap(), b"bytes");
    }

    #[test]
    fn messages_hold_little_of_a_cell() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for head in ["", "https://example.org/", "s3://bucket/", "images.zip::", "/etc/", "x/"] {
            let cell = head.to_owned() + &"q".repeat(100_000);
            let error =
                media_roots(&[]).read(&cell, "/tmp/t.parquet", 9, runtime.handle()).unwrap_err();
            let message = error.to_string();
            assert!(message.matches('q').count() <= 200, "{head}: {} characters", message.len());
        }
    }

    #[test]
    fn paths_beside_a_table_in_a_store_go_down_only() {
        let beside_table = |path: &str| beside("s3://b/t/t.parquet", path);
        for path in ["media/a.png", "a b?#%20+.png", "a//b.png", "%2e%2e/a.png", "a\\b.png"] {
            assert_eq!(beside_table(path), Some(format!("s3://b/t/{path}")));
        }
        assert_eq!(beside_table("./a.png"), beside_table("a.png"));
        for path in ["../a.png", "media/../../a.png", "/etc/a", "a/./b", "a\\..\\b", "./../a", ""] {
            assert_eq!(beside_table(path), None, "{path}");
        }
        // Names are encoded when they become part of a web URL, which is decoded once.
        let on_web = |path: &str| beside("https://h/t/t.parquet?sig=a/b", path);
        assert_eq!(on_web("a b?#%20.png").as_deref(), Some("https://h/t/a%20b%3F%23%2520.png"));
        assert_eq!(on_web("%2e%2e/a.png").as_deref(), Some("https://h/t/%252e%252e/a.png"));
        assert_eq!(on_web("../a.png"), None);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let read = |cell: &str| {
            let allowed = media_roots(&["memory:///pictures".to_owned()]);
            let read = allowed.read(cell, "memory:///tables/t.parquet", 3, runtime.handle());
            read.map_err(|error| error.code())
        };
        assert_eq!(read("a.png"), Err("media_unreadable"));
        assert_eq!(read("../other/a.png"), Err("media_path_refused"));
        assert_eq!(read("memory:///pictures/a.png"), Err("media_unreadable"));
        assert_eq!(read("memory:///pictures/../other/a.png"), Err("media_path_refused"));
        assert_eq!(read("memory:///picturesque/a.png"), Err("media_path_refused"));
        // This is the name of a folder, not the parent folder.
        assert_eq!(read("memory:///pictures/%2e%2e/other/a.png"), Err("media_unreadable"));
        assert_eq!(read("memory:///pictures/a\n.png"), Err("media_unreadable"));
    }
}
