//! Skipped source files, counted by reason, so that no file is dropped silently.

use std::{collections::HashSet, fmt};

use legenda_schemas::units::{counted, counted_as};
use serde::{Deserialize, Serialize};

use super::SourceError;

/// The maximum number of example names per reason.
const EXAMPLES_MAX: usize = 20;

/// The reason a file, link or folder of a source is skipped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It has another format than the selected one, or an unknown one; contains the upper-case extension.
    Format(String),
    /// It has no extension, and its contents have no known format.
    NoExtension,
    /// Its name begins with a dot.
    Hidden,
    /// It is created by an operating system or an application (`Thumbs.db`, `__MACOSX`).
    System,
    /// It contains metadata of another program: Legenda, Spark, Delta Lake.
    Bookkeeping,
    /// It has no rows.
    Empty,
    /// It has an unexpected format or is damaged.
    Bad,
    /// It is not readable.
    Unreadable,
    /// It is a link to a missing target.
    DanglingLink,
    /// It is a link to a folder that contains it.
    LinkLoop,
    /// It is a link that leads out of the source folder.
    LinkOut,
    /// Its name is not UTF-8.
    NotUtf8,
    /// It is a socket, a pipe or a device.
    Special,
}

impl SkipReason {
    /// Returns `n` files of this reason in words: `2 HEIC`, `1 dangling link`.
    fn counted(&self, n: u64) -> String {
        match self {
            Self::Format(extension) => format!("{n} {extension}"),
            Self::NoExtension => format!("{n} without an extension"),
            Self::Hidden => format!("{n} hidden"),
            Self::System => counted(n, "system file"),
            Self::Bookkeeping => counted(n, "metadata file"),
            Self::Empty => format!("{n} empty"),
            Self::Bad => format!("{n} damaged"),
            Self::Unreadable => format!("{n} unreadable"),
            Self::DanglingLink => counted(n, "dangling link"),
            Self::LinkLoop => counted(n, "link loop"),
            Self::LinkOut => counted_as(n, "link out of the folder", "links out of the folder"),
            Self::NotUtf8 => counted_as(n, "name that is not UTF-8", "names that are not UTF-8"),
            Self::Special => counted(n, "special file"),
        }
    }

    /// Returns whether files of this reason may contain rows that the user expects.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Bad | Self::Unreadable | Self::DanglingLink | Self::LinkOut | Self::NotUtf8
        )
    }
}

/// The files skipped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// The reason.
    pub reason: SkipReason,
    /// The number of files.
    pub count: u64,
    /// The first few, each with its problem if known.
    pub examples: Vec<String>,
    /// All paths, if the files may contain rows.
    #[serde(skip)]
    paths: Vec<String>,
}

/// The skipped files of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skipped {
    files: Vec<SkippedFiles>,
}

impl Skipped {
    /// Adds a file; `problem` adds details to the reason.
    pub(crate) fn add(&mut self, reason: SkipReason, path: &str, problem: Option<String>) {
        let idx = self.files.binary_search_by(|files| files.reason.cmp(&reason));
        let idx = idx.unwrap_or_else(|idx| {
            self.files.insert(
                idx,
                SkippedFiles { reason, count: 0, examples: Vec::new(), paths: Vec::new() },
            );
            idx
        });
        let files = &mut self.files[idx];
        files.count += 1;
        if files.reason.is_fault() {
            files.paths.push(path.to_owned());
        }
        if files.examples.len() < EXAMPLES_MAX {
            let example = problem.map(|problem| format!("{path}: {problem}"));
            files.examples.push(example.unwrap_or_else(|| path.to_owned()));
        }
    }

    /// Adds the files of another collection.
    pub(crate) fn extend(&mut self, other: Self) {
        for more in other.files {
            match self.files.binary_search_by(|files| files.reason.cmp(&more.reason)) {
                Ok(idx) => {
                    let files = &mut self.files[idx];
                    files.count += more.count;
                    files.paths.extend(more.paths);
                    let left = EXAMPLES_MAX.saturating_sub(files.examples.len());
                    files.examples.extend(more.examples.into_iter().take(left));
                }
                Err(idx) => self.files.insert(idx, more),
            }
        }
    }

