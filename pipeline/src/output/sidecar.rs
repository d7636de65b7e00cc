//! Answers as sidecar files: `a.txt` or `a.json` next to `a.png`, subtitles next to `a.wav`.
//!
//! Each sidecar gets its answer exactly once, even after a crash. The intended sidecars of a span are
//! recorded in a note before the span is committed, and written after it:
//!
//! - after a crash before the commit, the note is unused and is removed;
//! - after a crash after the commit, the note is replayed when the output is next opened: a file with its
//!   new content is done, one with its old content is written, and one that was changed in the meantime is
//!   left alone.
//!
//! An answer that a sidecar already ends with is not appended again, so recomputing a span because a file
//! beside it has changed does not duplicate answers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use legenda_schemas::{
    flag::Flags,
    job::{SidecarExtension, SidecarMode, Sidecars, SourceFormat},
    ledger::{LEDGER_VERSION, LedgerEntry},
    sha256_hex,
    span::SpanId,
    table::FLAGS_COLUMN,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    base::store::{Folder, ReadError, WriteError, confined::Confined, is_url},
    input::source::{Listed, roots::Roots},
    output::{
        ledger::{Committed, LedgerError, Output},
        subtitles,
    },
};

/// The folder of notes.
pub(crate) const NOTES: &str = "_legenda/sidecars";
/// The maximum size of a sidecar to append to.
const BYTES_MAX: u64 = 1 << 20;
/// The answer's key in a JSON sidecar.
const ANSWER: &str = "answer";

/// The intended sidecars of a committed span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    version: u32,
    /// The span.
    id: SpanId,
    /// The number of retries of its rejects before.
    retries: u32,
    files: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    path: PathBuf,
    /// The source folder that confines it; in notes of older versions, its own folder.
    #[serde(default)]
    root: PathBuf,
    /// SHA-256 of the previous content, in hex.
    before: Option<String>,
    after: String,
}

/// Returns the reason listed files cannot have sidecars, if any. `roots` are the source folders.
pub(crate) fn problem_with(
    listed: &[Listed],
    sidecars: &Sidecars,
    roots: &Roots,
) -> Option<String> {
    let mut targets: HashMap<PathBuf, &str> = HashMap::new();
    let mut folders: HashSet<PathBuf> = HashSet::new();
    for Listed { path, format, .. } in listed {
        if *format != SourceFormat::Media {
            return Some(format!("`{path}` is a table, not an image or audio file"));
        }
        if is_url(path) {
            return Some(format!("`{path}` is in an object store"));
        }
        for extension in sidecars.extension.iter() {
            let target = target(path, extension);
            let folder = target.parent().map(Path::to_owned).unwrap_or_default();
            if folders.insert(folder)
                && let Err(error) = open(&target, roots.root_of(&target))
            {
                return Some(format!("`{path}` is a link to a file outside the source: {error}"));
            }
            if let Some(other) = targets.insert(target.clone(), path) {
                let target = target.display();
                return Some(format!(
                    "`{other}` and `{path}` would share the sidecar `{target}`: choose one with a \
                     pattern in `source.paths`"
                ));
            }
        }
    }
    None
}

fn target(path: &str, extension: SidecarExtension) -> PathBuf {
    Path::new(path).with_extension(extension.as_str())
}

/// The answer for a listed file.
pub(crate) struct FileAnswer<'a> {
    /// The file.
    pub(crate) path: &'a str,
    /// The source folder that contains it.
    pub(crate) root: &'a Path,
    /// The answer's text.
    pub(crate) text: &'a str,
    /// The flags of the answer.
    pub(crate) flags: &'a Flags,
}

/// Computes the sidecars of `answers`.
pub(crate) fn note<'a>(
    sidecars: &Sidecars,
    entry: &LedgerEntry,
    answers: impl Iterator<Item = FileAnswer<'a>>,
) -> Note {
    let extensions = || sidecars.extension.iter();
    let files = answers.flat_map(|answer| {
        let change = |extension| change(sidecars, extension, &answer);
        extensions().filter_map(change).collect::<Vec<_>>()
    });
    let files = files.collect();
    let LedgerEntry { id, retries, .. } = entry;
    Note { version: LEDGER_VERSION, id: id.clone(), retries: *retries, files }
}

