//! Finds ONNX Runtime, opens it, and holds it for the life of the process.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    ep::{self, ExecutionProvider},
};

use super::{
    fetch,
    gpu::{self, Gpus},
    places::{self, Attempt, Place},
    probe,
    programs::on_path,
};

/// Where to look for ONNX Runtime and how to set it up.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// A library file to take before all others.
    pub dylib_path: Option<PathBuf>,
    /// The folder of this program.
    pub binary_dir: Option<PathBuf>,
    /// The folder in which this program may keep files.
    pub cache_dir: Option<PathBuf>,
    /// The Python that is asked for its package and whose `pip` fetches.
    pub python: Option<PathBuf>,
    /// Whether to fetch nothing, ever.
    pub offline: bool,
    /// Threads that compute, shared by all sessions; one per core where left out.
    pub threads: Option<usize>,
    /// Whether this machine has a GPU for CUDA, so that a build with CUDA is taken before others.
    pub has_gpu: bool,
}

impl RuntimeOptions {
    /// Reads `ORT_DYLIB_PATH`, `LEGENDA_CACHE` (else the user's cache folder) and
    /// `LEGENDA_OFFLINE`; takes `python3` from the path; looks for a GPU.
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
            cache_dir: path("LEGENDA_CACHE")
                .or_else(|| dirs::cache_dir().map(|folder| folder.join("legenda")))
                .and_then(|folder| std::path::absolute(folder).ok()),
            python: on_path("python3"),
            offline: offline.is_some_and(|value| !value.is_empty() && value != "0"),
            threads: None,
            has_gpu: !Gpus::find(false).is_empty(),
        }
    }
}

/// ONNX Runtime cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// No place has a library that can be used.
    #[error("{}", not_found(attempts, command))]
    NotFound {
        /// Every place looked at, in order.
        attempts: Vec<Attempt>,
        /// The command that mends it.
        command: String,
    },
    /// A library was loaded but its environment cannot be made.
    #[error("cannot start ONNX Runtime from `{}`: {message}", path.display())]
    Start {
        /// The library.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

impl RuntimeError {
    /// Returns the label for reports: few and stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "onnxruntime_not_found",
            Self::Start { .. } => "onnxruntime_start",
        }
    }
}

fn not_found(attempts: &[Attempt], command: &str) -> String {
    let places: String = attempts.iter().map(|attempt| format!("\n  - {attempt}")).collect();
    format!("ONNX Runtime was not found; looked at{places}\nto mend it, run: {command}")
}

/// A running ONNX Runtime. Cheap to clone; the process has one.
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

