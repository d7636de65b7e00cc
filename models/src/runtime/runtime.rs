//! Finds and opens ONNX Runtime, and keeps it for the life of the process.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use legenda_schemas::cause::Cause;
use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    ep::{self, ExecutionProvider},
};

use super::{
    fetch,
    gpu::{self, Gpus},
    places::{self, Attempt, Place},
    probe,
    programs::find_in_path,
};

/// Returns the cache folder of this program: `LEGENDA_CACHE`, else in the user's cache folder.
pub(crate) fn cache_dir_from_env() -> Option<PathBuf> {
    let set = std::env::var_os("LEGENDA_CACHE").filter(|value| !value.is_empty());
    let folder = set.map(PathBuf::from);
    folder
        .or_else(|| dirs::cache_dir().map(|folder| folder.join("legenda")))
        .and_then(|folder| std::path::absolute(folder).ok())
}

/// The search path and setup of ONNX Runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// A library file that takes precedence over all others.
    pub dylib_path: Option<PathBuf>,
    /// The folder of this program.
    pub binary_dir: Option<PathBuf>,
    /// The cache folder of this program.
    pub cache_dir: Option<PathBuf>,
    /// The Python whose package is searched and whose `pip` downloads.
    pub python: Option<PathBuf>,
    /// Whether downloads are disabled.
    pub offline: bool,
    /// The number of compute threads, shared by all sessions; one per core by default.
    pub threads: Option<usize>,
    /// Whether this machine has a CUDA GPU, so that a CUDA build is preferred.
    pub has_gpu: bool,
    /// The folder for ONNX Runtime's profiles, a file for each session; nothing is profiled
    /// without it.
    pub profile_dir: Option<PathBuf>,
}

impl RuntimeOptions {
    /// Reads `ORT_DYLIB_PATH`, `LEGENDA_CACHE` (else the user's cache folder), `LEGENDA_OFFLINE`
    /// and `LEGENDA_PROFILE`, finds `python3` in `PATH` and detects GPUs.
    #[must_use]
    pub fn from_env() -> Self {
        let path = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let binary_dir = std::env::current_exe()
            .ok()
            .and_then(|file| file.canonicalize().unwrap_or(file).parent().map(Path::to_owned));
        let offline = std::env::var_os("LEGENDA_OFFLINE");
        Self {
            dylib_path: path("ORT_DYLIB_PATH"),
            binary_dir,
            cache_dir: cache_dir_from_env(),
            python: find_in_path("python3"),
            offline: offline.is_some_and(|value| !value.is_empty() && value != "0"),
            threads: None,
            has_gpu: !Gpus::find(false).is_empty(),
            profile_dir: path("LEGENDA_PROFILE"),
        }
    }
}

/// ONNX Runtime is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// No location has a usable library.
    #[error("{}", not_found(attempts))]
    NotFound {
        /// All searched locations, in order.
        attempts: Vec<Attempt>,
        /// The command that installs the runtime.
        command: String,
    },
    /// A library was loaded but its environment cannot be created.
    #[error("failed to start ONNX Runtime from `{}`", path.display())]
    Start {
        /// The library.
        path: PathBuf,
        /// The error of the runtime.
        source: Cause,
    },
}

impl RuntimeError {
    /// Returns a stable error code for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "onnxruntime_not_found",
            Self::Start { .. } => "onnxruntime_start",
        }
    }
}

fn not_found(attempts: &[Attempt]) -> String {
    let places: String = attempts.iter().map(|attempt| format!("\n  - {attempt}")).collect();
    format!("ONNX Runtime was not found; searched:{places}")
}

/// A loaded ONNX Runtime. It is cheap to clone; there is one per process.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    environment: Environment,
    version: String,
    path: PathBuf,
    found_by: Place,
    providers: Vec<&'static str>,
    options: RuntimeOptions,
}

/// The only runtime of the process: `ort` can load one library and create one environment.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Finds and opens ONNX Runtime. `progress` receives a human-readable line before and after a
    /// download.
    ///
    /// Uses the first library that opens and is new enough, in this order: `dylib_path`, the
    /// program folder, the cache, the Python package, a download into the cache. On a machine with
    /// a GPU, builds without CUDA are tried after those with it, except for `dylib_path`. A process
    /// opens one runtime: later calls return it, regardless of their options.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFound`] with all locations and reasons.
    pub fn open(options: &RuntimeOptions, progress: &dyn Fn(&str)) -> Result<Self, RuntimeError> {
        let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.clone());
        }
        let found = find(options, progress)?;
        let opened = start(found, options)?;
        *runtime = Some(opened.clone());
        Ok(opened)
    }

    /// Returns the version of the library.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Returns the library file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the location where it was found.
    #[must_use]
    pub fn found_by(&self) -> Place {
        self.0.found_by
    }

    /// Returns the execution providers in the library that Legenda can use.
    ///
    /// A provider that is built in may still fail to load: see
    /// [`choose_device`](Self::choose_device).
    #[must_use]
    pub fn providers(&self) -> &[&'static str] {
        &self.0.providers
    }

    /// Returns the cache folder of this program, if there is one.
    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.0.options.cache_dir.as_deref()
    }

    /// Returns the start of the name of a profile, if sessions are profiled.
    pub(super) fn profile(&self, graph: &str) -> Option<PathBuf> {
        self.0.options.profile_dir.as_ref().map(|folder| folder.join(graph))
    }

    /// Returns the command that installs a CUDA build of ONNX Runtime where Legenda finds it, or
    /// `None` if there is no build for this system.
    #[must_use]
    pub fn cuda_command(&self) -> Option<String> {
        let RuntimeOptions { python, cache_dir, .. } = &self.0.options;
        gpu::install_command(python.as_deref(), cache_dir.as_deref())
    }

    /// Returns the reason why CUDA does not start, and whether that is surprising on this machine.
    /// `failure` is the error of the CUDA provider, or `None` if the library has no such provider.
    pub(super) fn cuda_missing(&self, failure: Option<&str>) -> (String, bool) {
        let RuntimeOptions { has_gpu, cache_dir, .. } = &self.0.options;
        let installed = cache_dir.as_deref().map(gpu::install_folder);
        let is_installed = installed.is_some_and(|folder| self.path().starts_with(folder));
        let missing =
            gpu::CudaFailure { has_gpu: *has_gpu, library: self.path(), failure, is_installed };
        let command = if *has_gpu { self.cuda_command() } else { None };
        (missing.reason(command.as_deref()), missing.is_surprising())
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.0.environment
    }
}

