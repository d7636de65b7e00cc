//! The files of a bundle, on disk or in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use legenda_schemas::precision::{Precision, PrecisionChoice};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::graphs::{ADAPTER, is_module_folder};
use crate::{
    config::BundleError,
    graph::{GraphSource, external_locations},
    kept::{Kept, Key},
};

/// The maximum size of `tokenizer.json`: a few times that of a vocabulary of 250,000 tokens.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
/// The maximum size of other JSON files and of model cards.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// The maximum size of a chat template.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Returns the maximum size of a file that is read into memory; `None` for weights.
fn bytes_max(file: &str) -> Option<u64> {
    let (name, end) = file.rsplit_once('.')?;
    match end {
        "json" if name == "tokenizer" || name.ends_with("/tokenizer") => Some(TOKENIZER_BYTES_MAX),
        "json" | "md" => Some(CONFIG_BYTES_MAX),
        "jinja" => Some(TEMPLATE_BYTES_MAX),
        _ => None,
    }
}

/// The files of a bundle, and the selected precisions of its graphs.
#[derive(Debug)]
pub(crate) struct BundleFiles {
    place: Place,
    precision: PrecisionChoice,
    /// The graph files that a config renames, by graph name.
    named: BTreeMap<&'static str, String>,
    /// The digests of directories.
    digests: Kept,
}

/// The folder of kept digests, in the cache folder.
const DIGESTS: &str = "digests";

/// The location of the files.
enum Place {
    /// In a directory.
    Directory(Folder),
    /// In memory, as pairs of (path relative to the bundle, content).
    Memory(Vec<(Cow<'static, str>, Cow<'static, [u8]>)>),
}

/// A directory of files.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    /// The directories that links may resolve to: the directory itself and, for a snapshot in the
    /// Hub cache, the blobs of its repository.
    homes: Vec<PathBuf>,
    /// The files and sizes of the repository, if known. Some may not be fetched yet.
    listing: Option<BTreeMap<String, Option<u64>>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(folder) => folder.fmt(f),
            Self::Memory(files) => write!(f, "Memory({} files)", files.len()),
        }
    }
}

impl Folder {
    fn open(
        root: &Path,
        listing: Option<BTreeMap<String, Option<u64>>>,
    ) -> Result<Self, BundleError> {
        let failed = |source| BundleError::Directory { path: root.to_owned(), source };
        fs::read_dir(root).map_err(failed)?;
        let home = root.canonicalize().map_err(failed)?;
        // For a snapshot, or a folder in one.
        let blobs = home
            .ancestors()
            .skip(1)
            .find(|above| above.file_name().is_some_and(|name| name == "snapshots"))
            .and_then(Path::parent)
            .and_then(|repo| repo.join("blobs").canonicalize().ok());
        Ok(Self {
            root: root.to_owned(),
            homes: blobs.into_iter().chain([home]).collect(),
            listing,
        })
    }

    /// Returns the path of a file, or `None` if it does not exist.
    fn path_of(&self, file: &str) -> Result<Option<PathBuf>, BundleError> {
        let path = self.root.join(file);
        match path.canonicalize() {
            Ok(real) if self.homes.iter().any(|home| real.starts_with(home)) => Ok(Some(path)),
            Ok(target) => Err(BundleError::Outside { file: file.to_owned(), target }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BundleError::Read { file: file.to_owned(), source }),
        }
    }

    fn has(&self, file: &str) -> Result<bool, BundleError> {
        match &self.listing {
            Some(listing) => Ok(listing.contains_key(file)),
            None => self.path_of(file).map(|path| path.is_some()),
        }
    }

