//! HEIC and AVIF decoding with the system's libheif, if installed.
//!
//! libheif is loaded on first use, so the build does not depend on it. Its C interface is stable; the
//! functions used here exist in every version since 1.3.

#![expect(unsafe_code, reason = "calls a C library that is loaded at run time")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    marker::PhantomData,
    ptr,
    sync::OnceLock,
};

use image::{
    ColorType, ImageDecoder, ImageError, ImageResult,
    error::{DecodingError, ImageFormatHint, UnsupportedError, UnsupportedErrorKind},
};
use libloading::Library;

/// File names of the library, by platform.
const NAMES: &[&str] = if cfg!(target_os = "windows") {
    &["heif.dll", "libheif.dll"]
} else if cfg!(target_os = "macos") {
    &["libheif.1.dylib", "/opt/homebrew/lib/libheif.1.dylib", "/usr/local/lib/libheif.1.dylib"]
} else {
    &["libheif.so.1"]
};

/// `heif_colorspace_RGB`.
const COLORSPACE_RGB: c_int = 1;
/// `heif_chroma_interleaved_RGB`: 8 bits each, without alpha.
const CHROMA_RGB: c_int = 10;
/// `heif_channel_interleaved`.
const CHANNEL_INTERLEAVED: c_int = 10;
/// `heif_error` codes for features that this build of the library lacks: a file type, a feature, a plugin.
const UNSUPPORTED_CODES: [c_int; 3] = [3, 4, 11];

/// `struct heif_error`.
#[repr(C)]
struct Status {
    code: c_int,
    subcode: c_int,
    message: *const c_char,
}

type Read = unsafe extern "C" fn(*mut c_void, *const c_void, usize, *const c_void) -> Status;
type GetHandle = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> Status;
type Measure = unsafe extern "C" fn(*const c_void) -> c_int;
type MeasureChannel = unsafe extern "C" fn(*const c_void, c_int) -> c_int;
type Decode =
    unsafe extern "C" fn(*const c_void, *mut *mut c_void, c_int, c_int, *const c_void) -> Status;
type GetPlane = unsafe extern "C" fn(*const c_void, c_int, *mut c_int) -> *const u8;

/// The libheif functions used here.
struct Functions {
    alloc: unsafe extern "C" fn() -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    read: Read,
    get_handle: GetHandle,
    release_handle: unsafe extern "C" fn(*const c_void),
    handle_width: Measure,
    handle_height: Measure,
    decode: Decode,
    release_image: unsafe extern "C" fn(*const c_void),
    image_width: MeasureChannel,
    image_height: MeasureChannel,
    get_plane: GetPlane,
    /// Keeps the library loaded.
    _library: Library,
}

impl Functions {
    /// Loads the library once; returns `None` if it is not installed.
    fn get() -> Option<&'static Self> {
        static LOADED: OnceLock<Option<Functions>> = OnceLock::new();
        LOADED.get_or_init(|| NAMES.iter().find_map(|name| Self::load(name))).as_ref()
    }

    fn load(name: &str) -> Option<Self> {
        // SAFETY: loading runs the library's initialisers. It is the system's own, found by its name.
        let library = unsafe { Library::new(name) }.ok()?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types of the fields are those of `libheif/heif.h`, unchanged since 1.3.
                *unsafe { library.get($name) }.ok()?
            };
        }
        Some(Self {
            alloc: function!(b"heif_context_alloc"),
            free: function!(b"heif_context_free"),
            read: function!(b"heif_context_read_from_memory_without_copy"),
            get_handle: function!(b"heif_context_get_primary_image_handle"),
            release_handle: function!(b"heif_image_handle_release"),
            handle_width: function!(b"heif_image_handle_get_width"),
            handle_height: function!(b"heif_image_handle_get_height"),
            decode: function!(b"heif_decode_image"),
            release_image: function!(b"heif_image_release"),
            image_width: function!(b"heif_image_get_width"),
            image_height: function!(b"heif_image_get_height"),
            get_plane: function!(b"heif_image_get_plane_readonly"),
            _library: library,
        })
    }
}

