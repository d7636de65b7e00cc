//! JPEG by libjpeg-turbo's decoder, as Mozilla ships it (crate `mozjpeg`), with its defaults: the accurate
//! integer inverse DCT and "fancy" upsampling of chroma, as Pillow uses it.
//!
//! The module has `unsafe` for one need: the library reports warnings and errors to C functions, and the
//! crate's own ignore warnings. Ours are called by C code that is compiled to be unwound, and leave it by
//! unwinding with a [`Fault`], which [`decode`] catches.

#![expect(unsafe_code, reason = "the C library reports warnings and errors to functions of ours")]

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
use crate::media::{cmyk, damaged::Damage};

/// Bytes behind the last block of a scan that are taken for padding.
const PADDING_BYTES_MAX: c_int = 16;

/// The state of a decompressor that has read the header, and no pixels (`DSTATE_READY`, `jpegint.h`).
const STATE_READY: c_int = 202;

/// Decodes a file into `pixels`, one or three bytes for each. Rows before an error are decoded.
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
        return Err(Fault::Damaged("its headers contradict each other".to_owned()));
    }
    // As Pillow asks for: what components there are, not what their names say, is what comes out.
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
    // Reads on to the end of the file.
    decoder.finish().map_err(failed)
}

/// Converts a row of CMYK as Pillow does: the values are taken to be inverted, as Adobe writes them
/// (`CMYK;I` of `JpegImagePlugin.py`).
fn to_rgb(inks: &[u8], row: &mut [u8]) {
    for (pixel, inverted) in row.as_chunks_mut::<3>().0.iter_mut().zip(inks.as_chunks::<4>().0) {
        *pixel = cmyk::to_rgb(inverted.map(|ink| 255 - ink));
    }
}

/// Makes an error manager that refuses damage, or passes it over; errors end the decoding either way.
fn error_manager(damage: Damage) -> jpeg_error_mgr {
    let mut manager = MaybeUninit::<jpeg_error_mgr>::zeroed();
    // SAFETY: the structure is of numbers, pointers and optional functions, for which zeros are valid;
    // the library fills it in, and keeps no reference to it.
    let mut manager = unsafe {
        jpeg_std_error(manager.assume_init_mut());
        manager.assume_init()
    };
    manager.error_exit = Some(fail);
    manager.emit_message = Some(match damage {
        Damage::Refused => refuse_damage,
        Damage::PassedOver => pass_over,
    });
    manager
}

/// Takes an error, after which the library cannot go on.
unsafe extern "C-unwind" fn fail(cinfo: &mut jpeg_common_struct) {
    let (code, message) = (message_code(cinfo), message(cinfo));
    resume_unwind(Box::new(match code {
        JERR_CCIR601_NOTIMPL | JERR_CONVERSION_NOTIMPL | JERR_FRACT_SAMPLE_NOTIMPL => {
            Fault::Unsupported(format!("this variant of JPEG (\"{message}\")"))
        }
        _ => Fault::Damaged(message),
    }));
}

/// Takes a message: a warning where its level is below 0, else a note for people who trace.
unsafe extern "C-unwind" fn refuse_damage(cinfo: &mut jpeg_common_struct, level: c_int) {
    if level < 0 && is_damage(cinfo) {
        resume_unwind(Box::new(Fault::Damaged(message(cinfo))));
    }
}

unsafe extern "C-unwind" fn pass_over(_: &mut jpeg_common_struct, _: c_int) {}

/// Returns whether a warning says that pixels are lost or wrong.
fn is_damage(cinfo: &mut jpeg_common_struct) -> bool {
    match message_code(cinfo) {
        // Marks of the encoder that say nothing about pixels, and values that decoders need not have.
        JWRN_ADOBE_XFORM | JWRN_BOGUS_ICC | JWRN_JFIF_MAJOR | JWRN_NOT_SEQUENTIAL
        | JWRN_TOO_MUCH_DATA => false,
        // Between the segments of the header nothing is lost. Behind a scan it is what should have been
        // pixels, unless it is so little that encoders pad with it.
        JWRN_EXTRANEOUS_DATA => {
            cinfo.global_state > STATE_READY && parameter(cinfo) > PADDING_BYTES_MAX
        }
        _ => true,
    }
}

fn message_code(cinfo: &jpeg_common_struct) -> J_MESSAGE_CODE {
    // SAFETY: the library calls with the manager that it was given, which lives as long as it does.
    unsafe { (*cinfo.err).msg_code }
}

/// Returns the first number in a message.
fn parameter(cinfo: &mut jpeg_common_struct) -> c_int {
    // SAFETY: as above; the parameters of a message with numbers are an array of eight of them.
    unsafe { (*(*cinfo.err).msg_parm.i())[0] }
}

/// Returns a message as text.
fn message(cinfo: &mut jpeg_common_struct) -> String {
    /// The function as the crate declares it.
    type Declared = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &[u8; 80]);
    /// The function as it is in C, where the buffer is written to.
    type Actual = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; 80]);
    let mut buffer = [0; 80];
    // SAFETY: the manager is as above, and has the library's own function, which writes a text of at most
    // `JMSG_LENGTH_MAX` = 80 bytes, its end of 0 among them.
    unsafe {
        if let Some(format) = (*cinfo.err).format_message {
            mem::transmute::<Declared, Actual>(format)(cinfo, &mut buffer);
        }
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}
