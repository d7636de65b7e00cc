//! The layout of an output: answers in its folder, all other files in a folder beside it.
//!
//! `polars.read_parquet`, `pandas`, `pyarrow.dataset`, DuckDB and `datasets` read every file below a folder,
//! and no file name is ignored by all five (measured with the versions pinned in
//! `tests/output_readers/requirements.txt`: Polars 2 also rejects other files in hidden folders). So an
//! output `out` has its ledger, report and rejects in `out.legenda`.

use std::path::{Path, PathBuf};

/// The name suffix of the folder beside an output.
pub const BESIDE: &str = ".legenda";

/// The key of the manifest, which decides the location of the other files.
pub(crate) const PLAN: &str = "_legenda/plan.json";

/// Returns the path of the file `key` in the folder beside the output; `None` for answers.
pub(super) fn key_beside(key: &str) -> Option<&str> {
    let is_rejects = key == "rejects" || key.starts_with("rejects/");
    match key.strip_prefix("_legenda") {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('/'),
        None => is_rejects.then_some(key),
    }
}

/// Returns the folder beside the output at `root`; `None` if its files are inside it, because it was
/// written by Legenda 0.1 or a folder beside it would not outlive it.
pub(super) fn dir_beside(root: &Path) -> Option<PathBuf> {
    let mut name = root.file_name()?.to_owned();
    name.push(BESIDE);
    let beside = root.with_file_name(name);
    if beside.is_dir() {
        return Some(beside);
    }
    (!root.join(PLAN).is_file() && !is_alone(root)).then_some(beside)
}

/// Returns whether an existing folder has a read-only parent or is a mount point: a folder beside it would
/// be on another disk, such as that of a container.
#[cfg(unix)]
fn is_alone(root: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Access, access};
    let (Ok(stat), Some(parent)) = (root.metadata(), root.parent()) else { return false };
    let is_mount = parent.metadata().is_ok_and(|parent| parent.dev() != stat.dev());
    is_mount || access(parent, Access::WRITE_OK | Access::EXEC_OK).is_err()
}

#[cfg(not(unix))]
fn is_alone(_root: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{dir_beside, key_beside};

    #[test]
    fn answers_are_in_the_output_and_the_rest_beside_it() {
        for (key, beside) in [
            ("", None),
            ("part-00000-0.parquet", None),
            ("lang=de/part-00000-0.parquet", None),
            ("_legenda", Some("")),
            ("_legenda/ledger/a.json", Some("ledger/a.json")),
            ("_legendary/a", None),
            ("rejects", Some("rejects")),
            ("rejects/rejects-0.parquet", Some("rejects/rejects-0.parquet")),
            ("rejects-of-mine", None),
        ] {
            assert_eq!(key_beside(key), beside, "{key}");
        }
    }

    #[test]
    fn an_output_that_was_begun_within_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out.v1");
        assert_eq!(dir_beside(&root), Some(dir.path().join("out.v1.legenda")));
        fs::create_dir_all(root.join("_legenda")).unwrap();
        assert!(dir_beside(&root).is_some());
        drop(fs::File::create(root.join("_legenda/plan.json")).unwrap());
        assert_eq!(dir_beside(&root), None);
        assert_eq!(dir_beside(std::path::Path::new("/")), None);
    }
}
