//! The root folders of a source. Files outside them are never written, and only read through a link if the
//! job allows it or the link leads to a known content store.

use std::path::{Path, PathBuf};

use super::walk::spelled;
use crate::base::store::is_url;

/// The root folders of a source, as named in the job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roots(Vec<PathBuf>);

impl Roots {
    /// Returns the roots of the entries of `source.paths`, resolved against `base_dir`: the parent folder of
    /// a file, and the folder before the first wildcard of a pattern.
    #[must_use]
    pub(crate) fn from_entries(entries: &[String], base_dir: &Path) -> Self {
        let paths = entries.iter().filter(|entry| !is_url(entry));
        Self(paths.map(|entry| root_of(&spelled(base_dir, entry))).collect())
    }

    /// Returns the root that contains a file; its own folder if none does.
    #[must_use]
    pub(crate) fn root_of<'a>(&'a self, path: &'a Path) -> &'a Path {
        let roots = self.0.iter().filter(|root| path.starts_with(root));
        let longest = roots.max_by_key(|root| root.as_os_str().len());
        longest.map_or_else(|| path.parent().unwrap_or(path), PathBuf::as_path)
    }
}

/// Returns the root of one entry of a source.
pub(super) fn root_of(entry: &Path) -> PathBuf {
    if entry.is_dir() {
        return entry.to_owned();
    }
    let is_wild = |part: &Path| part.to_string_lossy().contains(['*', '?', '[']);
    let literal = entry.ancestors().filter(|path| !is_wild(path));
    let mut folders = literal.filter(|path| *path != entry);
    folders.next().unwrap_or(entry).to_owned()
}

/// The link policy of a source.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    /// The canonical root folder.
    root: PathBuf,
    /// Whether all links are followed.
    all: bool,
}

impl Followed {
    /// Returns a policy that follows links to targets below `root`, or all.
    pub(super) fn below(root: &Path, all: bool) -> Self {
        Self { root: root.canonicalize().unwrap_or_else(|_| root.to_owned()), all }
    }

    /// Returns whether a link in the folder `dir` may lead to the canonical path `target`.
    pub(super) fn leads_to(&self, dir: &Path, target: &Path) -> bool {
        self.all || target.starts_with(&self.root) || is_content_of(dir, target)
    }
}

/// Returns whether `target` is in the content store of a program that links file names to contents:
/// `.git/annex/objects` (git-annex), `.dvc/cache` (DVC) or `blobs` (the Hub's cache) of a folder that
/// contains `dir`.
fn is_content_of(dir: &Path, target: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    dir.ancestors().any(|above| {
        let is_in = |store: &str| target.starts_with(above.join(store));
        is_in(".git/annex/objects") || is_in(".dvc/cache") || is_in("blobs")
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::create_dir_all, path::Path};

    use super::{Followed, Roots, root_of};

    #[test]
    fn entries_name_folders() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        create_dir_all(dir.join("a/b")).unwrap();
        for (entry, root) in [
            ("a", "a"),
            ("a/b", "a/b"),
            ("a/t.parquet", "a"),
            ("a/*.png", "a"),
            ("a/*/b/x?.png", "a"),
            ("*", ""),
        ] {
            assert_eq!(root_of(&dir.join(entry)), dir.join(root), "{entry}");
        }
        let roots = Roots::from_entries(&["a".into(), "a/b/*.png".into(), "s3://a/b".into()], &dir);
        assert_eq!(roots.root_of(&dir.join("a/c/d.png")), dir.join("a"));
        assert_eq!(roots.root_of(&dir.join("a/b/d.png")), dir.join("a/b"));
        assert_eq!(roots.root_of(Path::new("/elsewhere/d.png")), Path::new("/elsewhere"));
    }

    #[test]
    fn links_lead_within_or_to_contents() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for folder in ["repo/data/sub", "hub/snapshots/1/sub", "hub/other"] {
            create_dir_all(dir.join(folder)).unwrap();
        }
        for (link_in, target, is_followed) in [
            ("repo/data", "repo/data/sub/a.png", true),
            ("repo/data/sub", "repo/b.png", false),
            ("repo/data/sub", "repo/.git/annex/objects/x/y", true),
            ("repo/data", "repo/.dvc/cache/files/md5/a", true),
            ("repo/data", "repo/.git/config", false),
            ("repo/data", "repo/data2/a.png", false),
            ("repo/data", "other/.dvc/cache/a", false),
            ("hub/snapshots/1/sub", "hub/blobs/a", true),
            ("hub/other", "hub/blobs2/a", false),
            ("hub/snapshots/1", "other/blobs/a", false),
        ] {
            let root = if link_in.starts_with("repo") { "repo/data" } else { "hub/snapshots/1" };
            let leads = |all| {
                Followed::below(&dir.join(root), all)
                    .leads_to(&dir.join(link_in), &dir.join(target))
            };
            assert_eq!(leads(false), is_followed, "{link_in} {target}");
            assert!(leads(true));
        }
    }
}
