//! Lists the files of a job and detects their formats.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use legenda_models::{HubDataset, HubOptions};
use legenda_schemas::{job::SourceFormat, span::SourceObject};

use super::{
    SourceError,
    file::disk_object,
    names::{
        TABLES, format_of, has_extension, is_beside_output, is_json, other_format, skip_reason,
    },
    roots::{Followed, root_of},
    skipped::{SkipReason, Skipped},
    walk::{Walk, format_of_contents, spelled},
};
use crate::base::store::{Folder, ObjectAt, PLAN, address, is_url, is_web, key_of};

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// An absolute path or a URL.
    pub path: String,
    /// The format.
    pub format: SourceFormat,
    /// The identity, if the listing provides it.
    object: Option<SourceObject>,
}

impl Listed {
    /// Returns a file with the given format, else the format of its extension, else Parquet.
    #[must_use]
    pub fn new(path: String, format: Option<SourceFormat>) -> Self {
        let format = format.or_else(|| format_of(&key_of(&path))).unwrap_or(SourceFormat::Parquet);
        Self { path, format, object: None }
    }

    /// Returns whether the file or the target of a link is within an output.
    pub(crate) fn is_within(&self, output: &Folder) -> bool {
        let real = || Path::new(&self.path).canonicalize();
        let is_real_within = || real().is_ok_and(|real| output.holds(&real.to_string_lossy()));
        output.holds(&self.path) || (!is_url(&self.path) && is_real_within())
    }

    /// Returns whether the file is still `object`.
    pub(super) fn is_still(&self, object: &SourceObject) -> bool {
        self.object().is_ok_and(|now| now == *object)
    }

    /// Returns the file's identity, querying it if the listing did not provide it.
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

/// The files matched by a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The files to read.
    pub files: Vec<Listed>,
    /// The files not to read.
    pub skipped: Skipped,
}

impl Listing {
    /// Renames files to the names that earlier runs recorded: up to version 0.1, those of link targets.
    pub(crate) fn respell(&mut self, known: &HashSet<String>) {
        let listed: HashSet<String> = self.files.iter().map(|file| file.path.clone()).collect();
        for file in &mut self.files {
            if known.is_empty() || known.contains(&file.path) || is_url(&file.path) {
                continue;
            }
            let real = Path::new(&file.path).canonicalize().ok();
            let real = real.and_then(|real| real.into_os_string().into_string().ok());
            if let Some(real) = real.filter(|real| known.contains(real) && !listed.contains(real)) {
                file.path = real;
            }
        }
        let mut seen = HashSet::new();
        self.files.retain(|file| seen.insert(file.path.clone()));
    }
}

/// Lists the files matched by `entries`: files, directories (searched recursively) and glob patterns; paths
/// resolved against `base_dir`, URLs of object stores, or Hub datasets. The format is `format`, else that of
/// the extension, else, for files on disk without one, detected from the contents.
///
/// Files of one entry are sorted by path; a file named twice is read once. A link is a file under its own
/// name; a link that leads out of the entry's folder is read if `follow_links` is set, or if it leads to the
/// content store of git-annex, DVC or the Hub's cache. Files that are not read are counted.
///
/// # Errors
///
/// [`SourceError::NothingFound`] for the first entry that matches no file.
pub(crate) fn list_files(
    entries: &[String],
    base_dir: &Path,
    format: Option<SourceFormat>,
    follow_links: bool,
) -> Result<Listing, SourceError> {
    let mut listing = Listing::default();
    let mut seen = HashSet::new();
    for entry in entries {
        let (named, found) = if entry.starts_with(HubDataset::SCHEME) {
            (entry.clone(), list_dataset(entry, format)?)
        } else if is_url(entry) {
            (entry.clone(), list_url(entry, format)?)
        } else {
            let path = spelled(base_dir, entry);
            (path.display().to_string(), list_path(&path, format, follow_links)?)
        };
        let Listing { files, skipped } = found;
        if files.is_empty() {
            return Err(SourceError::NothingFound { entry: named, skipped: skipped.summary() });
        }
        listing.files.extend(files.into_iter().filter(|file| seen.insert(file.path.clone())));
        listing.skipped.extend(skipped);
    }
    Ok(listing)
}

