//! Where the files of an output lie: answers in its folder, everything else in a folder beside it.
//!
//! `polars.read_parquet`, `pandas`, `pyarrow.dataset`, DuckDB and `datasets` read every file below a
//! folder, and no name within it is passed over by all five (measured with the versions that
//! `tests/output_readers/requirements.txt` pins: Polars 2 refuses other files in hidden folders too). So an
//! output `out` has its ledger, report and rejects in `out.legenda`.

use std::path::{Path, PathBuf};

/// The end of the name of a folder beside an output.
pub const BESIDE: &str = ".legenda";

/// The key of the plan of an output, which tells where its other files lie.
pub(crate) const PLAN: &str = "_legenda/plan.json";

/// Returns where in the folder beside the output the file `key` lies; `None` for answers.
pub(super) fn key_beside(key: &str) -> Option<&str> {
    let is_rejects = key == "rejects" || key.starts_with("rejects/");
    match key.strip_prefix("_legenda") {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('/'),
        None => is_rejects.then_some(key),
    }
}

/// Returns the folder beside the output at `root`; `None` where its files lie within it: it was
/// written by Legenda 0.1, or there is no place beside it that lasts as long as it does.
pub(super) fn dir_beside(root: &Path) -> Option<PathBuf> {
    let mut name = root.file_name()?.to_owned();
    name.push(BESIDE);
    let beside = root.with_file_name(name);
    if beside.is_dir() {
        return Some(beside);
    }
    (!root.join(PLAN).is_file() && !is_alone(root)).then_some(beside)
}

/// Returns whether a folder that is there has a parent that nothing can be written to, or is the root
/// of a mount: a folder beside it would be on another disk, such as that of a container.
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
    fn answers_lie_in_the_output_and_the_rest_beside_it() {
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