fn change(
    sidecars: &Sidecars,
    extension: SidecarExtension,
    answer: &FileAnswer<'_>,
) -> Option<Change> {
    let path = target(answer.path, extension);
    let root = answer.root.to_owned();
    // Timestamps are in the subtitles.
    let text = match sidecars.extension.iter().any(SidecarExtension::is_subtitles) {
        true => Cow::Owned(subtitles::plain_text(answer.text)),
        false => Cow::Borrowed(answer.text.trim()),
    };
    let text = text.as_ref();
    let found = match read(&path, answer.root) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "skipped a sidecar that cannot be read");
            return None;
        }
    };
    let after = match (&found, extension) {
        (Some(_), _) if sidecars.mode == SidecarMode::Skip => return None,
        (_, SidecarExtension::Srt) => subtitles::srt(answer.text),
        (_, SidecarExtension::Vtt) => subtitles::vtt(answer.text),
        (None, SidecarExtension::Txt) => format!("{text}\n"),
        (Some(found), SidecarExtension::Txt) => {
            format!("{}\n", added(found.trim(), text, sidecars))
        }
        (found, SidecarExtension::Json) => {
            let members = serde_json::from_str(found.as_deref().unwrap_or("{}"));
            let mut members: Map<String, Value> = match members {
                Ok(members) => members,
                Err(_) if sidecars.mode == SidecarMode::Overwrite => Map::new(),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "skipped a sidecar that is not a JSON object");
                    return None;
                }
            };
            let earlier = match members.get(ANSWER) {
                None | Some(Value::Null) => "",
                Some(Value::String(earlier)) => earlier,
                Some(_) if sidecars.mode == SidecarMode::Overwrite => "",
                Some(_) => {
                    let path = path.display();
                    tracing::warn!(%path, "skipped a sidecar whose `{ANSWER}` is not a string");
                    return None;
                }
            };
            let joined = added(earlier.trim(), text, sidecars);
            members.insert(ANSWER.to_owned(), Value::from(joined));
            members.remove(FLAGS_COLUMN);
            if !answer.flags.is_empty() {
                let names = answer.flags.iter().map(|flag| Value::from(flag.as_str()));
                members.insert(FLAGS_COLUMN.to_owned(), names.collect());
            }
            format!("{:#}\n", Value::Object(members))
        }
    };
    let before = found.as_ref().map(|found| sha256_hex([found.as_bytes()]));
    (found.as_ref() != Some(&after)).then_some(Change { path, root, before, after })
}

/// Adds an answer to existing text.
fn added(there: &str, answer: &str, sidecars: &Sidecars) -> String {
    let separator = &sidecars.separator;
    match sidecars.mode {
        _ if there.is_empty() || there == answer => answer.to_owned(),
        SidecarMode::Append if there.ends_with(&format!("{separator}{answer}")) => there.to_owned(),
        SidecarMode::Append => format!("{there}{separator}{answer}"),
        SidecarMode::Prepend if there.starts_with(&format!("{answer}{separator}")) => {
            there.to_owned()
        }
        SidecarMode::Prepend => format!("{answer}{separator}{there}"),
        SidecarMode::Skip | SidecarMode::Overwrite => answer.to_owned(),
    }
}

/// Opens the folder of a sidecar, which must be below the source folder `root`.
fn open(path: &Path, root: &Path) -> io::Result<Confined> {
    let parent = path.parent().unwrap_or(path);
    match parent.strip_prefix(root) {
        Ok(below) if !root.as_os_str().is_empty() => {
            Confined::open(&root.canonicalize()?)?.open_dir(below)
        }
        _ => Confined::open(&parent.canonicalize()?),
    }
}

/// Reads a sidecar, if it exists.
fn read(path: &Path, root: &Path) -> io::Result<Option<String>> {
    open(path, root)?.read_text(path.file_name().unwrap_or_default(), BYTES_MAX)
}

impl Note {
    fn key(&self) -> String {
        format!("{NOTES}/{}-{}.json", self.id, self.retries)
    }

    /// Writes the note; it takes effect once the span is committed.
    pub(crate) fn write(&self, output: &Output) -> Result<(), WriteError> {
        output.write_json(&self.key(), self)
    }

    /// Writes the outstanding sidecars and removes the note.
    pub(crate) fn replay(&self, output: &Output) -> Result<(), WriteError> {
        let mut folders: BTreeMap<&Path, Confined> = BTreeMap::new();
        for Change { path, root, before, after } in &self.files {
            let found = match read(path, root) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "skipped a sidecar that cannot be written");
                    continue;
                }
            };
            if found.as_ref() == Some(after) {
                continue;
            }
            if found.map(|found| sha256_hex([found.as_bytes()])) != *before {
                let path = path.display();
                tracing::warn!(%path, "skipped a sidecar that was changed in the meantime");
                continue;
            }
            let name = path.file_name().unwrap_or_default();
            let written = open(path, root).and_then(|folder| {
                folder.write_whole(name, &folder, &unfinished(path), after.as_bytes())?;
                folders.insert(path.parent().unwrap_or(path), folder);
                Ok(())
            });
            written.map_err(|error| write_error(path, error))?;
        }
        for (path, folder) in folders {
            folder.sync().map_err(|error| write_error(path, error))?;
        }
        output.remove(&self.key())
    }
}

