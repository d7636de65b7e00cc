//! A folder of a disk that nothing leaves: no link below it is followed out of it, and no file that is
//! read or written is a link.
//!
//! Whoever may put files into a folder may put links there too: a part, a lock or a sidecar that is a link
//! to a file of the user would overwrite that file, or show what is in it.

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

use crate::crash;

/// The mode of folders that nobody else may look into.
#[cfg(unix)]
const PRIVATE: u32 = 0o700;

/// A folder that is open.
#[derive(Debug)]
pub(crate) struct Confined(Dir);

impl Confined {
    /// Opens a folder. Links above it are followed; it may not be one itself.
    ///
    /// # Errors
    ///
    /// The system's, or that it is a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let ambient = |path| Dir::open_ambient_dir(path, ambient_authority());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return ambient(path).map(Self);
        };
        let parent = ambient(parent)?;
        let folder = parent.open_dir_nofollow(name);
        folder.map(Self).map_err(|error| told(&parent, name, error))
    }

    /// Makes a folder and those above it, as needed, and opens it. If it is made and `is_private`, nobody but
    /// this user may look into it (mode 0700).
    ///
    /// # Errors
    ///
    /// The system's, or that it is a link.
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

    /// Makes a folder below this one, and those between, as [`Self::make`] does.
    ///
    /// # Errors
    ///
    /// The system's, or that a link leads out of this folder.
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
    /// The system's, or that a link leads out of this folder.
    pub(crate) fn open_dir(&self, path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.0.open_dir(path).map(Self)
    }

    /// Opens the folder that a file below this one lies in; returns the file's name too.
    ///
    /// # Errors
    ///
    /// The system's, or that a link leads out of this folder.
    pub(crate) fn folder_of<'a>(&self, path: &'a Path) -> io::Result<(Self, &'a OsStr)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        Ok((self.open_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Reads a file of this folder, if there is one.
    ///
    /// # Errors
    ///
    /// The system's, or that it is a link, is not a file, is longer than `bytes_max` or not UTF-8.
    pub(crate) fn read_text(&self, name: &OsStr, bytes_max: u64) -> io::Result<Option<String>> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = match self.0.open_with(name, &options) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| told(&self.0, name, error))?.into_std(),
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

    /// Opens a file of this folder to lock it, and makes it where there is none.
    ///
    /// # Errors
    ///
    /// The system's, or that it is a link.
    pub(crate) fn open_lock(&self, name: &OsStr) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).follow(FollowSymlinks::No).nonblock(true);
        let file = self.0.open_with(name, &options);
        Ok(file.map_err(|error| told(&self.0, name, error))?.into_std())
    }

    /// Writes a file as `unfinished` in `work`, syncs it, and renames it to `name` in this folder, on the
    /// same file system: it is there whole, or as it was before. A link that is there is replaced itself. The
    /// rename is durable only when the folder is synced too.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn write_whole(
        &self,
        name: &OsStr,
        work: &Self,
        unfinished: &OsStr,
        bytes: &[u8],
    ) -> io::Result<()> {
        // What a run that was cut off has left, or somebody has put there.
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

    /// Removes a file of this folder; one that is not there is as wanted.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match self.0.remove_file(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Makes renames in this folder durable.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.open(".")?.sync_all()
    }
}

/// Says of something that cannot be opened because it is a link that it is one.
fn told(dir: &Dir, name: &OsStr, error: io::Error) -> io::Error {
    let is_link = dir.symlink_metadata(name).is_ok_and(|stat| stat.is_symlink());
    if is_link { io::Error::other("it is a link, which is not followed") } else { error }
}
