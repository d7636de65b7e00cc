//! JPEG decoding with libjpeg-turbo as shipped by Mozilla (crate `mozjpeg`) and its defaults: the accurate
//! integer inverse DCT and "fancy" chroma upsampling, like Pillow.
//!
//! The module uses `unsafe` for one purpose: the library reports warnings and errors through C callbacks, and
//! the crate's own callbacks ignore warnings. Ours are called by C code compiled for unwinding, and leave it
//! by unwinding with a [`Fault`], which [`decode`] catches.

#![expect(unsafe_code, reason = "the C library reports warnings and errors to our callbacks")]

use std::{
    mem::{self, MaybeUninit},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{
    J_MESSAGE_CODE, JERR_CCIR601_NOTIMPL, JERR_CONVERSION_NOTIMPL, JERR_FRACT_SAMPLE_NOTIMPL,
    JWRN_ADOBE_XFORM, JWRN_BOGUS_ICC, JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR, JWRN_NOT_SEQUENTIAL,
    JWRN_TOO_MUCH_DATA, c_int, jpeg_common_struct, jpeg_error_mgr, jpeg_std_error,
};

use super::markers::{Fault, Header, Scans};
use crate::input::media::{cmyk, damaged::Damage};

/// The maximum bytes after the last block of a scan that count as padding.
const PADDING_BYTES_MAX: c_int = 16;

/// The state of a decompressor after the header and before pixels (`DSTATE_READY`, `jpegint.h`).
const STATE_READY: c_int = 202;

/// Decodes a file into `pixels`, one or three bytes each. Rows before an error are decoded.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    _scans: Scans,
    damage: Damage,
    pixels: &mut [u8],
) -> Result<(), Fault> {
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_rows(bytes, header, damage, pixels)));
    decoded.unwrap_or_else(|panic| match panic.downcast::<Fault>() {
        Ok(fault) => Err(*fault),
        Err(panic) => resume_unwind(panic),
    })
}

fn decode_rows(
    bytes: &[u8],
    header: &Header,
    damage: Damage,
    pixels: &mut [u8],
) -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault::Damaged(error.to_string());
    let decoder = Decompress::builder().with_err(error_manager(damage)).from_mem(bytes);
    let decoder = decoder.map_err(failed)?;
    let (width, height) = (usize::from(header.width), usize::from(header.height));
    let n_components = header.sampling.len();
    if decoder.size() != (width, height) || decoder.components().len() != n_components {
        return Err(Fault::Damaged("the headers contradict each other".to_owned()));
    }
    // Like Pillow: the number of components decides the output, not their names.
    let space = match n_components {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        _ => ColorSpace::JCS_CMYK,
    };
    let mut decoder = decoder.to_colorspace(space).map_err(failed)?;
    let bytes_per_pixel = if n_components == 1 { 1 } else { 3 };
    let mut inks = vec![0; if n_components == 4 { 4 * width } else { 0 }];
    for row in pixels.chunks_exact_mut(bytes_per_pixel * width) {
        if n_components == 4 {
            decoder.read_scanlines_into(&mut inks).map_err(failed)?;
            to_rgb(&inks, row);
        } else {
            decoder.read_scanlines_into(row).map_err(failed)?;
        }
    }
    // Reads to the end of the file.
    decoder.finish().map_err(failed)
}

/// Converts a CMYK row like Pillow: the values are assumed to be inverted, as written by Adobe (`CMYK;I` of
/// `JpegImagePlugin.py`).
fn to_rgb(inks: &[u8], row: &mut [u8]) {
    for (pixel, inverted) in row.as_chunks_mut::<3>().0.iter_mut().zip(inks.as_chunks::<4>().0) {
        *pixel = cmyk::to_rgb(inverted.map(|ink| 255 - ink));
    }
}

/// Creates an error manager that rejects or ignores damage; errors always end decoding.
fn error_manager(damage: Damage) -> jpeg_error_mgr {
    let mut manager = MaybeUninit::<jpeg_error_mgr>::zeroed();
    // SAFETY: the structure consists of numbers, pointers and optional functions, for which zeros are valid;
    // the library fills it in and keeps no reference to it.
    let mut manager = unsafe {
        jpeg_std_error(manager.assume_init_mut());
        manager.assume_init()
    };
    manager.error_exit = Some(fail);
    manager.emit_message = Some(match damage {
        Damage::Refused => refuse_damage,
        Damage::Ignored => ignore_message,
    });
    manager
}

/// Handles an error, after which the library cannot continue.
unsafe extern "C-unwind" fn fail(cinfo: &mut jpeg_common_struct) {
    let (code, message) = (message_code(cinfo), message(cinfo));
    resume_unwind(Box::new(match code {
        JERR_CCIR601_NOTIMPL | JERR_CONVERSION_NOTIMPL | JERR_FRACT_SAMPLE_NOTIMPL => {
            Fault::Unsupported(format!("this variant of JPEG (\"{message}\")"))
        }
        _ => Fault::Damaged(message),
    }));
}

/// Handles a message: a warning if its level is negative, else a trace message.
unsafe extern "C-unwind" fn refuse_damage(cinfo: &mut jpeg_common_struct, level: c_int) {
    if level < 0 && is_damage(cinfo) {
        resume_unwind(Box::new(Fault::Damaged(message(cinfo))));
    }
}

unsafe extern "C-unwind" fn ignore_message(_: &mut jpeg_common_struct, _: c_int) {}

/// Returns whether a warning means that pixels are lost or wrong.
fn is_damage(cinfo: &mut jpeg_common_struct) -> bool {
    match message_code(cinfo) {
        // Encoder marks that do not affect pixels, and values that decoders may ignore.
        JWRN_ADOBE_XFORM | JWRN_BOGUS_ICC | JWRN_JFIF_MAJOR | JWRN_NOT_SEQUENTIAL
        | JWRN_TOO_MUCH_DATA => false,
        // Between header segments nothing is lost. After a scan, the data should have been pixels, unless it
        // is as short as encoder padding.
        JWRN_EXTRANEOUS_DATA => {
            cinfo.global_state > STATE_READY && parameter(cinfo) > PADDING_BYTES_MAX
        }
        _ => true,
    }
}

fn message_code(cinfo: &jpeg_common_struct) -> J_MESSAGE_CODE {
    // SAFETY: the library passes the manager that it was given, which lives as long as it does.
    unsafe { (*cinfo.err).msg_code }
}

/// Returns the first number in a message.
fn parameter(cinfo: &mut jpeg_common_struct) -> c_int {
    // SAFETY: as above; the parameters of a message with numbers are an array of eight.
    unsafe { (*(*cinfo.err).msg_parm.i())[0] }
}

/// Returns a message as text.
fn message(cinfo: &mut jpeg_common_struct) -> String {
    /// The function as declared by the crate.
    type Declared = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]);
    /// The function as in C, where the buffer is written to.
    type Actual = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; 80]);
    let mut buffer = [0; 80];
    // SAFETY: the manager is as above and has the library's own function, which writes at most
    // `JMSG_LENGTH_MAX` = 80 bytes including the terminating 0.
    unsafe {
        if let Some(format) = (*cinfo.err).format_message {
            mem::transmute::<Declared, Actual>(format)(cinfo, &mut buffer);
        }
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}