/// An image with parsed boxes.
pub(super) struct HeifDecoder<'a> {
    format: &'static str,
    functions: &'static Functions,
    context: *mut c_void,
    handle: *mut c_void,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> HeifDecoder<'a> {
    /// Parses the boxes of a file and finds its primary image; `format` is for messages.
    pub(super) fn new(bytes: &'a [u8], format: &'static str) -> ImageResult<Self> {
        let Some(functions) = Functions::get() else {
            return Err(unsupported(format, "without libheif installed"));
        };
        // SAFETY: takes nothing and returns a context of its own, or null.
        let context = unsafe { (functions.alloc)() };
        if context.is_null() {
            return Err(unsupported(format, "without memory for libheif"));
        }
        let handle = ptr::null_mut();
        let mut image = Self { format, functions, context, handle, bytes: PhantomData };
        // SAFETY: the context is valid, and the bytes outlive it by the lifetime of `Self`.
        let status =
            unsafe { (functions.read)(context, bytes.as_ptr().cast(), bytes.len(), ptr::null()) };
        check(status, format)?;
        // SAFETY: the context is valid, and the handle is a place for a pointer.
        check(unsafe { (functions.get_handle)(context, &raw mut image.handle) }, format)?;
        Ok(image)
    }

    /// Decodes the primary image to RGB.
    fn decode(&self) -> ImageResult<Decoded> {
        let mut image = ptr::null_mut();
        // SAFETY: the handle is valid, the image is a place for a pointer, and options may be null.
        let status = unsafe {
            (self.functions.decode)(
                self.handle,
                &raw mut image,
                COLORSPACE_RGB,
                CHROMA_RGB,
                ptr::null(),
            )
        };
        let decoded = Decoded { functions: self.functions, image };
        check(status, self.format)?;
        Ok(decoded)
    }
}

/// Pixels are transformed as the file specifies (`irot` and `imir`). Like Pillow, this ignores the EXIF
/// orientation, which duplicates that.
impl ImageDecoder for HeifDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        [self.functions.handle_width, self.functions.handle_height]
            // SAFETY: the handle is valid as long as `self`.
            .map(|measure| unsafe { measure(self.handle) })
            .map(|edge| u32::try_from(edge).unwrap_or(0))
            .into()
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let functions = self.functions;
        let decoded = self.decode()?;
        let mut stride = 0;
        // SAFETY: the image is valid as long as `decoded`, and the stride is a place for a number.
        let (width, height, plane) = unsafe {
            (
                (functions.image_width)(decoded.image, CHANNEL_INTERLEAVED),
                (functions.image_height)(decoded.image, CHANNEL_INTERLEAVED),
                (functions.get_plane)(decoded.image, CHANNEL_INTERLEAVED, &raw mut stride),
            )
        };
        let size = (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0));
        let row_bytes = 3 * size.0 as usize;
        let stride = usize::try_from(stride).unwrap_or(0);
        if size != self.dimensions() || plane.is_null() || row_bytes == 0 || stride < row_bytes {
            return Err(damaged(self.format, "the size differs from its header"));
        }
        for (row_idx, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
            // SAFETY: the plane has as many rows as the image, `stride` bytes apart, of 3 bytes for each
            // pixel; there are as many rows in `pixels`, by the contract of this trait.
            row.copy_from_slice(unsafe {
                std::slice::from_raw_parts(plane.add(row_idx * stride), row_bytes)
            });
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

impl Drop for HeifDecoder<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by the library and are not used after this; it takes a null handle.
        unsafe {
            (self.functions.release_handle)(self.handle);
            (self.functions.free)(self.context);
        }
    }
}

/// A decoded image owned by the library.
struct Decoded {
    functions: &'static Functions,
    image: *mut c_void,
}

impl Drop for Decoded {
    fn drop(&mut self) {
        // SAFETY: the image was made by the library, or is null, and is not used after this.
        unsafe { (self.functions.release_image)(self.image) };
    }
}

fn check(status: Status, format: &'static str) -> ImageResult<()> {
    if status.code == 0 {
        return Ok(());
    }
    let message = if status.message.is_null() {
        format!("error {} of libheif", status.code)
    } else {
        // SAFETY: a message that is not null is a text of the library that outlives the call.
        unsafe { CStr::from_ptr(status.message) }.to_string_lossy().into_owned()
    };
    Err(if UNSUPPORTED_CODES.contains(&status.code) {
        unsupported(format, &format!("({message})"))
    } else {
        damaged(format, &message)
    })
}

fn damaged(format: &'static str, problem: &str) -> ImageError {
    let hint = ImageFormatHint::Name(format.to_owned());
    ImageError::Decoding(DecodingError::new(hint, problem))
}

fn unsupported(format: &'static str, why: &str) -> ImageError {
    let hint = ImageFormatHint::Name(format.to_owned());
    let variant = UnsupportedErrorKind::GenericFeature(format!("{format} {why}"));
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(hint, variant))
}
