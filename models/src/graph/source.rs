//! Where a graph is.

use std::path::PathBuf;

/// A graph, ready to be opened by the runtime.
#[derive(Debug)]
pub(crate) enum GraphSource<'a> {
    /// On disk, next to its external data.
    Path(PathBuf),
    /// In memory.
    Bytes(&'a [u8]),
}
