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

    /// Returns a dimension of an input of a rewritten graph, if it has the input and the dimension is
    /// fixed.
    pub(crate) fn input_dim(&self, input: &str, axis: usize) -> Option<usize> {
        let Self::Rewritten(graph) = self else { return None };
        let (_, dims) = graph.inputs.iter().find(|(name, _)| name == input)?;
        usize::try_from((*dims.get(axis)?)?).ok()
    }
}

/// A graph that was rewritten for speed. Its weights stay in the published files.
#[derive(Debug)]
pub(crate) struct RewrittenGraph {
    /// The graph, with the weights as external data.
    pub(crate) bytes: Vec<u8>,
    /// The folder of the published files.
    pub(crate) folder: PathBuf,
    /// The inputs with their dimensions; `None` is a symbolic one.
    pub(crate) inputs: Vec<(String, Vec<Option<i64>>)>,
    /// The files of the weights, relative to the folder.
    pub(crate) weights: BTreeSet<String>,
    /// The rewritings that were applied.
    pub(crate) applied: Vec<&'static str>,
}
