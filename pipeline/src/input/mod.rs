//! Tables and media: what a run reads.

pub(crate) mod media;
pub(crate) mod query;
pub(crate) mod source;
pub(crate) mod template;
