//! Images to pixel values.

mod center_crop;
mod crops;
#[cfg(test)]
mod geometry;
mod image_processor;
mod page;
mod patches;
mod resize;
mod tiles;

pub use image_processor::ImageProcessor;
pub use resize::{Backend, Filter, resize};