/// Selects files of a folder or pattern: those of the requested `format`, else those of the preferred format
/// found. A pattern that only matches files without a known extension selects all of them.
fn choose(
    mut found: Vec<Found>,
    format: Option<SourceFormat>,
    is_pattern: bool,
    mut skipped: Skipped,
) -> Listing {
    // Batch files consist of lines.
    let by_extension = match format {
        Some(SourceFormat::OpenaiBatch) => Some(SourceFormat::Jsonl),
        format => format,
    };
    // Folders often have JSON files beside their table.
    if by_extension != Some(SourceFormat::Jsonl)
        && found.iter().any(|file| file.format.is_some() && !is_json(&file.path))
    {
        found.iter_mut().filter(|file| is_json(&file.path)).for_each(|file| file.format = None);
    }
    let there: HashSet<SourceFormat> = found.iter().filter_map(|file| file.format).collect();
    let order = TABLES.iter().map(|(format, _)| *format).chain([SourceFormat::Media]);
    let first = order.clone().find(|format| there.contains(format));
    let chosen = by_extension.or(first);
    let takes_all = is_pattern && !chosen.is_some_and(|chosen| there.contains(&chosen));
    let format = format.or(chosen).unwrap_or(SourceFormat::Parquet);
    let mut files = Vec::with_capacity(found.len());
    for Found { path, object, format: is } in found {
        if takes_all || (chosen.is_some() && is == chosen) {
            files.push(Listed { path, format, object });
        } else {
            skipped.add(other_format(&path), &path, None);
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Listing { files, skipped }
}

/// A file of a folder or pattern.
struct Found {
    path: String,
    object: Option<SourceObject>,
    format: Option<SourceFormat>,
}

impl Found {
    /// Returns a file whose format is given by its extension.
    fn named(path: String, object: Option<SourceObject>) -> Self {
        let format = format_of(&path);
        Self { path, object, format }
    }

    /// Returns a file on disk.
    fn on_disk(path: String) -> Self {
        let format = match has_extension(&path) {
            true => format_of(&path),
            false => format_of_contents(&path),
        };
        Self { path, object: None, format }
    }
}

/// Matching of names in stores and datasets: folder by folder, case-sensitive.
const WITHIN_FOLDERS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: false,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

fn pattern_error(entry: &str, error: glob::PatternError) -> SourceError {
    SourceError::Pattern { entry: entry.to_owned(), source: error.into() }
}

/// Lists the files matched by a URL.
fn list_url(url: &str, format: Option<SourceFormat>) -> Result<Listing, SourceError> {
    let named = || Listed::new(address::named(url), format);
    let one = || Listing { files: vec![named()], ..Listing::default() };
    // An HTTP query string is not a pattern, and only stores can be listed.
    if is_web(url) {
        return Ok(one());
    }
    let wild = url.find(['*', '?', '[']);
    if wild.is_none() && format_of(url).is_some() {
        return Ok(one());
    }
    let literal = &url[..wild.unwrap_or(url.len())];
    // Stores list by whole folder names.
    let folder = match wild {
        Some(_) => &literal[..=literal.rfind('/').unwrap_or_default()],
        None => literal,
    };
    let io_error = |source| SourceError::Io { path: PathBuf::from(url), source };
    let listed = ObjectAt::list(folder).map_err(io_error)?;
    // As on disk, a file or folder with `*`, `?` or `[` in its name can be named literally.
    if let Some(named) = listed.iter().find(|object| object.path == url) {
        let mut named_alone = one();
        named_alone.files.iter_mut().for_each(|file| file.object = Some(named.clone()));
        return Ok(named_alone);
    }
    let folder = format!("{}/", url.strip_suffix('/').unwrap_or(url));
    let is_folder = wild.is_none() || listed.iter().any(|object| object.path.starts_with(&folder));
    let pattern = (!is_folder).then(|| glob::Pattern::new(url)).transpose();
    let pattern = pattern.map_err(|error| pattern_error(url, error))?;
    let outputs = output_metadata_prefixes(&listed, &folder);
    let (mut found, mut skipped) = (Vec::new(), Skipped::default());
    for object in listed {
        let path = object.path.clone();
        let is_meant = match &pattern {
            Some(pattern) => pattern.matches_with(&path, WITHIN_FOLDERS),
            None => path.starts_with(&folder),
        };
        if !is_meant {
            continue;
        }
        if let Some(problem) = ObjectAt::problem_with(&path) {
            skipped.add(SkipReason::Unreadable, &path, Some(problem));
            continue;
        }
        if pattern.is_some() {
            found.push(Found::named(path, Some(object)));
            continue;
        }
        let below = path.strip_prefix(&folder).unwrap_or(&path);
        let is_book = outputs.iter().any(|books| path.starts_with(books));
        match is_book.then_some(SkipReason::Bookkeeping).or_else(|| skip_below(below)) {
            Some(reason) => skipped.add(reason, &path, None),
            None => found.push(Found::named(path, Some(object))),
        }
    }
    Ok(choose(found, format, pattern.is_some(), skipped))
}

/// Returns the prefixes below `folder` in which outputs store their metadata.
fn output_metadata_prefixes(listed: &[SourceObject], folder: &str) -> Vec<String> {
    let folder = folder.trim_end_matches('/');
    let beside = listed.iter().filter_map(|object| {
        let dir = object.path.strip_suffix("/plan.json")?;
        (is_beside_output(dir) && dir != folder).then(|| format!("{dir}/"))
    });
    let within = listed.iter().filter_map(|object| object.path.strip_suffix(PLAN));
    beside.chain(within.map(|output| format!("{output}rejects/"))).collect()
}

/// Returns the reason to skip a file because of a name in its path.
fn skip_below(path: &str) -> Option<SkipReason> {
    path.split('/').filter(|name| !name.is_empty()).find_map(skip_reason)
}

/// Lists the files of a Hub dataset, which are read over HTTP.
fn list_dataset(entry: &str, format: Option<SourceFormat>) -> Result<Listing, SourceError> {
    let dataset: HubDataset = entry.parse()?;
    let inside = dataset.inside();
    let pattern = inside.contains(['*', '?', '[']).then(|| glob::Pattern::new(inside)).transpose();
    let pattern = pattern.map_err(|error| pattern_error(entry, error))?;
    let (mut found, mut skipped) = (Vec::new(), Skipped::default());
    for (name, url) in dataset.files(&HubOptions::from_env())? {
        if name == inside {
            return Ok(Listing { files: vec![Listed::new(url, format)], ..Listing::default() });
        }
        let below = match &pattern {
            Some(pattern) if pattern.matches_with(&name, WITHIN_FOLDERS) => Some(""),
            Some(_) => None,
            None if inside.is_empty() => Some(name.as_str()),
            None => name.strip_prefix(inside).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(below) = below else { continue };
        match skip_below(below) {
            Some(reason) => skipped.add(reason, &name, None),
            None => found.push(Found::named(url, None)),
        }
    }
    Ok(choose(found, format, pattern.is_some(), skipped))
}

/// Lists the files matched by a local path.
fn list_path(
    path: &Path,
    format: Option<SourceFormat>,
    follow_links: bool,
) -> Result<Listing, SourceError> {
    let mut walk = Walk::new(Followed::below(&root_of(path), follow_links));
    let io_error = |path: &Path, source| SourceError::Io { path: path.to_owned(), source };
    if path.is_dir() {
        walk.below(path).map_err(|error| io_error(path, error))?;
        let found = walk.found.into_iter().map(Found::on_disk).collect();
        return Ok(choose(found, format, false, walk.skipped));
    }
    let Some(named) = path.to_str() else {
        let source = "the path is not valid UTF-8".into();
        return Err(SourceError::Pattern { entry: path.display().to_string(), source });
    };
    if path.is_file() {
        let format = format.or_else(|| Found::on_disk(named.to_owned()).format);
        let files = vec![Listed::new(named.to_owned(), format)];
        return Ok(Listing { files, ..Listing::default() });
    }
    let matches = glob::glob(named).map_err(|error| pattern_error(named, error))?;
    let mut found = Vec::new();
    for entry in matches {
        let path = match entry {
            Ok(path) => path,
            Err(error) => {
                let (path, problem) = (error.path().to_string_lossy(), error.error().to_string());
                walk.skipped.add(SkipReason::Unreadable, &path, Some(problem));
                continue;
            }
        };
        let shown = path.to_string_lossy().into_owned();
        if path.is_dir() {
            if let Err((reason, problem)) = walk.named_folder(&path) {
                walk.skipped.add(reason, &shown, problem.map(|problem| problem.to_string()));
            }
        } else if path.to_str().is_none() {
            walk.skipped.add(SkipReason::NotUtf8, &shown, None);
        } else {
            match walk.named_file(&path) {
                Ok(()) => found.push(Found::on_disk(shown)),
                Err((reason, problem)) => {
                    walk.skipped.add(reason, &shown, problem.map(|problem| problem.to_string()));
                }
            }
        }
    }
    // In folders matched by a pattern, only files of known formats are read.
    for file in walk.found.into_iter().map(Found::on_disk) {
        match file.format {
            Some(_) => found.push(file),
            None => walk.skipped.add(other_format(&file.path), &file.path, None),
        }
    }
    Ok(choose(found, format, true, walk.skipped))
}

#[cfg(test)]
mod tests;
