//! The files of a bundle, on disk or in memory.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::BundleError;

/// Where the files of a bundle are.
pub(crate) enum BundleFiles {
    /// In a directory.
    Directory(PathBuf),
    /// In memory, as (path relative to the bundle, content).
    Memory(Vec<(Cow<'static, str>, Cow<'static, [u8]>)>),
}

impl std::fmt::Debug for BundleFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Memory(files) => write!(f, "Memory({} files)", files.len()),
        }
    }
}

/// How transformers.js marks the precision of a graph's weights, the best first.
const PRECISION_SUFFIXES: [&str; 8] =
    ["", "_fp16", "_quantized", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4"];

/// A graph, ready to be opened by the runtime.
#[derive(Debug)]
pub(crate) enum GraphSource<'a> {
    /// On disk, where external data is found beside it.
    Path(PathBuf),
    /// In memory.
    Bytes(&'a [u8]),
}

impl BundleFiles {
    pub(super) fn directory(path: &Path) -> Result<Self, BundleError> {
        fs::read_dir(path)
            .map_err(|source| BundleError::Directory { path: path.to_owned(), source })?;
        Ok(Self::Directory(path.to_owned()))
    }

    /// Returns a file's content, or `None` if the bundle has no such file.
    fn find(&self, file: &str) -> Result<Option<Cow<'_, [u8]>>, BundleError> {
        match self {
            Self::Memory(files) => Ok(files
                .iter()
                .find(|(name, _)| name == file)
                .map(|(_, content)| Cow::Borrowed(content.as_ref()))),
            Self::Directory(path) => match fs::read(path.join(file)) {
                Ok(content) => Ok(Some(Cow::Owned(content))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(BundleError::Read { file: file.to_owned(), source }),
            },
        }
    }

    /// Returns whether the bundle has a file.
    pub(super) fn has(&self, file: &str) -> Result<bool, BundleError> {
        match self {
            Self::Memory(files) => Ok(files.iter().any(|(name, _)| name == file)),
            Self::Directory(path) => path
                .join(file)
                .try_exists()
                .map_err(|source| BundleError::Read { file: file.to_owned(), source }),
        }
    }

    /// Returns a file's content.
    pub(crate) fn bytes(&self, file: &str) -> Result<Cow<'_, [u8]>, BundleError> {
        self.find(file)?.ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })
    }

    /// Returns a file's content as text, or `None` if the bundle has no such file.
    pub(crate) fn text_if_there(&self, file: &str) -> Result<Option<String>, BundleError> {
        self.find(file)?
            .map(|content| {
                String::from_utf8(content.into_owned()).map_err(|error| BundleError::InvalidJson {
                    file: file.to_owned(),
                    message: error.to_string(),
                })
            })
            .transpose()
    }

    pub(super) fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, BundleError> {
        self.json_if_there(file)?.ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })
    }

    /// Reads a JSON file, or `None` if the bundle has no such file.
    pub(crate) fn json_if_there<T: DeserializeOwned>(
        &self,
        file: &str,
    ) -> Result<Option<T>, BundleError> {
        self.find(file)?
            .map(|content| {
                serde_json::from_slice(&content).map_err(|error| BundleError::InvalidJson {
                    file: file.to_owned(),
                    message: error.to_string(),
                })
            })
            .transpose()
    }

    /// Returns a graph by its base name: `onnx/{name}.onnx`, or `{name}.onnx` at the root, where
    /// optimum writes it; in full precision if it is there, else the first of the others.
    pub(crate) fn graph(&self, name: &str) -> Result<GraphSource<'_>, BundleError> {
        for suffix in PRECISION_SUFFIXES {
            for file in [format!("onnx/{name}{suffix}.onnx"), format!("{name}{suffix}.onnx")] {
                if let Some(source) = self.graph_file(&file)? {
                    return Ok(source);
                }
            }
        }
        Err(BundleError::MissingFile { file: format!("onnx/{name}.onnx") })
    }

    fn graph_file(&self, file: &str) -> Result<Option<GraphSource<'_>>, BundleError> {
        Ok(match self {
            Self::Memory(files) => {
                let found = files.iter().find(|(name, _)| name == file);
                found.map(|(_, content)| GraphSource::Bytes(content))
            }
            Self::Directory(path) => self.has(file)?.then(|| GraphSource::Path(path.join(file))),
        })
    }

    /// Returns one SHA-256 over the names, sizes and contents of all files, names in order.
    ///
    /// In a directory these are the configs, templates and graphs at its root and in `onnx/`, and
    /// the modules of sentence-transformers; a model card or a licence does not change answers.
    pub(super) fn revision(&self) -> Result<String, BundleError> {
        let mut hasher = Sha256::new();
        match self {
            Self::Memory(files) => {
                let mut files: Vec<_> = files.iter().collect();
                files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                for (name, content) in files {
                    hash_header(&mut hasher, name, content.len() as u64);
                    hasher.update(content);
                }
            }
            Self::Directory(root) => {
                for file in list(root)? {
                    hash_file(&mut hasher, root, &file)
                        .map_err(|source| BundleError::Read { file, source })?;
                }
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn list(root: &Path) -> Result<Vec<String>, BundleError> {
    let mut files = Vec::new();
    let mut folders = vec![String::new(), "onnx".to_owned()];
    folders.extend(modules(root)?);
    for folder in &folders {
        let path = root.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BundleError::Directory { path, source }),
        };
        for entry in entries {
            let entry =
                entry.map_err(|source| BundleError::Directory { path: path.clone(), source })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // `.onnx_data` and `.onnx.data` are the weights that graphs keep outside.
            let counts = [".json", ".jinja"].iter().any(|end| name.ends_with(end))
                || name.contains(".onnx")
                || !folder.is_empty() && name.ends_with(".safetensors");
            if counts && entry.path().is_file() {
                files.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Returns the folders of sentence-transformers' modules: `1_Pooling`, `2_Dense`.
fn modules(root: &Path) -> Result<Vec<String>, BundleError> {
    let error = |source| BundleError::Directory { path: root.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.split_once('_').map_or("", |(number, _)| number);
        if number.parse::<u32>().is_ok() && entry.path().is_dir() {
            found.push(name);
        }
    }
    Ok(found)
}

fn hash_header(hasher: &mut Sha256, name: &str, len: u64) {
    hasher.update((name.len() as u64).to_le_bytes());
    hasher.update(name);
    hasher.update(len.to_le_bytes());
}

fn hash_file(hasher: &mut Sha256, root: &Path, name: &str) -> io::Result<()> {
    let mut file = File::open(root.join(name))?;
    hash_header(hasher, name, file.metadata()?.len());
    // Graphs can be larger than memory allows.
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n_read = file.read(&mut buffer)?;
        if n_read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..n_read]);
    }
}
