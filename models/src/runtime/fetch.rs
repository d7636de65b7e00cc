//! Downloads the official CPU build into the cache once, with the user's own `pip`.
//!
//! `pip` knows the user's index, proxy and certificates, so no host is hard-coded here. The wheel
//! is pinned by version and SHA-256, which `pip` verifies.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{
    probe,
    programs::isolated,
    trust::{has_sha256, trust_problem},
};

/// The version to download.
pub(super) const VERSION: &str = "1.31.1";

/// The name of the library in the cache.
pub(super) const LIBRARY_FILE: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else if cfg!(target_os = "windows") {
    "onnxruntime.dll"
} else {
    "libonnxruntime.so"
};

/// A wheel of the pinned version.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    /// The platform tag passed to `pip`.
    platform: &'static str,
    sha256: &'static str,
    /// The path of the library in the wheel.
    library: &'static str,
    library_sha256: &'static str,
}

/// The CPython 3.12 wheels of [`VERSION`]. The library inside does not depend on Python.
const WHEELS: [Wheel; 3] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        library: "onnxruntime/capi/libonnxruntime.so.1.31.1",
        library_sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        library: "onnxruntime/capi/libonnxruntime.so.1.31.1",
        library_sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        platform: "macosx_14_0_arm64",
        sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        library: "onnxruntime/capi/libonnxruntime.1.31.1.dylib",
        library_sha256: "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
    },
];

/// Returns the wheel for this system.
fn wheel() -> Result<&'static Wheel, String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = WHEELS.iter().find(|wheel| wheel.os == os && wheel.arch == arch);
    wheel.ok_or_else(|| format!("no pinned build of ONNX Runtime {VERSION} for {os} on {arch}"))
}

/// Returns the reason why a cached library must not be loaded, if there is one: a downloaded
/// library must match its digest.
pub(super) fn problem_with(library: &Path) -> Option<String> {
    if !library.ends_with(Path::new(VERSION).join(LIBRARY_FILE)) {
        // The user installed it with `pip`.
        return None;
    }
    let checked = wheel().and_then(|wheel| {
        has_sha256(library, wheel.library_sha256).map_err(|error| error.to_string())
    });
    match checked {
        Ok(true) => None,
        Ok(false) => Some(format!("its SHA-256 does not match ONNX Runtime {VERSION}")),
        Err(problem) => Some(problem),
    }
}

/// Returns the folder of the pinned version in a cache.
pub(super) fn cache_folder(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(VERSION)
}

/// Returns the command that installs the library manually where Legenda finds it.
pub(super) fn install_command(cache: Option<&Path>) -> String {
    let target = cache.map(|cache| format!("--target \"{}\" ", cache_folder(cache).display()));
    format!("python3 -m pip install {}onnxruntime=={VERSION}", target.unwrap_or_default())
}

/// Downloads the library into the cache and returns its path.
///
/// Safe with concurrent processes: one downloads under a lock, the others wait and then use its
/// file. The file is created atomically.
pub(super) fn fetch(
    cache: &Path,
    python: &Path,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, String> {
    let wheel = wheel()?;
    let folder = cache_folder(cache);
    let target = folder.join(LIBRARY_FILE);
    let io_error = |what: &str, error: io::Error| format!("failed to {what}: {error}");
    fs::create_dir_all(&folder).map_err(|error| io_error("create the cache folder", error))?;
    let lock = File::create(folder.join(".lock"))
        .map_err(|error| io_error("create the lock file", error))?;
    lock.lock().map_err(|error| io_error("lock the cache", error))?;
    // Another process may have downloaded it while this one waited for the lock.
    let is_cached = target.try_exists().map_err(|error| io_error("access the cache", error))?;
    if is_cached && problem_with(&target).is_none() {
        return Ok(target);
    }
    progress(&format!(
        "Fetching ONNX Runtime {VERSION} (CPU, one-time download) into {} ...",
        folder.display()
    ));
    let work = folder.join(".fetch");
    // A killed process may have left its folder; the lock guarantees that it has ended.
    remove_folder(&work)?;
    fs::create_dir_all(&work).map_err(|error| io_error("create a work folder", error))?;
    let fetched = download(wheel, &work, python).and_then(|file| unpack(wheel, &file, &work));
    let placed = fetched.and_then(|library| {
        if let Some(problem) = trust_problem(&library) {
            return Err(problem);
        }
        probe::version(&library)
            .map_err(|reason| format!("the fetched library is not usable: {reason}"))?;
        fs::rename(&library, &target).map_err(|error| io_error("move the library", error))
    });
    remove_folder(&work)?;
    placed?;
    progress(&format!("ONNX Runtime {VERSION} is in the cache."));
    Ok(target)
}

fn remove_folder(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("failed to remove `{}`: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Downloads the pinned wheel and returns its path.
fn download(wheel: &Wheel, work: &Path, python: &Path) -> Result<PathBuf, String> {
    let requirements = work.join("requirements.txt");
    let pin = format!("onnxruntime=={VERSION} --hash=sha256:{}\n", wheel.sha256);
    // A file in our own work folder that is not read before it is complete.
    File::create(&requirements)
        .and_then(|mut file| io::Write::write_all(&mut file, pin.as_bytes()))
        .map_err(|error| format!("failed to write the requirements file: {error}"))?;
    let mut output = pip_download(python, wheel, work, &requirements)?;
    if lacks_pip(&output) {
        // Debian's Python has no pip, but a virtual environment includes it.
        let environment = work.join("venv");
        let made = run(isolated(python).args(["-m", "venv"]).arg(&environment))?;
        if !made.status.success() {
            return Err("Python has neither `pip` nor `venv`".to_owned());
        }
        let bin = if cfg!(windows) { "Scripts" } else { "bin" };
        output = pip_download(&environment.join(bin).join("python"), wheel, work, &requirements)?;
    }
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last =
            stderr.lines().rfind(|line| line.contains("ERROR")).unwrap_or("no error message");
        return Err(format!("`pip download` failed: {last}"));
    }
    let entries = fs::read_dir(work).map_err(|error| error.to_string())?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| "`pip download` produced no wheel".to_owned())
}

fn pip_download(
    python: &Path,
    wheel: &Wheel,
    work: &Path,
    requirements: &Path,
) -> Result<Output, String> {
    let mut command = isolated(python);
    command
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--implementation", "cp"])
        .args(["--python-version", "312", "--abi", "cp312", "--platform", wheel.platform])
        .arg("--dest")
        .arg(work)
        .arg("--requirement")
        .arg(requirements);
    run(&mut command)
}

fn run(command: &mut Command) -> Result<Output, String> {
    command.output().map_err(|error| {
        format!("failed to run `{}`: {error}", command.get_program().to_string_lossy())
    })
}

fn lacks_pip(output: &Output) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr);
    !output.status.success() && stderr.contains("No module named pip")
}

/// Extracts the library from the wheel and syncs it to disk.
fn unpack(wheel: &Wheel, file: &Path, work: &Path) -> Result<PathBuf, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to unpack the wheel: {error}");
    let archive = File::open(file).map_err(|error| failed(&error))?;
    let mut archive = zip::ZipArchive::new(archive).map_err(|error| failed(&error))?;
    let mut entry = archive.by_name(wheel.library).map_err(|error| failed(&error))?;
    let library = work.join(LIBRARY_FILE);
    let mut target = File::create(&library).map_err(|error| failed(&error))?;
    io::copy(&mut entry, &mut target).map_err(|error| failed(&error))?;
    target.sync_all().map_err(|error| failed(&error))?;
    Ok(library)
}
