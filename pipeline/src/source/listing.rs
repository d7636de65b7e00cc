//! Which files a job reads, and what they are.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use legenda_models::{HubDataset, HubOptions};
use legenda_schemas::{job::SourceFormat, span::SourceObject};

use super::{SourceError, file::disk_object};
use crate::store::{ObjectAt, is_url};

/// The extensions of each format, lower case. Of a folder with files of several the first of these is
/// read: pictures often lie beside tables that tell of them.
const EXTENSIONS: [(SourceFormat, &[&str]); 5] = [
    (SourceFormat::Parquet, &["parquet", "pq"]),
    (SourceFormat::Tar, &["tar"]),
    (SourceFormat::Jsonl, &["jsonl", "ndjson"]),
    (SourceFormat::Csv, &["csv", "tsv"]),
    (
        SourceFormat::Media,
        &[
            "png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "wav", "flac", "mp3", "ogg",
            "oga", "m4a", "mp4", "aac", "aif", "aiff",
        ],
    ),
];

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it lies: absolute, or a URL.
    pub path: String,
    /// What it is.
    pub format: SourceFormat,
    /// Its identity, where the listing tells it.
    object: Option<SourceObject>,
}

impl Listed {
    /// Returns a file that is named itself: of `format`, or of what its extension says, or Parquet.
    #[must_use]
    pub fn new(path: String, format: Option<SourceFormat>) -> Self {
        // A query string of HTTP is no part of the name.
        let name = path.split('?').next().unwrap_or(&path);
        let format = format.or_else(|| format_of(name)).unwrap_or(SourceFormat::Parquet);
        Self { path, format, object: None }
    }

    /// Returns whether the file is still `object`.
    pub(super) fn is_still(&self, object: &SourceObject) -> bool {
        self.object().is_ok_and(|now| now == *object)
    }

    /// Returns the file's identity, looking at it where the listing did not.
    pub(super) fn object(&self) -> Result<SourceObject, SourceError> {
        let found = match &self.object {
            Some(object) => Ok(object.clone()),
            None if is_url(&self.path) => ObjectAt::look(&self.path).map(|at| at.object),
            None => {
                Path::new(&self.path).metadata().and_then(|stat| disk_object(&self.path, &stat))
            }
        };
        found.map_err(|source| SourceError::Io { path: PathBuf::from(&self.path), source })
    }
}

/// Lists the files that `entries` name: files, directories (searched below, but not in hidden ones, such as
/// begin with `_`, or the rejects of an output), glob patterns; paths, resolved against `base_dir`, URLs of object stores, or
/// datasets of the Hub.
/// What they are `format` says, or their extensions.
///
/// Files of one entry are sorted by path; a file named twice is read once.
///
/// # Errors
///
/// [`SourceError::NothingFound`] for the first entry that names no file.
pub fn list_files(
    entries: &[String],
    base_dir: &Path,
    format: Option<SourceFormat>,
) -> Result<Vec<Listed>, SourceError> {
    let mut files: Vec<Listed> = Vec::new();
    let mut seen = HashSet::new();
    for entry in entries {
        let (named, found) = if entry.starts_with(HubDataset::SCHEME) {
            (entry.clone(), list_dataset(entry, format)?)
        } else if is_url(entry) {
            (entry.clone(), list_url(entry, format)?)
        } else {
            let path = base_dir.join(entry);
            let real = |listed: Listed| match Path::new(&listed.path).canonicalize() {
                // One spelling per file, so that a span's identity does not depend on how it was
                // named.
                Ok(real) => Ok(Listed { path: real.to_string_lossy().into_owned(), ..listed }),
                Err(source) => Err(SourceError::Io { path: PathBuf::from(&listed.path), source }),
            };
            let found =
                list_entry(&path, format)?.into_iter().map(real).collect::<Result<_, _>>()?;
            (path.display().to_string(), found)
        };
        if found.is_empty() {
            return Err(SourceError::NothingFound { entry: named });
        }
        files.extend(found.into_iter().filter(|file| seen.insert(file.path.clone())));
    }
    Ok(files)
}

/// Returns the format that the extension of `name` tells.
#[must_use]
pub fn format_of(name: &str) -> Option<SourceFormat> {
    let (_, extension) = name.rsplit_once('.')?;
    let extension = extension.to_lowercase();
    let mut formats = EXTENSIONS.into_iter();
    formats.find(|(_, known)| known.contains(&extension.as_str())).map(|(format, _)| format)
}

