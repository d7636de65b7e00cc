//! Detects GPUs for CUDA, and how to make ONNX Runtime use them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    fetch::VERSION,
    programs::{find_in_path, isolated},
};

/// The systems for which `onnxruntime-gpu` has builds.
const SYSTEMS: [(&str, &str); 2] = [("linux", "x86_64"), ("windows", "x86_64")];

/// The CUDA GPUs of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// The names of the GPUs; a generic name if it is unknown.
    pub names: Vec<String>,
}

impl Gpus {
    /// Finds GPUs by the driver's device files, or by `nvidia-smi` if there are none or
    /// `with_names` is set.
    #[must_use]
    pub fn find(with_names: bool) -> Self {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let n_files = device_files();
        let listing = (with_names || n_files == 0).then(listing).flatten();
        Self::from_sources(visible.as_deref(), n_files, listing.as_deref())
    }

    /// Determines the GPUs from `CUDA_VISIBLE_DEVICES`, the number of device files and the output
    /// of `nvidia-smi -L`.
    fn from_sources(visible: Option<&str>, n_files: usize, listing: Option<&str>) -> Self {
        // CUDA ignores all devices after the first unknown one, and shows none if the list is
        // empty.
        let is_hidden = visible.is_some_and(|devices| {
            let first = devices.split(',').next().unwrap_or_default().trim();
            first.is_empty() || first.starts_with('-') || first == "NoDevFiles"
        });
        if is_hidden {
            return Self::default();
        }
        let names = listing.into_iter().flat_map(str::lines).filter_map(|line| {
            let name = line.strip_prefix("GPU ")?.split_once(": ")?.1;
            Some(name.split(" (UUID").next().unwrap_or(name).trim().to_owned())
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Self { names: vec!["NVIDIA GPU".to_owned(); n_files] };
        }
        Self { names }
    }

    /// Returns whether there are no GPUs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Returns the number of device files of NVIDIA's driver: `/dev/nvidia0` and so on.
fn device_files() -> usize {
    let is_device = |name: &str| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = std::fs::read_dir("/dev").into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_device)).count()
}