struct Found {
    place: Place,
    path: PathBuf,
    version: String,
}

fn find(options: &RuntimeOptions, progress: &dyn Fn(&str)) -> Result<Found, RuntimeError> {
    let mut attempts = Vec::new();
    // Builds without CUDA, tried after all locations that may have a CUDA build.
    let mut fallbacks = Vec::new();
    for place in [Place::Variable, Place::BesideBinary, Place::Cache, Place::Python] {
        match places::candidates(place, options) {
            Err(attempt) => attempts.push(attempt),
            Ok(files) => {
                for path in files {
                    if is_fallback(place, &path, options.has_gpu) {
                        fallbacks.push((place, path));
                        continue;
                    }
                    match check_library(place, &path) {
                        Ok(version) => return Ok(Found { place, path, version }),
                        Err(reason) => attempts.push(Attempt { place, path: Some(path), reason }),
                    }
                }
            }
        }
    }
    for (place, path) in fallbacks {
        match check_library(place, &path) {
            Ok(version) => return Ok(Found { place, path, version }),
            Err(reason) => attempts.push(Attempt { place, path: Some(path), reason }),
        }
    }
    let place = Place::Fetch;
    let fetched = match (&options.cache_dir, &options.python) {
        _ if options.offline => Err("downloads are disabled".to_owned()),
        (Some(cache), Some(python)) => fetch::fetch(cache, python, progress)
            .and_then(|path| probe::version(&path).map(|version| (path, version))),
        (None, _) => Err("unknown cache folder".to_owned()),
        (_, None) => Err("Python was not found".to_owned()),
    };
    match fetched {
        Ok((path, version)) => Ok(Found { place, path, version }),
        Err(reason) => {
            attempts.push(Attempt { place, path: None, reason });
            let command = fetch::install_command(options.cache_dir.as_deref());
            Err(RuntimeError::NotFound { attempts, command })
        }
    }
}

/// Checks a library and returns its version, or the reason why it is not usable.
fn check_library(place: Place, library: &Path) -> Result<String, String> {
    match places::problem_with(place, library) {
        Some(problem) => Err(problem),
        None => probe::version(library),
    }
}

/// Returns whether a library is only a fallback: one without CUDA on a machine with a GPU, unless
/// the user named it.
fn is_fallback(place: Place, library: &Path, has_gpu: bool) -> bool {
    has_gpu && place != Place::Variable && !gpu::is_cuda_build(library)
}

fn start(found: Found, options: &RuntimeOptions) -> Result<Runtime, RuntimeError> {
    let Found { place, path, version } = found;
    let failed = |source: Cause| RuntimeError::Start { path: path.clone(), source };
    let builder = ort::init_from(&path).map_err(|error| failed(error.into()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // One pool for all sessions: with a pool each, encoder and decoder would compete for the cores.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(options.threads.unwrap_or(cores).max(1))
        .and_then(|pool| pool.with_inter_threads(1))
        // Idle threads must leave the cores to media decoding.
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(|error| failed(error.into()))?;
    let environment = builder
        .with_name("legenda")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(|error| failed(error.into()))?;
    tracing::debug!(version, path = %path.display(), found_by = %place, "opened onnx runtime");
    let providers = available_providers();
    let options = options.clone();
    Ok(Runtime(Arc::new(Inner { environment, version, path, found_by: place, providers, options })))
}

fn available_providers() -> Vec<&'static str> {
    fn name<P: ExecutionProvider>() -> Option<&'static str> {
        P::is_available().unwrap_or(false).then_some(P::NAME)
    }
    [name::<ep::CPU>(), name::<ep::CUDA>()].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Place, is_fallback};

    #[test]
    #[cfg(target_os = "linux")]
    fn with_a_gpu_builds_without_cuda_are_fallbacks() {
        let dir = tempfile::tempdir().unwrap();
        let with_cuda = dir.path().join("libonnxruntime.so");
        drop(std::fs::File::create(dir.path().join("libonnxruntime_providers_cuda.so")).unwrap());
        let without = Path::new("/nowhere/libonnxruntime.so");
        for place in [Place::BesideBinary, Place::Cache, Place::Python] {
            assert!(is_fallback(place, without, true) && !is_fallback(place, &with_cuda, true));
            assert!(!is_fallback(place, without, false), "without a GPU there is no preference");
        }
        assert!(!is_fallback(Place::Variable, without, true), "the user named it");
    }
}