/// Chooses of the files that a folder or a pattern has: those of the `format` that is asked for, else
/// those of the first that there is. A pattern whose files have no extension that is known means them
/// all.
fn choose(
    mut found: Vec<(String, Option<SourceObject>)>,
    format: Option<SourceFormat>,
    is_pattern: bool,
) -> Vec<Listed> {
    // A batch file is one of lines.
    let by_extension = match format {
        Some(SourceFormat::OpenaiBatch) => Some(SourceFormat::Jsonl),
        format => format,
    };
    let there: HashSet<SourceFormat> =
        found.iter().filter_map(|(path, _)| format_of(path)).collect();
    let first = EXTENSIONS.iter().map(|(format, _)| *format).find(|format| there.contains(format));
    let chosen = by_extension.or(first);
    if !is_pattern || chosen.is_some_and(|chosen| there.contains(&chosen)) {
        found.retain(|(path, _)| chosen.is_some() && format_of(path) == chosen);
    }
    let format = format.or(chosen).unwrap_or(SourceFormat::Parquet);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found.into_iter().map(|(path, object)| Listed { path, format, object }).collect()
}

/// How names in a store or a dataset are matched: a folder by a folder, whatever the case.
const WITHIN_FOLDERS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: false,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

fn pattern_error(entry: &str, error: &glob::PatternError) -> SourceError {
    SourceError::Pattern { entry: entry.to_owned(), problem: error.to_string() }
}

/// Lists the files that a URL names.
fn list_url(url: &str, format: Option<SourceFormat>) -> Result<Vec<Listed>, SourceError> {
    // A query string of HTTP is no pattern, and only a store can be listed.
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(vec![Listed::new(url.to_owned(), format)]);
    }
    let wild = url.find(['*', '?', '[']);
    if wild.is_none() && format_of(url).is_some() {
        return Ok(vec![Listed::new(url.to_owned(), format)]);
    }
    let literal = &url[..wild.unwrap_or(url.len())];
    // Stores list by whole names of folders.
    let folder = match wild {
        Some(_) => &literal[..=literal.rfind('/').unwrap_or_default()],
        None => literal,
    };
    let io_error = |source| SourceError::Io { path: PathBuf::from(url), source };
    let mut found = ObjectAt::list(folder).map_err(io_error)?;
    let outputs = found.iter().filter_map(|object| object.path.strip_suffix(PLAN));
    let outputs: Vec<String> = outputs.map(|output| format!("{output}rejects/")).collect();
    let pattern = wild.map(|_| glob::Pattern::new(url)).transpose();
    let pattern = pattern.map_err(|error| pattern_error(url, &error))?;
    found.retain(|object| match &pattern {
        Some(pattern) => pattern.matches_with(&object.path, WITHIN_FOLDERS),
        None => {
            let below = object.path.strip_prefix(folder.trim_end_matches('/'));
            !below.unwrap_or(&object.path).split('/').any(is_hidden)
                && !outputs.iter().any(|rejects| object.path.starts_with(rejects))
        }
    });
    let found = found.into_iter().map(|object| (object.path.clone(), Some(object))).collect();
    Ok(choose(found, format, pattern.is_some()))
}

/// Lists the files of a dataset of the Hub, which are read from it as over HTTP.
fn list_dataset(entry: &str, format: Option<SourceFormat>) -> Result<Vec<Listed>, SourceError> {
    let dataset: HubDataset = entry.parse()?;
    let inside = dataset.inside();
    let pattern = inside.contains(['*', '?', '[']).then(|| glob::Pattern::new(inside)).transpose();
    let pattern = pattern.map_err(|error| pattern_error(entry, &error))?;
    let is_wanted = |name: &str| match &pattern {
        Some(pattern) => pattern.matches_with(name, WITHIN_FOLDERS),
        None if inside.is_empty() => !name.split('/').any(is_hidden),
        None => {
            let below = name.strip_prefix(inside).and_then(|rest| rest.strip_prefix('/'));
            name == inside || below.is_some_and(|below| !below.split('/').any(is_hidden))
        }
    };
    let mut files = dataset.files(&HubOptions::from_env())?;
    files.retain(|(name, _)| is_wanted(name));
    if let [(name, url)] = files.as_slice()
        && name == inside
    {
        return Ok(vec![Listed::new(url.clone(), format)]);
    }
    let found = files.into_iter().map(|(_, url)| (url, None)).collect();
    Ok(choose(found, format, pattern.is_some()))
}