/// The one runtime of the process: `ort` can load one library and make one environment.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Finds and opens ONNX Runtime; `progress` gets a line for a person before and after a fetch.
    ///
    /// Looks in this order, and takes the first library that opens and is new enough:
    /// `dylib_path`, beside the program, the cache, the Python package, a fetch into the cache. On a
    /// machine with a GPU builds without CUDA, but for `dylib_path`, come after those with it.
    /// A process opens one runtime: later calls return it, whatever their options.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::NotFound`] with every place and reason.
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

    /// Returns the place where it was found.
    #[must_use]
    pub fn found_by(&self) -> Place {
        self.0.found_by
    }

    /// Returns those execution providers Legenda can use that the library was built with.
    ///
    /// That one is built in does not mean that it loads: see
    /// [`choose_device`](Self::choose_device).
    #[must_use]
    pub fn providers(&self) -> &[&'static str] {
        &self.0.providers
    }

    /// Returns the command that installs a build of ONNX Runtime with CUDA where Legenda finds it;
    /// `None` where there is no such build for this system.
    #[must_use]
    pub fn cuda_command(&self) -> Option<String> {
        let RuntimeOptions { python, cache_dir, .. } = &self.0.options;
        gpu::install_command(python.as_deref(), cache_dir.as_deref())
    }

    /// Says why CUDA does not start, where the provider of the library said `failure`, or where the
    /// library has no provider for CUDA. Returns also whether that is surprising on this machine.
    pub(super) fn cuda_missing(&self, failure: Option<&str>) -> (String, bool) {
        let RuntimeOptions { has_gpu, cache_dir, .. } = &self.0.options;
        let installed = cache_dir.as_deref().map(gpu::install_folder);
        let is_installed = installed.is_some_and(|folder| self.path().starts_with(folder));
        let missing =
            gpu::Missing { has_gpu: *has_gpu, library: self.path(), failure, is_installed };
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
    // Builds without CUDA, while another place may have one with it.
    let mut later = Vec::new();
    for place in [Place::Variable, Place::BesideBinary, Place::Cache, Place::Python] {
        match places::candidates(place, options) {
            Err(attempt) => attempts.push(attempt),
            Ok(files) => {
                for path in files {
                    if waits(place, &path, options.has_gpu) {
                        later.push((place, path));
                        continue;
                    }
                    match opened(place, &path) {
                        Ok(version) => return Ok(Found { place, path, version }),
                        Err(reason) => attempts.push(Attempt { place, path: Some(path), reason }),
                    }
                }
            }
        }
    }
    for (place, path) in later {
        match opened(place, &path) {
            Ok(version) => return Ok(Found { place, path, version }),
            Err(reason) => attempts.push(Attempt { place, path: Some(path), reason }),
        }
    }
    let place = Place::Fetch;
    let fetched = match (&options.cache_dir, &options.python) {
        _ if options.offline => Err("switched off".to_owned()),
        (Some(cache), Some(python)) => fetch::fetch(cache, python, progress)
            .and_then(|path| probe::version(&path).map(|version| (path, version))),
        (None, _) => Err("no cache folder is known".to_owned()),
        (_, None) => Err("no Python is known".to_owned()),
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

/// Opens a library of a place, if it may be loaded; returns its version, or why it cannot be used.
fn opened(place: Place, library: &Path) -> Result<String, String> {
    match places::problem_with(place, library) {
        Some(problem) => Err(problem),
        None => probe::version(library),
    }
}

/// Returns whether a library is taken only where no other is found: on a machine with a GPU one without
/// CUDA, unless somebody named it.
fn waits(place: Place, library: &Path, has_gpu: bool) -> bool {
    has_gpu && place != Place::Variable && !gpu::is_cuda_build(library)
}

fn start(found: Found, options: &RuntimeOptions) -> Result<Runtime, RuntimeError> {
    let Found { place, path, version } = found;
    let failed = |message: String| RuntimeError::Start { path: path.clone(), message };
    let builder = ort::init_from(&path).map_err(|error| failed(error.to_string()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // One pool for all sessions: a pool each would have encoder and decoder fight over the cores.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(options.threads.unwrap_or(cores).max(1))
        .and_then(|pool| pool.with_inter_threads(1))
        // Waiting threads must leave the cores to decoding of media.
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(|error| failed(error.to_string()))?;
    let environment = builder
        .with_name("legenda")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(|error| failed(error.to_string()))?;
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

    use super::{Place, waits};

    #[test]
    #[cfg(target_os = "linux")]
    fn on_a_machine_with_a_gpu_builds_without_cuda_come_last() {
        let dir = tempfile::tempdir().unwrap();
        let with_cuda = dir.path().join("libonnxruntime.so");
        drop(std::fs::File::create(dir.path().join("libonnxruntime_providers_cuda.so")).unwrap());
        let without = Path::new("/nowhere/libonnxruntime.so");
        for place in [Place::BesideBinary, Place::Cache, Place::Python] {
            assert!(waits(place, without, true) && !waits(place, &with_cuda, true));
            assert!(!waits(place, without, false), "without a GPU the first is as good");
        }
        assert!(!waits(Place::Variable, without, true), "somebody named it");
    }
}
