//! Files that a source has and a run does not read: counted by reason, so that none vanishes.

use std::{collections::HashSet, fmt};

use legenda_schemas::units::{counted, counted_as};
use serde::{Deserialize, Serialize};

use super::SourceError;

/// Names that are kept of the files of one reason.
const EXAMPLES_MAX: usize = 20;

/// Why a file, link or folder of a source is not read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It is of another format than the others, or of none that is known; by its extension, in upper
    /// case.
    Format(String),
    /// It has no extension, and its contents are of no known format.
    NoExtension,
    /// Its name begins with a dot.
    Hidden,
    /// An operating system or an application keeps it there (`Thumbs.db`, `__MACOSX`).
    System,
    /// Another program keeps its books in it: Legenda, Spark, Delta Lake.
    Bookkeeping,
    /// It has no rows.
    Empty,
    /// It is not what it is taken for, or is damaged.
    Bad,
    /// It may not be read.
    Unreadable,
    /// It is a link to something that is not there.
    DanglingLink,
    /// It is a link to a folder that it lies in.
    LinkLoop,
    /// It is a link out of the folder that the source names.
    LinkOut,
    /// Its name is not UTF-8.
    NotUtf8,
    /// It is not a file: a socket, a pipe or a device.
    Special,
}

impl SkipReason {
    /// Returns what `n` files of this reason are called: `2 HEIC`, `1 dangling link`.
    fn counted(&self, n: u64) -> String {
        match self {
            Self::Format(extension) => format!("{n} {extension}"),
            Self::NoExtension => format!("{n} without an extension"),
            Self::Hidden => format!("{n} hidden"),
            Self::System => format!("{n} of the system"),
            Self::Bookkeeping => format!("{n} of bookkeeping"),
            Self::Empty => format!("{n} empty"),
            Self::Bad => format!("{n} damaged"),
            Self::Unreadable => format!("{n} unreadable"),
            Self::DanglingLink => counted(n, "dangling link"),
            Self::LinkLoop => counted(n, "link loop"),
            Self::LinkOut => counted_as(n, "link out of the folder", "links out of the folder"),
            Self::NotUtf8 => format!("{n} with a name that is not UTF-8"),
            Self::Special => format!("{n} not regular"),
        }
    }

    /// Returns whether files of this reason may hold rows that the user expects to be read.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Bad | Self::Unreadable | Self::DanglingLink | Self::LinkOut | Self::NotUtf8
        )
    }
}

/// The files of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// Why they are not read.
    pub reason: SkipReason,
    /// How many they are.
    pub count: u64,
    /// The first of them, each with what is wrong where that is known.
    pub examples: Vec<String>,
    /// The paths of all of them, where they may hold rows.
    #[serde(skip)]
    paths: Vec<String>,
}

/// The files that a source has and a run does not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skipped {
    files: Vec<SkippedFiles>,
}

impl Skipped {
    /// Counts a file; `problem` says what is wrong with it, where that says more than the reason.
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

    /// Adds the files of another count.
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

    /// Returns the files by reason; none of a reason that no file has.
    #[must_use]
    pub fn files(&self) -> &[SkippedFiles] {
        &self.files
    }

    /// Returns how many files are skipped.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.files.iter().map(|files| files.count).sum()
    }

    /// Returns whether no file is skipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Checks that no file of the `known` ones, nor any below a folder that cannot be read, is skipped for
    /// a fault: answers to a file that has gone may be removed, and this one may only be out of reach.
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

    /// Returns the counts in parentheses for an error message; nothing if no file is skipped.
    pub(crate) fn told(&self) -> String {
        if self.is_empty() { String::new() } else { format!(" ({self})") }
    }

    /// Returns a line for each file whose rows the user may expect to be read.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.files.iter().filter(|files| files.reason.is_fault()).flat_map(|files| {
            let more = files.count.saturating_sub(files.examples.len() as u64);
            let more = (more > 0).then(|| format!("and {more} more"));
            let label = match files.reason {
                SkipReason::DanglingLink => "dangling link: ",
                SkipReason::LinkOut => {
                    "link out of the folder (`source.follow_links = true` reads it): "
                }
                SkipReason::NotUtf8 => "name is not UTF-8: ",
                _ => "",
            };
            files.examples.iter().map(move |file| format!("skipped {label}{file}")).chain(more)
        })
    }
}

impl fmt::Display for Skipped {
    /// Shows the counts, the largest first: `skipped 4 files: 2 HEIC, 1 AVIF, 1 hidden`.
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
