//! Where a graph is.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

/// A graph, ready to be opened by the runtime.
#[derive(Debug)]
pub(crate) enum GraphSource<'a> {
    /// On disk, next to its external data.
    Path(PathBuf),
    /// In memory.
    Bytes(&'a [u8]),
    /// In memory, with its weights in the published files.
    Rewritten(Arc<RewrittenGraph>),
}

impl GraphSource<'_> {
    /// Returns the rewritings that were applied.
    pub(crate) fn rewritings(&self) -> &[&'static str] {
        match self {
            Self::Rewritten(graph) => &graph.applied,
            Self::Path(_) | Self::Bytes(_) => &[],
        }
    }
}

/// A graph that was rewritten for speed. Its weights stay in the published files.
#[derive(Debug)]
pub(crate) struct RewrittenGraph {
    /// The graph, with the weights as external data.
    pub(crate) bytes: Vec<u8>,
    /// The folder of the published files.
    pub(crate) folder: PathBuf,
    /// The files of the weights, relative to the folder.
    pub(crate) weights: BTreeSet<String>,
    /// The rewritings that were applied.
    pub(crate) applied: Vec<&'static str>,
}
