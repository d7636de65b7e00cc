//! Asks a library file which ONNX Runtime it is, before `ort` commits to it for good.
//!
//! `ort` keeps the first library that it can load for the life of the process, so a library that is
//! too old must be turned away before.

#![expect(unsafe_code, reason = "a C library is opened and asked for its version")]

use std::{ffi::CStr, path::Path};

use libloading::{Library, Symbol};
use ort::sys::OrtApiBase;

/// The oldest release that runs the default decoder on the CPU: 1.24 lacks opset-24 `TensorScatter`.
pub(super) const VERSION_MIN: (u32, u32) = (1, 25);

/// Opens a library, reads its version, closes it again.
///
/// Returns the version, or why the library cannot be used.
pub(super) fn version(path: &Path) -> Result<String, String> {
    // SAFETY: opening a library runs its initialisers. The file is one that the user, the package
    // manager or our own verified download has put there as ONNX Runtime; `ort` opens it next.
    let library = unsafe { Library::new(path) }.map_err(|error| format!("cannot load: {error}"))?;
    // SAFETY: the name and signature are ONNX Runtime's public C entry point, unchanged since 1.0.
    let entry: Symbol<'_, unsafe extern "C" fn() -> *const OrtApiBase> =
        unsafe { library.get(b"OrtGetApiBase") }
            .map_err(|_| "has no `OrtGetApiBase`: not ONNX Runtime".to_owned())?;
    // SAFETY: the function takes nothing and returns a pointer to a static or null.
    let base = unsafe { entry().as_ref() }.ok_or("`OrtGetApiBase` returned null")?;
    // SAFETY: the base is valid while the library is open, and so is the string it returns.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    let version = version.to_str().map_err(|_| "its version is not text")?.to_owned();
    check(&version)?;
    Ok(version)
}

fn check(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(format!("is version {version}, at least {major}.{minor} is needed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_turned_away() {
        assert!(check("1.31.1").is_ok());
        assert!(check("2.0.0").is_ok());
        assert_eq!(check("1.19.2").unwrap_err(), "is version 1.19.2, at least 1.25 is needed");
        assert!(check("strange").is_err());
    }

    #[test]
    fn a_file_that_is_no_library_is_turned_away() {
        let error = version(Path::new(file!())).unwrap_err();
        assert!(error.starts_with("cannot load: "), "{error}");
    }
}