/// Returns the output of `nvidia-smi -L`, if it is installed and finds a driver.
fn listing() -> Option<String> {
    let program = find_in_path("nvidia-smi")?;
    let output = Command::new(program).arg("-L").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns whether a build of ONNX Runtime has the CUDA provider next to it.
pub(super) fn is_cuda_build(library: &Path) -> bool {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    library.with_file_name(format!("{DLL_PREFIX}onnxruntime_providers_cuda{DLL_SUFFIX}")).is_file()
}

/// Returns the folder in a cache for an installed CUDA build.
pub(super) fn install_folder(cache: &Path) -> PathBuf {
    cache.join("onnxruntime-gpu").join(VERSION)
}

/// Returns the command that installs a CUDA build of ONNX Runtime, with the CUDA and cuDNN
/// libraries that it needs, where Legenda finds it. Returns `None` if there is no build for this
/// system.
pub(super) fn install_command(python: Option<&Path>, cache: Option<&Path>) -> Option<String> {
    let system = (std::env::consts::OS, std::env::consts::ARCH);
    let python = python.filter(|_| SYSTEMS.contains(&system))?;
    let folder = cache.map(install_folder);
    Some(command_for(&python.to_string_lossy(), has_pip(python), folder.as_deref()))
}

fn command_for(python: &str, has_pip: bool, folder: Option<&Path>) -> String {
    let package = format!("\"onnxruntime-gpu[cuda,cudnn]=={VERSION}\"");
    let Some(folder) = folder else { return format!("{python} -m pip install {package}") };
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let target = quoted(folder);
    if has_pip {
        // Leaves the packages of the system unchanged.
        return format!("{python} -m pip install --target {target} {package}");
    }
    let home = folder.join("venv");
    let bin = home.join(if cfg!(windows) { "Scripts" } else { "bin" }).join("python");
    let (home, bin) = (quoted(&home), quoted(&bin));
    format!("{python} -m venv {home} && {bin} -m pip install --target {target} {package}")
}

fn has_pip(python: &Path) -> bool {
    let mut command = isolated(python);
    command.args(["-c", "import pip"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The facts about a CUDA provider that does not start.
#[derive(Clone, Copy, Debug)]
pub(super) struct CudaFailure<'a> {
    /// Whether the machine has a GPU.
    pub(super) has_gpu: bool,
    /// The loaded library.
    pub(super) library: &'a Path,
    /// The error of the provider; `None` if the library has no CUDA provider.
    pub(super) failure: Option<&'a str>,
    /// Whether the library is the one that the command installs.
    pub(super) is_installed: bool,
}

impl CudaFailure<'_> {
    /// Returns whether the user may expect a GPU to be used: not on a machine without one and with
    /// the default build of ONNX Runtime.
    pub(super) fn is_surprising(&self) -> bool {
        self.has_gpu || self.failure.is_some()
    }

    /// Returns the reason why CUDA does not work and how to fix it, given the install command.
    pub(super) fn reason(&self, command: Option<&str>) -> String {
        let library = self.library.display();
        let cause = match self.failure {
            None => format!("ONNX Runtime at `{library}` is built without CUDA"),
            Some(failure) => failure.trim().to_owned(),
        };
        if !self.has_gpu {
            return format!("no CUDA device was found, and {cause}");
        }
        match command {
            _ if self.is_installed => format!("{cause}; check the driver with `nvidia-smi`"),
            Some(command) => format!("{cause}; to use the GPU, run: {command}"),
            None => format!("{cause}; `onnxruntime-gpu` has no build for this system"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{CudaFailure, Gpus, command_for, is_cuda_build};

    const LISTING: &str =
        "GPU 0: NVIDIA H200 (UUID: GPU-6f1)\nGPU 1: NVIDIA H200 (UUID: GPU-6f2)\n";

    #[test]
    fn gpus_are_found_by_device_files_or_the_driver() {
        let found = |visible, n_files, listing| Gpus::from_sources(visible, n_files, listing).names;
        assert_eq!(found(None, 0, None), [""; 0]);
        assert_eq!(found(None, 0, Some("No devices were found\n")), [""; 0]);
        assert_eq!(found(None, 2, None), ["NVIDIA GPU", "NVIDIA GPU"]);
        assert_eq!(found(None, 0, Some(LISTING)), ["NVIDIA H200", "NVIDIA H200"]);
        assert_eq!(found(Some("0"), 2, Some(LISTING)).len(), 2);
        for hidden in ["", "-1", " -1,0", "NoDevFiles"] {
            assert_eq!(found(Some(hidden), 2, Some(LISTING)), [""; 0], "{hidden}");
        }
    }

    #[test]
    fn the_reason_for_missing_cuda_includes_a_remedy() {
        let library = Path::new("/cache/libonnxruntime.so");
        let cpu = CudaFailure { has_gpu: true, library, failure: None, is_installed: false };
        let reason = cpu.reason(Some("python3 -m pip install x"));
        assert!(
            reason.contains("built without CUDA")
                && reason.ends_with("run: python3 -m pip install x")
        );
        let broken = CudaFailure { failure: Some("libcudnn.so.9: cannot open"), ..cpu };
        assert!(
            broken.reason(Some("pip")).starts_with("libcudnn.so.9: cannot open; to use the GPU")
        );
        // Another installation would not help.
        let installed = CudaFailure { is_installed: true, ..broken };
        assert!(installed.reason(Some("pip")).contains("nvidia-smi"));
        assert!(!installed.reason(Some("pip")).contains("run: pip"));
        // Without a GPU, the reason is only shown if CUDA was requested.
        let none = CudaFailure { has_gpu: false, ..cpu };
        assert!(!none.is_surprising() && cpu.is_surprising());
        assert!(none.reason(Some("pip")).starts_with("no CUDA device was found"));
        assert!(!none.reason(Some("pip")).contains("run: pip"));
    }

    #[test]
    fn the_command_installs_where_legenda_searches() {
        let folder = Path::new("/home/me/.cache/legenda/onnxruntime-gpu/1.0");
        let command = command_for("python3", true, Some(folder));
        let target = "--target \"/home/me/.cache/legenda/onnxruntime-gpu/1.0\"";
        assert!(
            command.starts_with(&format!("python3 -m pip install {target} \"onnxruntime-gpu["))
        );
        let command = command_for("python3", false, Some(folder));
        assert!(command.starts_with("python3 -m venv ") && command.contains(target), "{command}");
        assert!(command_for("python3", true, None).starts_with("python3 -m pip install \"onnx"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_cuda_build_is_detected_by_its_provider() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libonnxruntime.so.1.31.1");
        assert!(!is_cuda_build(&library));
        drop(std::fs::File::create(dir.path().join("libonnxruntime_providers_cuda.so")).unwrap());
        assert!(is_cuda_build(&library));
    }
}
