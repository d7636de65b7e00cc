//! Walks a folder on disk: every file is either found or counted as skipped.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::{Component, Path, PathBuf},
};

use legenda_schemas::job::SourceFormat;

use super::{
    file::open_file,
    names::{self, skip_reason},
    roots::Followed,
    skipped::{SkipReason, Skipped},
};
use crate::{base::store::PLAN, input::media::MediaKind};

/// The bytes needed to detect a format: the magic of tar is at 257.
const MAGIC_BYTES: u64 = 512;

/// The files found by a walk.
#[derive(Debug)]
pub(super) struct Walk {
    followed: Followed,
    /// A folder that links may lead to.
    checked: Option<PathBuf>,
    pub(super) found: Vec<String>,
    pub(super) skipped: Skipped,
}

/// The reason an entry is skipped, with the system's error.
type Skip = (SkipReason, Option<io::Error>);

fn unreadable(error: io::Error) -> Skip {
    (SkipReason::Unreadable, Some(error))
}

impl Walk {
    /// Creates a walk with a link policy.
    pub(super) fn new(followed: Followed) -> Self {
        Self { followed, checked: None, found: Vec::new(), skipped: Skipped::default() }
    }

    /// Finds the files below `dir`. Links keep their own names; a link to a folder that contains it is
    /// skipped.
    ///
    /// # Errors
    ///
    /// The system's error, if `dir` itself is unreadable.
    pub(super) fn below(&mut self, dir: &Path) -> io::Result<()> {
        let real = dir.canonicalize()?;
        self.folder(dir, &mut vec![real])
    }

    /// Finds the files in a folder; `within` contains the canonical paths of the folder and its ancestors.
    fn folder(&mut self, dir: &Path, within: &mut Vec<PathBuf>) -> io::Result<()> {
        let is_output = dir.join(PLAN).is_file();
        for entry in dir.read_dir()? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let (dir, problem) = (dir.to_string_lossy(), error.to_string());
                    self.skipped.add(SkipReason::Unreadable, &dir, Some(problem));
                    continue;
                }
            };
            let path = entry.path();
            let shown = path.to_string_lossy();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                self.skipped.add(SkipReason::NotUtf8, &shown, None);
                continue;
            };
            let mut reason = skip_reason(name);
            if (is_output && name == "rejects") || is_beside_output(&path, name) {
                reason = Some(SkipReason::Bookkeeping);
            }
            if let Some(reason) = reason {
                self.skipped.add(reason, &shown, None);
            } else if let Err((reason, problem)) = self.entry(&path, name, within) {
                self.skipped.add(reason, &shown, problem.map(|problem| problem.to_string()));
            }
        }
        Ok(())
    }

    /// Finds the files below a folder matched by a pattern.
    pub(super) fn named_folder(&mut self, dir: &Path) -> Result<(), Skip> {
        let real = self.target(dir)?;
        self.folder(dir, &mut vec![real]).map_err(unreadable)
    }

    /// Checks that a non-folder matched by a pattern is a readable file. Patterns follow links to folders.
    pub(super) fn named_file(&mut self, path: &Path) -> Result<(), Skip> {
        if !looked_at(path)?.is_file() {
            return Err((SkipReason::Special, None));
        }
        let dir = path.parent().unwrap_or(path);
        if self.checked.as_deref() != Some(dir) {
            self.target(dir)?;
            self.checked = Some(dir.to_owned());
        }
        if path.is_symlink() {
            self.target(path)?;
        }
        Ok(())
    }

    /// Returns the target of a path, if the link policy allows it.
    fn target(&self, path: &Path) -> Result<PathBuf, Skip> {
        self.allowed(path, path.canonicalize().map_err(unreadable)?)
    }

    /// Returns the target `real` of a path, if the link policy allows it.
    fn allowed(&self, path: &Path, real: PathBuf) -> Result<PathBuf, Skip> {
        let dir = path.parent().unwrap_or(path);
        match self.followed.leads_to(dir, &real) {
            true => Ok(real),
            false => Err((SkipReason::LinkOut, None)),
        }
    }

    fn entry(&mut self, path: &Path, name: &str, within: &mut Vec<PathBuf>) -> Result<(), Skip> {
        let stat = looked_at(path)?;
        let mut target = None;
        if path.is_symlink() {
            let real = path.canonicalize().map_err(unreadable)?;
            if stat.is_dir() && within.iter().any(|dir| dir.starts_with(&real)) {
                return Err((SkipReason::LinkLoop, None));
            }
            target = Some(self.allowed(path, real)?);
        }
        if stat.is_file() {
            self.found.push(path.to_string_lossy().into_owned());
            return Ok(());
        }
        if !stat.is_dir() {
            return Err((SkipReason::Special, None));
        }
        let real = target
            .or_else(|| within.last().map(|dir| dir.join(name)))
            .unwrap_or_else(|| path.to_owned());
        within.push(real);
        let walked = self.folder(path, within);
        within.pop();
        walked.map_err(unreadable)
    }
}

/// Returns the metadata of the target of a path.
fn looked_at(path: &Path) -> Result<fs::Metadata, Skip> {
    path.metadata().map_err(|error| match error.kind() {
        ErrorKind::NotFound if path.is_symlink() => (SkipReason::DanglingLink, None),
        _ if path.is_symlink() && is_loop(&error) => (SkipReason::LinkLoop, None),
        _ => unreadable(error),
    })
}

/// Returns whether the system found a link cycle (`ELOOP`).
fn is_loop(error: &io::Error) -> bool {
    // `ErrorKind::FilesystemLoop` is unstable.
    error.to_string().to_lowercase().contains("symbolic link")
}

/// Returns whether a folder contains the ledger and rejects of an output.
fn is_beside_output(path: &Path, name: &str) -> bool {
    names::is_beside_output(name) && path.join("plan.json").is_file()
}

/// Returns the absolute path of an entry of a job without resolving links in its name. Each file name has
/// one spelling, so a span's identity does not depend on how it was named.
pub(super) fn spelled(base_dir: &Path, entry: &str) -> PathBuf {
    let base_dir = if base_dir.as_os_str().is_empty() { Path::new(".") } else { base_dir };
    let base_dir = base_dir.canonicalize().unwrap_or_else(|_| base_dir.to_owned());
    let mut path = PathBuf::new();
    for component in base_dir.join(entry).components() {
        match component {
            Component::CurDir => {}
            // `..` after a link is the parent of its target.
            Component::ParentDir => match path.canonicalize() {
                Ok(real) => path = real.parent().map_or(real.clone(), Path::to_owned),
                Err(_) => path.push(component),
            },
            component => path.push(component),
        }
    }
    path
}

/// Detects the format of a file from its first bytes.
pub(super) fn format_of_contents(path: &str) -> Option<SourceFormat> {
    let mut bytes = Vec::new();
    open_file(Path::new(path)).ok()?.take(MAGIC_BYTES).read_to_end(&mut bytes).ok()?;
    if bytes.starts_with(b"PAR1") {
        return Some(SourceFormat::Parquet);
    }
    if bytes.starts_with(b"ARROW1") {
        return Some(SourceFormat::Arrow);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(SourceFormat::Tar);
    }
    MediaKind::from_bytes(&bytes).map(|_| SourceFormat::Media)
}

/// Returns whether a file on disk exists and is empty.
pub(super) fn has_no_bytes(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|stat| stat.is_file() && stat.len() == 0)
}
