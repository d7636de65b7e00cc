//! Checks which library files may be loaded: those that only this user and the administrator can
//! create or change.

use std::{fs::File, io, path::Path};

use legenda_schemas::hex;
use sha2::{Digest, Sha256};

/// Returns the reason why a library found in a folder must not be loaded, if there is one.
///
/// The library and its folder must belong to this user, to the administrator or to the owner of
/// this program, and must not be writable by others. Parent folders must not be writable by
/// everyone, unless they are sticky (like `/tmp`), so that only owners can replace their files.
#[cfg(unix)]
pub(super) fn trust_problem(library: &Path) -> Option<String> {
    // Both a link and its target.
    let checked = unix::trust_problem(library).and_then(|problem| match problem {
        Some(problem) => Ok(Some(problem)),
        None => unix::trust_problem(&library.canonicalize()?),
    });
    checked.unwrap_or_else(|error| Some(error.to_string()))
}

/// Without owners and modes, there is nothing to check.
#[cfg(not(unix))]
pub(super) fn trust_problem(_library: &Path) -> Option<String> {
    None
}

/// Returns whether a file has this SHA-256, in hexadecimal.
pub(super) fn has_sha256(file: &Path, sha256: &str) -> io::Result<bool> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    Ok(hex(digest) == sha256)
}

#[cfg(unix)]
mod unix {
    use std::{
        fs::Metadata,
        io,
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
    };

    use rustix::process::{getegid, geteuid};

    const OTHERS_WRITE: u32 = 0o002;
    const GROUP_WRITES: u32 = 0o020;
    const STICKY: u32 = 0o1000;
    /// Lower group IDs are system groups, whose members are administrators.
    const USER_GROUPS: u32 = 1000;

    pub(super) fn trust_problem(library: &Path) -> io::Result<Option<String>> {
        let trusted = Trusted::find();
        for (depth, path) in library.ancestors().enumerate() {
            let metadata = path.metadata()?;
            let problem = if depth < 2 {
                trusted.problem_with(&metadata)
            } else {
                let is_open = metadata.mode() & (OTHERS_WRITE | STICKY) == OTHERS_WRITE;
                is_open.then_some("is writable by everyone")
            };
            if let Some(problem) = problem {
                return Ok(Some(format!("not trusted: `{}` {problem}", path.display())));
            }
        }
        Ok(None)
    }

    struct Trusted {
        users: Vec<u32>,
    }

    impl Trusted {
        fn find() -> Self {
            let program = std::env::current_exe().and_then(|path: PathBuf| path.metadata());
            let owner = program.ok().map(|metadata| metadata.uid());
            Self { users: [0, geteuid().as_raw()].into_iter().chain(owner).collect() }
        }

        fn problem_with(&self, metadata: &Metadata) -> Option<&'static str> {
            let (mode, group) = (metadata.mode(), metadata.gid());
            let is_own_group = group < USER_GROUPS || group == getegid().as_raw();
            if !self.users.contains(&metadata.uid()) {
                Some("belongs to another user")
            } else if mode & OTHERS_WRITE != 0 {
                Some("is writable by everyone")
            } else if mode & GROUP_WRITES != 0 && !is_own_group {
                Some("is writable by other users of its group")
            } else {
                None
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs::{Permissions, create_dir, set_permissions},
        os::unix::fs::PermissionsExt,
        path::Path,
    };

    use super::{has_sha256, trust_problem};

    #[test]
    fn files_writable_by_others_are_not_trusted() {
        let set_mode = |path: &Path, mode| {
            set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("lib");
        create_dir(&folder).unwrap();
        let library = folder.join("libonnxruntime.so");
        drop(std::fs::File::create(&library).unwrap());
        set_mode(&folder, 0o755);
        set_mode(&library, 0o644);
        assert_eq!(trust_problem(&library), None);
        for (path, mode) in
            [(&*library, 0o666), (&*folder, 0o777), (&*folder, 0o1777), (dir.path(), 0o777)]
        {
            let before = path.metadata().unwrap().permissions();
            set_mode(path, mode);
            let problem = trust_problem(&library).unwrap_or_default();
            assert!(problem.contains("by everyone"), "{} {mode:o}: {problem}", path.display());
            set_permissions(path, before).unwrap();
        }
        // Like `/tmp`: others may add files but not replace any.
        set_mode(dir.path(), 0o1777);
        assert_eq!(trust_problem(&library), None);
        // A link needs a trusted folder of its own, and a target.
        let link = dir.path().join("link.so");
        std::os::unix::fs::symlink(&library, &link).unwrap();
        assert!(trust_problem(&link).is_some());
        set_mode(dir.path(), 0o700);
        assert_eq!(trust_problem(&link), None);
        set_mode(&folder, 0o777);
        assert!(trust_problem(&link).is_some());
        assert!(trust_problem(&folder.join("none.so")).is_some());
    }

    #[test]
    fn a_file_is_identified_by_its_digest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty_file = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(has_sha256(file.path(), empty_file).unwrap());
        std::fs::File::options().append(true).open(file.path()).unwrap().set_len(1).unwrap();
        assert!(!has_sha256(file.path(), empty_file).unwrap());
    }
}