    /// Returns the files by reason, without empty reasons.
    #[must_use]
    pub fn files(&self) -> &[SkippedFiles] {
        &self.files
    }

    /// Returns the number of skipped files.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.files.iter().map(|files| files.count).sum()
    }

    /// Returns whether no file is skipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Checks that no file in `known`, nor any below an unreadable folder, is skipped because of a fault:
    /// answers of a removed file may be deleted, but this one may only be unavailable.
    ///
    /// # Errors
    ///
    /// [`SourceError::OutOfReach`].
    pub(crate) fn missing_among(&self, known: &HashSet<String>) -> Result<(), SourceError> {
        let faults = self.files.iter().filter(|files| files.reason.is_fault());
        for path in faults.flat_map(|files| &files.paths) {
            let below = format!("{path}/");
            if let Some(known) = known.iter().find(|file| *file == path || file.starts_with(&below))
            {
                return Err(SourceError::OutOfReach { path: known.into() });
            }
        }
        Ok(())
    }

    /// Returns the counts in parentheses for an error message; empty if no file is skipped.
    pub(crate) fn summary(&self) -> String {
        if self.is_empty() { String::new() } else { format!(" ({self})") }
    }

    /// Returns a line for each file whose rows the user may expect.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.files.iter().filter(|files| files.reason.is_fault()).flat_map(|files| {
            let more = files.count.saturating_sub(files.examples.len() as u64);
            let more = (more > 0).then(|| format!("and {more} more"));
            let label = match files.reason {
                SkipReason::DanglingLink => "dangling link: ",
                SkipReason::LinkOut => {
                    "link out of the folder (set `source.follow_links = true` to read it): "
                }
                SkipReason::NotUtf8 => "name is not valid UTF-8: ",
                _ => "",
            };
            files.examples.iter().map(move |file| format!("skipped {label}{file}")).chain(more)
        })
    }
}

impl fmt::Display for Skipped {
    /// Formats the counts, largest first: `skipped 4 files: 2 HEIC, 1 AVIF, 1 hidden`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped {}", counted(self.count(), "file"))?;
        let mut files: Vec<&SkippedFiles> = self.files.iter().collect();
        files.sort_by_key(|files| std::cmp::Reverse(files.count));
        let reasons: Vec<String> =
            files.iter().map(|files| files.reason.counted(files.count)).collect();
        if reasons.is_empty() { Ok(()) } else { write!(f, ": {}", reasons.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{SkipReason, Skipped};

    #[test]
    fn files_are_counted_by_reason() {
        let mut skipped = Skipped::default();
        assert_eq!((skipped.count(), skipped.is_empty()), (0, true));
        let heic = || SkipReason::Format("HEIC".to_owned());
        for (reason, path) in [
            (SkipReason::Hidden, "/d/.a"),
            (heic(), "/d/a.heic"),
            (SkipReason::DanglingLink, "/d/l"),
            (heic(), "/d/b.heic"),
        ] {
            skipped.add(reason, path, None);
        }
        let text = skipped.to_string();
        assert_eq!(text, "skipped 4 files: 2 HEIC, 1 hidden, 1 dangling link");
        let mut more = Skipped::default();
        (0..30).for_each(|n| more.add(SkipReason::Bad, &format!("/d/{n}"), Some("why".to_owned())));
        skipped.extend(more);
        assert_eq!(skipped.count(), 34);
        let faults: Vec<String> = skipped.faults().collect();
        assert_eq!(faults[0], "skipped /d/0: why");
        assert_eq!(faults[20], "and 10 more");
        assert_eq!(faults[21], "skipped dangling link: /d/l");
    }
}