/// What tells that a folder is the output of a run, whose rejects are no answers.
const PLAN: &str = "_legenda/plan.json";

/// Returns whether files or folders of this name are passed over.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

fn list_entry(path: &Path, format: Option<SourceFormat>) -> Result<Vec<Listed>, SourceError> {
    let text = |path: PathBuf| (path.to_string_lossy().into_owned(), None);
    if path.is_file() {
        return Ok(vec![Listed::new(text(path.to_owned()).0, format)]);
    }
    let mut found = Vec::new();
    if path.is_dir() {
        walk(path, &mut found)?;
        return Ok(choose(found.into_iter().map(text).collect(), format, false));
    }
    let pattern = path.to_string_lossy();
    let matches = glob::glob(&pattern).map_err(|error| pattern_error(&pattern, &error))?;
    let mut below = Vec::new();
    for entry in matches {
        let path = entry.map_err(|error| SourceError::Io {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if path.is_file() {
            found.push(path);
        } else if path.is_dir() {
            walk(&path, &mut below)?;
        }
    }
    // What a folder holds and no format is of is not meant.
    found.extend(below.into_iter().filter(|path| format_of(&path.to_string_lossy()).is_some()));
    Ok(choose(found.into_iter().map(text).collect(), format, true))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let io_error = |source| SourceError::Io { path: dir.to_owned(), source };
    let is_output = dir.join(PLAN).is_file();
    for entry in dir.read_dir().map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_hidden(&name) || (is_output && name == "rejects") {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use legenda_schemas::job::SourceFormat;

    use super::{SourceError, list_files};

    #[test]
    fn files_directories_and_patterns_are_listed_once_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for path in
            ["b.parquet", "a.parquet", "sub/c.pq", "_legenda/x.parquet", ".h/y.parquet", "n.txt"]
        {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap();
        }
        let names = |entries: &[&str]| -> Vec<String> {
            let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
            let root = dir.path().canonicalize().unwrap();
            list_files(&entries, dir.path(), None)
                .unwrap()
                .iter()
                .map(|file| {
                    Path::new(&file.path).strip_prefix(&root).unwrap().display().to_string()
                })
                .collect()
        };
        assert_eq!(names(&["."]), ["a.parquet", "b.parquet", "sub/c.pq"]);
        assert_eq!(names(&["*.parquet", "a.parquet"]), ["a.parquet", "b.parquet"]);
        assert_eq!(names(&["b.parquet", "*.parquet"]), ["b.parquet", "a.parquet"]);
        assert_eq!(names(&["**/*.pq"]), ["sub/c.pq"]);
        let missing = list_files(&["none/*.parquet".to_owned()], dir.path(), None);
        assert!(matches!(missing, Err(SourceError::NothingFound { .. })));
    }
    #[test]
    fn a_folder_is_of_the_first_format_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let formats = |format: Option<SourceFormat>, entry: &str| -> Vec<(String, SourceFormat)> {
            list_files(&[entry.to_owned()], dir.path(), format)
                .unwrap_or_default()
                .iter()
                .map(|file| {
                    let name = Path::new(&file.path).file_name().unwrap();
                    (name.to_string_lossy().into_owned(), file.format)
                })
                .collect()
        };
        let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
        for name in ["a.PNG", "a.txt", "b.wav", "plain"] {
            drop(file(name));
        }
        let of = |name: &str, format| (name.to_owned(), format);
        let media = [of("a.PNG", SourceFormat::Media), of("b.wav", SourceFormat::Media)];
        assert_eq!(formats(None, "."), media);
        assert_eq!(formats(None, "*"), media);
        assert_eq!(formats(None, "plain"), [of("plain", SourceFormat::Parquet)]);
        assert_eq!(formats(None, "pl*"), [of("plain", SourceFormat::Parquet)]);
        drop(file("metadata.csv"));
        assert_eq!(formats(None, "."), [of("metadata.csv", SourceFormat::Csv)]);
        assert_eq!(formats(Some(SourceFormat::Media), "."), media);
        assert_eq!(formats(Some(SourceFormat::Jsonl), "plain"), [of("plain", SourceFormat::Jsonl)]);
        assert_eq!(formats(Some(SourceFormat::Tar), "."), []);
    }
}