    fn find(&self, file: &str) -> Result<Option<Vec<u8>>, BundleError> {
        if !self.has(file)? {
            return Ok(None);
        }
        let unreadable = |source| BundleError::Read { file: file.to_owned(), source };
        // A repository file that is not fetched must not be taken for a file that the repository
        // lacks.
        let path = self.path_of(file)?.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?;
        let file_there = File::open(path).map_err(unreadable)?;
        let bytes = file_there.metadata().map_err(unreadable)?.len();
        if let Some(limit) = bytes_max(file).filter(|limit| bytes > *limit) {
            return Err(BundleError::TooLarge { file: file.to_owned(), bytes, limit });
        }
        let mut content = Vec::new();
        // Reads at most the size at opening, in case the file grows.
        file_there.take(bytes).read_to_end(&mut content).map_err(unreadable)?;
        Ok(Some(content))
    }

    fn size(&self, file: &str) -> Option<u64> {
        let listed = self.listing.as_ref().and_then(|listing| listing.get(file).copied().flatten());
        listed.or_else(|| fs::metadata(self.root.join(file)).ok().map(|data| data.len()))
    }
}

impl BundleFiles {
    /// Opens a directory.
    pub(crate) fn directory(path: &Path, precision: PrecisionChoice) -> Result<Self, BundleError> {
        Ok(Self::of(Place::Directory(Folder::open(path, None)?), precision))
    }

    /// Keeps digests in the cache folder.
    pub(crate) fn keeping_digests(self, cache_dir: Option<&Path>) -> Self {
        Self { digests: Kept::of(cache_dir, DIGESTS), ..self }
    }

    /// Opens the directory of a repository whose files are in `listing`. Some of them may not be in
    /// the directory.
    pub(crate) fn listed(
        path: &Path,
        listing: BTreeMap<String, Option<u64>>,
        precision: PrecisionChoice,
    ) -> Result<Self, BundleError> {
        Ok(Self::of(Place::Directory(Folder::open(path, Some(listing))?), precision))
    }

    /// Creates a bundle of files in memory.
    pub(super) fn memory(
        files: Vec<(Cow<'static, str>, Cow<'static, [u8]>)>,
        precision: PrecisionChoice,
    ) -> Self {
        Self::of(Place::Memory(files), precision)
    }

    fn of(place: Place, precision: PrecisionChoice) -> Self {
        Self { place, precision, named: BTreeMap::new(), digests: Kept::of(None, DIGESTS) }
    }

    /// Uses `file` as the graph `name`.
    pub(super) fn name_graph(&mut self, name: &'static str, file: &str) -> Result<(), BundleError> {
        let inside = plain_path(file).ok_or_else(|| BundleError::Outside {
            file: file.to_owned(),
            target: PathBuf::from(file),
        })?;
        self.named.insert(name, inside);
        Ok(())
    }

    /// Returns the requested precisions.
    pub(super) fn precision(&self) -> &PrecisionChoice {
        &self.precision
    }

