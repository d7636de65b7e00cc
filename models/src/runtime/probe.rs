//! Checks the version of an ONNX Runtime library before `ort` commits to it.
//!
//! `ort` keeps the first library that it loads for the life of the process, so a library that is
//! too old must be rejected before.

#![expect(unsafe_code, reason = "loads a C library to read its version")]

use std::{ffi::CStr, path::Path};

use libloading::{Library, Symbol};
use ort::sys::OrtApiBase;

/// The oldest supported release: 1.24 lacks opset-24 `TensorScatter`, which the default decoder
/// needs on the CPU.
pub(super) const VERSION_MIN: (u32, u32) = (1, 25);

/// Opens a library, reads its version and closes it again.
///
/// Returns the version, or the reason why the library is not usable.
pub(super) fn version(path: &Path) -> Result<String, String> {
    // SAFETY: opening a library runs its initializers. The file was installed as ONNX Runtime by
    // the user, the package manager or our own verified download; `ort` opens it next.
    let library =
        unsafe { Library::new(path) }.map_err(|error| format!("failed to load: {error}"))?;
    // SAFETY: the name and signature are ONNX Runtime's public C entry point, unchanged since 1.0.
    let entry: Symbol<'_, unsafe extern "C" fn() -> *const OrtApiBase> =
        unsafe { library.get(b"OrtGetApiBase") }
            .map_err(|_| "no symbol `OrtGetApiBase`: not ONNX Runtime".to_owned())?;
    // SAFETY: the function has no arguments and returns a pointer to a static, or null.
    let base = unsafe { entry().as_ref() }.ok_or("`OrtGetApiBase` returned null")?;
    // SAFETY: the base is valid while the library is open, and so is the string that it returns.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    let version = version.to_str().map_err(|_| "its version is not UTF-8")?.to_owned();
    check(&version)?;
    Ok(version)
}

fn check(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(format!("version {version} is too old, expected at least {major}.{minor}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_rejected() {
        assert!(check("1.31.1").is_ok());
        assert!(check("2.0.0").is_ok());
        assert_eq!(
            check("1.19.2").unwrap_err(),
            "version 1.19.2 is too old, expected at least 1.25"
        );
        assert!(check("strange").is_err());
    }

    #[test]
    fn a_file_that_is_not_a_library_is_rejected() {
        let error = version(Path::new(file!())).unwrap_err();
        assert!(error.starts_with("failed to load: "), "{error}");
    }
}
