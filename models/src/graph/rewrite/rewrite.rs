//! Rewrites a published graph.

use std::sync::Arc;

use prost::Message;

use super::{DecoderFacts, Refusal, in_place::in_place};
use crate::graph::{GraphSource, RewrittenGraph, weights::read_model};

/// Rewrites the graph of a decoder, if it is in a file.
///
/// # Errors
///
/// [`Refusal`] if the graph does not match.
pub(crate) fn rewrite_decoder(
    source: &GraphSource<'_>,
    facts: DecoderFacts,
) -> Result<GraphSource<'static>, Refusal> {
    let GraphSource::Path(path) = source else {
        return Err(Refusal::pattern("graph", "not in a file"));
    };
    // Links of a cache lead to files of other folders.
    let path = path.canonicalize()?;
    let mut model = read_model(&path)?;
    in_place(&mut model, facts)?;
    let folder = path.parent().map(ToOwned::to_owned).unwrap_or_default();
    let graph = model.graph.iter();
    let entries = graph.flat_map(|graph| &graph.initializer).flat_map(|t| &t.external_data);
    let locations = entries.filter(|entry| entry.key() == "location");
    let weights = locations.map(|entry| entry.value().to_owned()).collect();
    let applied = vec!["in-place cache"];
    Ok(GraphSource::Rewritten(Arc::new(RewrittenGraph {
        bytes: model.encode_to_vec(),
        folder,
        weights,
        applied,
    })))
}
