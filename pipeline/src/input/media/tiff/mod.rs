//! TIFF decoding like Pillow, including pixel formats and compressions that the `image` crate does not
//! support.

mod codec;
mod decoder;
mod directory;
mod error;
mod fax;
mod jpeg;
mod layout;
mod pixels;

use self::error::{damaged, unsupported};
pub(super) use self::{decoder::TiffDecoder, directory::Directory};
