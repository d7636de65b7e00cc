//! The search path for ONNX Runtime, in order.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{RuntimeOptions, fetch, gpu, programs::isolated, trust::trust_problem};

/// The kinds of locations of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The path in `ORT_DYLIB_PATH`.
    Variable,
    /// The folder of this program and its subfolder `lib`.
    BesideBinary,
    /// The cache of this program.
    Cache,
    /// An installed Python package `onnxruntime`.
    Python,
    /// A download into the cache.
    Fetch,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => "ORT_DYLIB_PATH",
            Self::BesideBinary => "beside the program",
            Self::Cache => "cache",
            Self::Python => "Python package onnxruntime",
            Self::Fetch => "download",
        })
    }
}

/// A location that was searched without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The kind of location.
    pub place: Place,
    /// The file or folder, if there is one.
    pub path: Option<PathBuf>,
    /// The reason why it is not used.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} (`{}`): {}", self.place, path.display(), self.reason),
            None => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

/// Returns the reason why a library must not be loaded, if there is one. A library that the user
/// named is trusted; one in a Python package is trusted like that Python.
pub(super) fn problem_with(place: Place, library: &Path) -> Option<String> {
    match place {
        Place::Variable | Place::Python => None,
        Place::BesideBinary | Place::Fetch => trust_problem(library),
        Place::Cache => trust_problem(library).or_else(|| fetch::problem_with(library)),
    }
}

/// Returns the library files of a location that needs no download, or the reason why there are
/// none.
pub(super) fn candidates(place: Place, options: &RuntimeOptions) -> Result<Vec<PathBuf>, Attempt> {
    let nothing = |path: Option<&Path>, reason: &str| Attempt {
        place,
        path: path.map(Path::to_owned),
        reason: reason.to_owned(),
    };
    match place {
        Place::Variable => match &options.dylib_path {
            Some(path) => Ok(vec![path.clone()]),
            None => Err(nothing(None, "not set")),
        },
        Place::BesideBinary => {
            let Some(folder) = &options.binary_dir else {
                return Err(nothing(None, "unknown program folder"));
            };
            let mut files = libraries_in(folder).unwrap_or_default();
            files.extend(libraries_in(&folder.join("lib")).unwrap_or_default());
            non_empty(files).ok_or_else(|| nothing(Some(folder), "no library found"))
        }
        Place::Cache => {
            let Some(folder) = options.cache_dir.as_deref().map(fetch::cache_folder) else {
                return Err(nothing(None, "unknown cache folder"));
            };
            let file = folder.join(fetch::LIBRARY_FILE);
            let installed = options.cache_dir.as_deref().map(gpu::install_folder);
            let installed = installed.into_iter().chain([folder.clone()]).flat_map(|folder| {
                libraries_in(&folder.join("onnxruntime").join("capi")).unwrap_or_default()
            });
            match file.try_exists() {
                Ok(exists) => {
                    let files = exists.then_some(file).into_iter();
                    let files = files.chain(installed).collect();
                    non_empty(files).ok_or_else(|| nothing(Some(&folder), "no library found"))
                }
                Err(error) => Err(nothing(Some(&folder), &error.to_string())),
            }
        }
        Place::Python => python_folder(options)
            .and_then(|folder| {
                let files = libraries_in(&folder).map_err(|error| error.to_string())?;
                non_empty(files).ok_or_else(|| format!("no library in `{}`", folder.display()))
            })
            .map_err(|reason| nothing(options.python.as_deref(), &reason)),
        Place::Fetch => Ok(Vec::new()),
    }
}

fn non_empty(files: Vec<PathBuf>) -> Option<Vec<PathBuf>> {
    (!files.is_empty()).then_some(files)
}

/// Returns the files in a folder that look like ONNX Runtime itself, newest name first.
fn libraries_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_library_name(name) {
            files.push(path);
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

/// Accepts `libonnxruntime.so`, `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib` and
/// `onnxruntime.dll`, but not the libraries of single providers.
fn is_library_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(std::env::consts::DLL_PREFIX) else { return false };
    let Some(rest) = rest.strip_prefix("onnxruntime.") else { return false };
    format!(".{rest}").contains(std::env::consts::DLL_SUFFIX)
}

/// Returns the folder of the Python package, without importing it.
fn python_folder(options: &RuntimeOptions) -> Result<PathBuf, String> {
    const SCRIPT: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                          print(s.submodule_search_locations[0] if s else '')";
    let python = options.python.as_deref().ok_or("Python was not found")?;
    let output = isolated(python)
        .args(["-c", SCRIPT])
        .output()
        .map_err(|error| format!("failed to run it: {error}"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || folder.is_empty() {
        let python = python.display();
        return Err(format!("`{python} -I` does not find the package `onnxruntime`"));
    }
    Ok(Path::new(&folder).join("capi"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_runtime_itself_is_a_library() {
        assert!(is_library_name("libonnxruntime.so"));
        assert!(is_library_name("libonnxruntime.so.1.31.1"));
        assert!(!is_library_name("libonnxruntime_providers_shared.so"));
        assert!(!is_library_name("onnxruntime_pybind11_state.so"));
        assert!(!is_library_name("libonnxruntime.txt"));
    }
}