/// Replays the notes of committed spans that earlier runs left.
pub(crate) fn finish(output: &Output, committed: &Committed) -> Result<(), LedgerError> {
    let files = output.files();
    for (key, bytes) in files.folder.read_all(&files.folder.list(NOTES, "")?)? {
        let note: Note = files.parse(&key, &bytes)?;
        let kept = committed.kept.iter().find(|entry| entry.id == note.id);
        let entry = committed.entries.get(&note.id).or(kept);
        if entry.is_some_and(|entry| entry.retries >= note.retries) {
            note.replay(output)?;
        } else {
            output.remove(&key)?;
        }
    }
    Ok(())
}

/// Returns the notes that the next run will replay.
pub(crate) fn waiting(folder: &Folder) -> Result<Vec<String>, ReadError> {
    folder.list(NOTES, "")
}

/// Returns a hidden name, so that listings of sources skip the file.
fn unfinished(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.unfinished").into()
}

fn write_error(path: &Path, error: io::Error) -> WriteError {
    WriteError::new(path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use legenda_schemas::{
        flag::{Flag, Flags},
        job::{SidecarExtension, SidecarMode, Sidecars},
    };

    use super::{FileAnswer, added, change};

    fn sidecars(extension: SidecarExtension, mode: SidecarMode) -> Sidecars {
        Sidecars { extension: extension.into(), mode, separator: ", ".to_owned() }
    }

    #[test]
    fn an_answer_is_added_once() {
        let of = |mode| sidecars(SidecarExtension::Txt, mode);
        for (mode, expected) in [
            (SidecarMode::Append, "old, new"),
            (SidecarMode::Prepend, "new, old"),
            (SidecarMode::Overwrite, "new"),
        ] {
            let once = added("old", "new", &of(mode));
            assert_eq!(once, expected);
            assert_eq!(added(&once, "new", &of(mode)), expected);
            assert_eq!(added("", "new", &of(mode)), "new");
        }
    }

    #[test]
    fn json_sidecars_keep_their_other_members() {
        let dir = tempfile::tempdir().unwrap();
        let picture = dir.path().join("a.png");
        let write = |text: &str| {
            use std::io::Write;
            let mut file = std::fs::File::create(dir.path().join("a.json")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let with = |mode, flags: &Flags| {
            let json = sidecars(SidecarExtension::Json, mode);
            let path = &picture.to_string_lossy();
            let answer = FileAnswer { path, root: dir.path(), text: "new", flags };
            change(&json, SidecarExtension::Json, &answer).map(|change| change.after)
        };
        let after = |mode| with(mode, &Flags::new());
        assert_eq!(after(SidecarMode::Append).unwrap(), "{\n  \"answer\": \"new\"\n}\n");
        write("{\"tags\": [1], \"answer\": \"old\"}");
        let joined = "{\n  \"answer\": \"old, new\",\n  \"tags\": [\n    1\n  ]\n}\n";
        assert_eq!(after(SidecarMode::Append).unwrap(), joined);
        assert_eq!(after(SidecarMode::Skip), None);
        let flags = Flags::from([Flag::MediaDamaged]);
        let flagged = "{\n  \"answer\": \"new\",\n  \"legenda_flags\": [\n    \"media_damaged\"\n  ],\n  \
                       \"tags\": [\n    1\n  ]\n}\n";
        assert_eq!(with(SidecarMode::Overwrite, &flags).as_deref(), Some(flagged));
        write(flagged);
        let without = after(SidecarMode::Overwrite).unwrap();
        assert!(!without.contains("flags"), "{without}");
        write("{\"answer\": [\"a\", \"list\"]}");
        assert_eq!(after(SidecarMode::Append), None, "nothing that is there is lost");
        assert_eq!(after(SidecarMode::Prepend), None);
        assert!(after(SidecarMode::Overwrite).is_some());
        write("{\"answer\": null}");
        assert_eq!(after(SidecarMode::Append).unwrap(), "{\n  \"answer\": \"new\"\n}\n");
        write("no json");
        assert_eq!(after(SidecarMode::Append), None);
        assert!(after(SidecarMode::Overwrite).is_some());
    }
}