    /// Returns the content of a file, or `None` if it does not exist.
    fn find(&self, file: &str) -> Result<Option<Cow<'_, [u8]>>, BundleError> {
        match &self.place {
            Place::Memory(files) => Ok(files
                .iter()
                .find(|(name, _)| name == file)
                .map(|(_, content)| Cow::Borrowed(content.as_ref()))),
            Place::Directory(folder) => Ok(folder.find(file)?.map(Cow::Owned)),
        }
    }

    /// Returns whether the bundle has a file.
    pub(super) fn has(&self, file: &str) -> Result<bool, BundleError> {
        match &self.place {
            Place::Memory(files) => Ok(files.iter().any(|(name, _)| name == file)),
            Place::Directory(folder) => folder.has(file),
        }
    }

    /// Checks that a file exists locally.
    pub(super) fn expect(&self, file: &str) -> Result<(), BundleError> {
        let is_here = match &self.place {
            Place::Memory(_) => self.has(file)?,
            Place::Directory(folder) => folder.path_of(file)?.is_some(),
        };
        is_here.then_some(()).ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })
    }

    /// Returns the size of a file in bytes, if known.
    pub(super) fn size(&self, file: &str) -> Option<u64> {
        match &self.place {
            Place::Memory(files) => {
                let found = files.iter().find(|(name, _)| name == file);
                found.map(|(_, content)| content.len() as u64)
            }
            Place::Directory(folder) => folder.size(file),
        }
    }

    /// Returns the files of the repository listing for which `is_wanted` is true.
    pub(super) fn listed_with(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let Place::Directory(Folder { listing: Some(listing), .. }) = &self.place else {
            return Vec::new();
        };
        listing.keys().filter(|name| is_wanted(name)).cloned().collect()
    }

    /// Returns the content of a file.
    pub(crate) fn bytes(&self, file: &str) -> Result<Cow<'_, [u8]>, BundleError> {
        self.find(file)?.ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })
    }

    /// Returns the content of a text file, or `None` if it does not exist.
    pub(crate) fn text_if_there(&self, file: &str) -> Result<Option<String>, BundleError> {
        self.find(file)?
            .map(|content| {
                String::from_utf8(content.into_owned()).map_err(|error| BundleError::InvalidJson {
                    file: file.to_owned(),
                    source: error.into(),
                })
            })
            .transpose()
    }

    pub(super) fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, BundleError> {
        self.json_if_there(file)?.ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })
    }

    /// Reads a JSON file; `None` if it does not exist.
    pub(crate) fn json_if_there<T: DeserializeOwned>(
        &self,
        file: &str,
    ) -> Result<Option<T>, BundleError> {
        self.find(file)?
            .map(|content| {
                serde_json::from_slice(&content).map_err(|error| BundleError::InvalidJson {
                    file: file.to_owned(),
                    source: error.into(),
                })
            })
            .transpose()
    }

    /// Returns the available precisions of a graph with their files: `onnx/{name}.onnx`, or
    /// `{name}.onnx` at the root, where optimum writes it. A file named by a config counts as the
    /// graph without a suffix.
    pub(super) fn precisions(&self, name: &str) -> Result<Vec<(Precision, String)>, BundleError> {
        if let Some(file) = self.named.get(name) {
            let is_there = self.has(file)?;
            let missing = || BundleError::MissingFile { file: file.clone() };
            return is_there.then(|| vec![(Precision::Fp32, file.clone())]).ok_or_else(missing);
        }
        let mut found = Vec::new();
        for precision in Precision::ALL {
            let suffix = precision.suffix();
            for file in [format!("onnx/{name}{suffix}.onnx"), format!("{name}{suffix}.onnx")] {
                if self.has(&file)? {
                    found.push((precision, file));
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Returns the file of a graph in the requested precision, or else in the first available one.
    pub(super) fn graph_file(&self, name: &str) -> Result<(Precision, String), BundleError> {
        let there = self.precisions(name)?;
        let Some(first) = there.first() else {
            return Err(BundleError::MissingFile { file: format!("onnx/{name}.onnx") });
        };
        let Some(wanted) = self.precision.for_graph(name) else { return Ok(first.clone()) };
        let found = there.iter().find(|(precision, _)| *precision == wanted).cloned();
        found.ok_or_else(|| BundleError::MissingPrecision {
            graph: name.to_owned(),
            wanted,
            there: there.into_iter().map(|(precision, _)| precision).collect(),
        })
    }

    /// Returns a graph by its base name, ready to be opened.
    ///
    /// Its external data files are checked: they must exist and be in the bundle.
    pub(crate) fn graph(&self, name: &str) -> Result<GraphSource<'_>, BundleError> {
        let (_, file) = self.graph_file(name)?;
        match &self.place {
            Place::Memory(files) => {
                let found = files.iter().find(|(name, _)| *name == file);
                let found = found.map(|(_, content)| GraphSource::Bytes(content));
                found.ok_or(BundleError::MissingFile { file })
            }
            Place::Directory(folder) => {
                for data in self.external_data(&file)? {
                    folder.path_of(&data)?.ok_or(BundleError::MissingFile { file: data })?;
                }
                folder
                    .path_of(&file)?
                    .map(GraphSource::Path)
                    .ok_or(BundleError::MissingFile { file })
            }
        }
    }

    /// Returns the external data files of a graph, relative to the bundle. A graph in memory has
    /// none.
    pub(crate) fn external_data(&self, file: &str) -> Result<Vec<String>, BundleError> {
        let Place::Directory(folder) = &self.place else { return Ok(Vec::new()) };
        let path = folder
            .path_of(file)?
            .ok_or_else(|| BundleError::MissingFile { file: file.to_owned() })?;
        let locations = external_locations(&path)
            .map_err(|source| BundleError::InvalidGraph { file: file.to_owned(), source })?;
        let parent = file.rsplit_once('/').map_or("", |(parent, _)| parent);
        let mut files = BTreeSet::new();
        for location in locations {
            let Some(inside) = plain_path(&location) else {
                let target = PathBuf::from(location);
                return Err(BundleError::Outside { file: file.to_owned(), target });
            };
            files.insert(if parent.is_empty() { inside } else { format!("{parent}/{inside}") });
        }
        Ok(files.into_iter().collect())
    }

    /// Returns one SHA-256 over the names, sizes and contents of all files that affect answers,
    /// sorted by name: configs, templates, and `graphs` with their external data.
    ///
    /// Reading takes 0.8 CPU-seconds per gigabyte, so the digest of a directory is kept until one of
    /// the files changes.
    pub(super) fn digest(&self, graphs: &[&str]) -> Result<String, BundleError> {
        let mut hasher = Sha256::new();
        match &self.place {
            Place::Memory(files) => {
                let mut files: Vec<_> = files.iter().collect();
                files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                for (name, content) in files {
                    hash_header(&mut hasher, name, content.len() as u64);
                    hasher.update(content);
                }
            }
            Place::Directory(folder) => {
                let mut files = list_configs(&folder.root)?;
                for graph in graphs {
                    files.insert((*graph).to_owned());
                    files.extend(self.external_data(graph)?);
                }
                let mut key = Key::new();
                let mut paths = Vec::with_capacity(files.len());
                for file in files {
                    let path = folder.path_of(&file)?;
                    let path =
                        path.ok_or_else(|| BundleError::MissingFile { file: file.clone() })?;
                    key.add(file.as_bytes());
                    key.add_file(&path);
                    paths.push((file, path));
                }
                if let Some(digest) = self.digests.get(&key) {
                    return Ok(digest);
                }
                for (file, path) in paths {
                    hash_file(&mut hasher, &path, &file)
                        .map_err(|source| BundleError::Read { file, source })?;
                }
                let digest = format!("{:x}", hasher.finalize());
                self.digests.put(&key, &digest);
                return Ok(digest);
            }
        }
        Ok(format!("{:x}", hasher.finalize()))
    }
}

/// Returns a relative path with `/` as the separator, or `None` if it is absolute or contains `..`.
fn plain_path(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Lists the configs, templates and adapters at the root, and the configs and weights of the
/// modules of sentence-transformers (`1_Pooling`, `2_Dense`). A model card or licence does not
/// change answers.
fn list_configs(root: &Path) -> Result<BTreeSet<String>, BundleError> {
    let mut files = BTreeSet::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let failed = |source| BundleError::Directory { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let at_root = folder.is_empty();
            let is_config = [".json", ".jinja", ADAPTER].iter().any(|end| name.ends_with(end))
                || !at_root && name.ends_with(".safetensors");
            if is_config && entry.path().is_file() {
                files.insert(if at_root { name } else { format!("{folder}/{name}") });
            } else if at_root && is_module_folder(&name) && entry.path().is_dir() {
                folders.push(name);
            }
        }
    }
    Ok(files)
}

fn hash_header(hasher: &mut Sha256, name: &str, len: u64) {
    hasher.update((name.len() as u64).to_le_bytes());
    hasher.update(name);
    hasher.update(len.to_le_bytes());
}

fn hash_file(hasher: &mut Sha256, path: &Path, name: &str) -> io::Result<()> {
    let mut file = File::open(path)?;
    hash_header(hasher, name, file.metadata()?.len());
    // Graphs can be larger than the memory, so they are streamed.
    io::copy(&mut file, hasher).map(drop)
}
