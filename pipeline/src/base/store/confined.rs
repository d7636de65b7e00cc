//! A local folder with confined access: no link below it is followed out of it, and no file that is read
//! or written is a link.
//!
//! Anyone who can create files in a folder can also create links: a part, lock or sidecar that links to a
//! user's file would overwrite or expose that file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    path::Path,
};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::{
    ambient_authority,
    fs::{Dir, DirBuilder, OpenOptions},
};

use crate::base::crash;

/// The mode of private folders.
#[cfg(unix)]
const PRIVATE: u32 = 0o700;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Confined(Dir);

impl Confined {
    /// Opens a folder. Follows links above it, but the folder itself must not be a link.
    ///
    /// # Errors
    ///
    /// The system's error, or that the folder is a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let ambient = |path| Dir::open_ambient_dir(path, ambient_authority());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return ambient(path).map(Self);
        };
        let parent = ambient(parent)?;
        let folder = parent.open_dir_nofollow(name);
        folder.map(Self).map_err(|error| with_link_hint(&parent, name, error))
    }

    /// Creates a folder and its missing parents, and opens it. If `is_private`, a created folder is only
    /// accessible to this user (mode 0700).
    ///
    /// # Errors
    ///
    /// The system's error, or that the folder is a link.
    pub(crate) fn make(path: &Path, is_private: bool) -> io::Result<Self> {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        if is_private {
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, PRIVATE);
        }
        match builder.create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Self::open(path),
        }
    }

    /// Creates a folder below this one and its missing parents, as in [`Self::make`].
    ///
    /// # Errors
    ///
    /// The system's error, or that a link leads out of this folder.
    pub(crate) fn make_dirs(&self, path: &Path, is_private: bool) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        if is_private {
            cap_std::fs::DirBuilderExt::mode(&mut builder, PRIVATE);
        }
        self.0.create_dir_with(path, builder.recursive(true))
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    ///
    /// The system's error, or that a link leads out of this folder.
    pub(crate) fn open_dir(&self, path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.0.open_dir(path).map(Self)
    }

    /// Opens the parent folder of a file below this one; returns the file's name too.
    ///
    /// # Errors
    ///
    /// The system's error, or that a link leads out of this folder.
    pub(crate) fn folder_of<'a>(&self, path: &'a Path) -> io::Result<(Self, &'a OsStr)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        Ok((self.open_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Reads a file of this folder, if it exists.
    ///
    /// # Errors
    ///
    /// The system's error, or that it is a link, is not a file, is longer than `bytes_max` or is not UTF-8.
    pub(crate) fn read_text(&self, name: &OsStr, bytes_max: u64) -> io::Result<Option<String>> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = match self.0.open_with(name, &options) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| with_link_hint(&self.0, name, error))?.into_std(),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = String::new();
        file.take(bytes_max + 1).read_to_string(&mut text)?;
        if text.len() as u64 > bytes_max {
            return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
        }
        Ok(Some(text))
    }

    /// Opens a file of this folder for locking, and creates it if missing.
    ///
    /// # Errors
    ///
    /// The system's error, or that the file is a link.
    pub(crate) fn open_lock(&self, name: &OsStr) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).follow(FollowSymlinks::No).nonblock(true);
        let file = self.0.open_with(name, &options);
        Ok(file.map_err(|error| with_link_hint(&self.0, name, error))?.into_std())
    }

    /// Writes a file as `unfinished` in `work`, syncs it, and renames it to `name` in this folder, on the
    /// same file system, so that the write is atomic. An existing link is itself replaced. The rename is
    /// only durable once the folder is synced.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn write_whole(
        &self,
        name: &OsStr,
        work: &Self,
        unfinished: &OsStr,
        bytes: &[u8],
    ) -> io::Result<()> {
        // Left by an interrupted run, or planted by somebody else.
        work.remove(unfinished)?;
        let mut file =
            work.0.open_with(unfinished, OpenOptions::new().write(true).create_new(true))?;
        crash::step();
        file.write_all(bytes)?;
        crash::step();
        file.sync_all()?;
        drop(file);
        crash::step();
        work.0.rename(unfinished, &self.0, name)?;
        crash::step();
        Ok(())
    }

    /// Removes a file of this folder; succeeds if it does not exist.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match self.0.remove_file(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Syncs this folder, which makes renames durable.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.open(".")?.sync_all()
    }
}

/// Replaces the error of opening a link by one that says so.
fn with_link_hint(dir: &Dir, name: &OsStr, error: io::Error) -> io::Error {
    let is_link = dir.symlink_metadata(name).is_ok_and(|stat| stat.is_symlink());
    if is_link { io::Error::other("it is a link, and links are not followed") } else { error }
}
