//! Generated ids turned into answers.

mod continued;
mod document;
mod regions;
mod transcript;

pub(crate) use continued::Continued;
pub(crate) use document::Document;
pub(crate) use regions::Regions;
pub(crate) use transcript::Transcript;
