//! Which files a job reads.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::SourceError;
use crate::store::{ObjectAt, is_url};

/// The extensions of Parquet files, lower case.
const EXTENSIONS: [&str; 2] = ["parquet", "pq"];

/// Lists the Parquet files that `entries` name: files, directories (searched below, but not in hidden
/// ones or such as begin with `_`), glob patterns; paths, resolved against `base_dir`, or URLs of object
/// stores.
///
/// Files of one entry are sorted by path; a file named twice is read once.
///
/// # Errors
///
/// [`SourceError::NothingFound`] for the first entry that names no file.
pub fn list_files(entries: &[String], base_dir: &Path) -> Result<Vec<String>, SourceError> {
    let mut files: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for entry in entries {
        let (named, found) = if is_url(entry) {
            (entry.clone(), list_url(entry)?)
        } else {
            let path = base_dir.join(entry);
            let real = |file: PathBuf| match file.canonicalize() {
                // One spelling per file, so that a span's identity does not depend on how it was
                // named.
                Ok(real) => Ok(real.to_string_lossy().into_owned()),
                Err(source) => Err(SourceError::Io { path: file, source }),
            };
            let found = list_entry(&path)?.into_iter().map(real).collect::<Result<_, _>>()?;
            (path.display().to_string(), found)
        };
        if found.is_empty() {
            return Err(SourceError::NothingFound { entry: named });
        }
        files.extend(found.into_iter().filter(|file| seen.insert(file.clone())));
    }
    Ok(files)
}

/// Lists the files that a URL names.
fn list_url(url: &str) -> Result<Vec<String>, SourceError> {
    let pattern_error = |error: glob::PatternError| SourceError::Pattern {
        entry: url.to_owned(),
        problem: error.to_string(),
    };
    // A query string of HTTP is no pattern, and only a store can be listed.
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(vec![url.to_owned()]);
    }
    let wild = url.find(['*', '?', '[']);
    if wild.is_none() && has_extension(url) {
        return Ok(vec![url.to_owned()]);
    }
    let literal = &url[..wild.unwrap_or(url.len())];
    // Stores list by whole names of folders.
    let folder = match wild {
        Some(_) => &literal[..=literal.rfind('/').unwrap_or_default()],
        None => literal,
    };
    let io_error = |source| SourceError::Io { path: PathBuf::from(url), source };
    let mut found = ObjectAt::list(folder).map_err(io_error)?;
    let pattern = wild.map(|_| glob::Pattern::new(url)).transpose().map_err(pattern_error)?;
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    found.retain(|file| match &pattern {
        Some(pattern) => pattern.matches_with(file, options),
        None => {
            let below = file.strip_prefix(folder.trim_end_matches('/')).unwrap_or(file);
            has_extension(file) && !below.split('/').any(is_hidden)
        }
    });
    found.sort();
    Ok(found)
}

fn has_extension(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Returns whether files or folders of this name are passed over.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

fn list_entry(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    if path.is_dir() {
        walk(path, &mut found)?;
    } else {
        let pattern = path.to_string_lossy();
        let matches = glob::glob(&pattern).map_err(|error| SourceError::Pattern {
            entry: pattern.clone().into_owned(),
            problem: error.to_string(),
        })?;
        for entry in matches {
            let path = entry.map_err(|error| SourceError::Io {
                path: error.path().to_owned(),
                source: error.into(),
            })?;
            if path.is_file() {
                found.push(path);
            } else if path.is_dir() {
                walk(&path, &mut found)?;
            }
        }
    }
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let io_error = |source| SourceError::Io { path: dir.to_owned(), source };
    for entry in dir.read_dir().map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_hidden(&name) {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else if has_extension(&name) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

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
            list_files(&entries, dir.path())
                .unwrap()
                .iter()
                .map(|path| Path::new(path).strip_prefix(&root).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(names(&["."]), ["a.parquet", "b.parquet", "sub/c.pq"]);
        assert_eq!(names(&["*.parquet", "a.parquet"]), ["a.parquet", "b.parquet"]);
        assert_eq!(names(&["b.parquet", "*.parquet"]), ["b.parquet", "a.parquet"]);
        assert_eq!(names(&["**/*.pq"]), ["sub/c.pq"]);
        let missing = list_files(&["none/*.parquet".to_owned()], dir.path());
        assert!(matches!(missing, Err(SourceError::NothingFound { .. })));
    }
}
