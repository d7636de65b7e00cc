//! Which files a job reads.

use std::path::{Path, PathBuf};

use super::SourceError;

/// The extensions of Parquet files, lower case.
const EXTENSIONS: [&str; 2] = ["parquet", "pq"];

/// Lists the Parquet files that `entries` name, resolved against `base_dir`: files, directories
/// (searched below, but not in hidden ones or such as begin with `_`), glob patterns.
///
/// Files of one entry are sorted by path; a file named twice is read once.
///
/// # Errors
///
/// [`SourceError::NothingFound`] for the first entry that names no file.
pub fn list_files(entries: &[String], base_dir: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let found = list_entry(&base_dir.join(entry))?;
        if found.is_empty() {
            let entry = base_dir.join(entry).display().to_string();
            return Err(SourceError::NothingFound { entry });
        }
        for file in found {
            // One spelling per file, so that a span's identity does not depend on how it was named.
            let file = file
                .canonicalize()
                .map_err(|source| SourceError::Io { path: file.clone(), source })?;
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
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
        if name.starts_with('.') || name.starts_with('_') {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|ext| EXTENSIONS.contains(&ext.to_string_lossy().to_lowercase().as_str()))
        {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
                .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
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
