//! Small results that are expensive to compute, kept in the cache folder between starts.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

/// The number of results that are kept of each kind.
const RESULTS_MAX: usize = 1000;

/// A file that was changed less than this long ago may change again without another time of change.
const SETTLED: Duration = Duration::from_secs(3);

/// The kept results of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// `None` if nothing can be kept.
    folder: Option<PathBuf>,
}

impl Kept {
    /// Returns the results in a folder of the cache.
    pub(crate) fn of(cache_dir: Option<&Path>, kind: &str) -> Self {
        Self { folder: cache_dir.map(|folder| folder.join(kind)) }
    }

    /// Returns a kept result.
    pub(crate) fn get(&self, key: &Key) -> Option<String> {
        let text = fs::read_to_string(self.folder.as_ref()?.join(key.name()?)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Keeps a result. A failure is not an error: the next start computes the result again.
    pub(crate) fn put(&self, key: &Key, result: &str) {
        let (Some(folder), Some(name)) = (&self.folder, key.name()) else { return };
        if let Err(error) = put(folder, &name, result) {
            tracing::debug!(folder = %folder.display(), %error, "result not kept");
        }
    }
}

fn put(folder: &Path, name: &str, result: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut files = fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        })
        .collect::<io::Result<Vec<_>>>()?;
    files.sort_unstable();
    let n_old = (files.len() + 1).saturating_sub(RESULTS_MAX);
    files.iter().take(n_old).try_for_each(|(_, file)| fs::remove_file(file))?;
    // Other processes may write the same result.
    let (file, partial) =
        (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
    fs::File::create(&partial)?.write_all(result.as_bytes())?;
    fs::rename(&partial, &file)
}

/// What a result depends on.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    digest: Sha256,
    /// Whether all files can be recognized by their metadata.
    is_known: bool,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self { digest: Sha256::new(), is_known: true }
    }

    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.digest.update((bytes.len() as u64).to_le_bytes());
        self.digest.update(bytes);
    }

    /// Adds a file by its path, size and times of change.
    pub(crate) fn add_file(&mut self, path: &Path) {
        match file_state(path) {
            Some(state) => self.add(&state),
            None => self.is_known = false,
        }
    }

    fn name(&self) -> Option<String> {
        self.is_known.then(|| {
            self.digest.clone().finalize().iter().fold(String::new(), |mut name, byte| {
                // Writing to a string does not fail.
                let _written = write!(name, "{byte:02x}");
                name
            })
        })
    }
}

/// Returns what identifies the content of a file; `None` if it may be changing.
fn file_state(path: &Path) -> Option<Vec<u8>> {
    let path = path.canonicalize().ok()?;
    let metadata = fs::metadata(&path).ok()?;
    let modified = metadata.modified().ok()?;
    if SystemTime::now().duration_since(modified).ok()? < SETTLED {
        return None;
    }
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    let mut state = path.to_str()?.as_bytes().to_vec();
    state.extend(metadata.len().to_le_bytes());
    state.extend(modified.to_le_bytes());
    #[cfg(unix)]
    {
        // A program can set the time of modification, but not that of the last change.
        use std::os::unix::fs::MetadataExt;
        for number in [metadata.ctime(), metadata.ctime_nsec()] {
            state.extend(number.to_le_bytes());
        }
        state.extend(metadata.ino().to_le_bytes());
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_until_a_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::of(Some(folder.path()), "results");
        let file = folder.path().join("weights");
        let write = |content: &str, age_seconds: u64| {
            let mut written = fs::File::create(&file).unwrap();
            written.write_all(content.as_bytes()).unwrap();
            written.set_modified(SystemTime::now() - Duration::from_secs(age_seconds)).unwrap();
        };
        let key = || {
            let mut key = Key::new();
            key.add_file(&file);
            key
        };
        write("a", 100);
        kept.put(&key(), "first");
        assert_eq!(kept.get(&key()).as_deref(), Some("first"));
        write("b", 100);
        assert_eq!(kept.get(&key()), None, "the same size, another time");
        // A file that was just written is not recognized.
        write("c", 0);
        kept.put(&key(), "third");
        assert_eq!(kept.get(&key()), None);
    }

    #[test]
    fn the_oldest_results_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::of(Some(folder.path()), "results");
        let key = |number: usize| {
            let mut key = Key::new();
            key.add(&number.to_le_bytes());
            key
        };
        for number in 0..RESULTS_MAX + 5 {
            kept.put(&key(number), "result");
        }
        assert_eq!(fs::read_dir(folder.path().join("results")).unwrap().count(), RESULTS_MAX);
        assert!(kept.get(&key(RESULTS_MAX + 4)).is_some());
    }
}
