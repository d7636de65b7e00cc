//! Where the answers of a command go.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use legenda_models::RuntimeOptions;
use legenda_pipeline::store::is_url;
use legenda_schemas::{
    job::{Format, Job},
    sha256_hex,
};

use crate::{command::export::format_of, failure::Failure};

/// Hex digits of the digest of a job in the name of its folder.
const DIGEST_CHARS: usize = 16;

/// The destination of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Standard output.
    Lines,
    /// One file.
    File {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
    },
    /// An output folder, as of `legenda run`.
    Folder(String),
}

impl Destination {
    /// Parses `-o`: a path with an extension is a file, unless it is an existing folder or ends with a slash.
    pub(super) fn parse(to: Option<&str>) -> Result<Self, Failure> {
        let Some(to) = to else { return Ok(Self::Lines) };
        let path = Path::new(to);
        let is_folder = is_url(to)
            || to.ends_with(['/', std::path::MAIN_SEPARATOR])
            || path.extension().is_none()
            || path.is_dir();
        if is_folder {
            return Ok(Self::Folder(to.to_owned()));
        }
        let format = format_of(path)
            .map_err(|failure| failure.hint(format!("to write an output folder: `-o {to}/`")))?;
        Ok(Self::File { path: path.to_owned(), format })
    }

    /// Checks, before anything runs, that a file can be written.
    pub(super) fn check(&self, replaces: bool) -> Result<(), Failure> {
        let Self::File { path, .. } = self else { return Ok(()) };
        if !replaces && !matches!(path.try_exists(), Ok(false)) {
            let error = anyhow!("`{}` already exists", path.display());
            return Err(Failure::config(error).hint("pass `--force` to replace it"));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        match dir.filter(|dir| !dir.is_dir()) {
            Some(dir) => Err(Failure::config(anyhow!("no folder `{}`", dir.display()))),
            None => Ok(()),
        }
    }
}

/// Returns the folder in the user's cache in which a job without an output of its own keeps its answers. The
/// same job with the same limit has the same folder.
pub(super) fn kept_folder(job: &Job, limit: Option<u64>) -> Result<PathBuf, Failure> {
    let set = std::env::var_os("LEGENDA_RUNS").filter(|value| !value.is_empty());
    let in_cache = || Some(RuntimeOptions::from_env().cache_dir?.join("runs"));
    let runs = set.map(PathBuf::from).or_else(in_cache).ok_or_else(|| {
        Failure::config(anyhow!("there is no cache folder for the answers"))
            .hint("set `LEGENDA_RUNS`, or write to a folder with `-o DIR/`")
    })?;
    let text = job.to_toml().map_err(Failure::internal)?;
    let digest = sha256_hex([text.as_bytes(), format!("{limit:?}").as_bytes()]);
    Ok(runs.join(&digest[..DIGEST_CHARS]))
}
