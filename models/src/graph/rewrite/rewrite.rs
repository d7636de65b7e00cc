//! Rewrites the graphs of a decoder.

use std::{path::PathBuf, sync::Arc};

use prost::Message;

use super::{
    DecoderFacts, Refusal, branches::split, cross_attention::keep_cross_attention,
    encoder_attention::fuse_attention, in_place::in_place, per_token::per_token,
};
use crate::graph::{
    ENCODER_STATES, GraphSource, RewrittenGraph,
    onnx::{ModelProto, ValueInfoProto},
    weights::read_model,
};

/// The name of [`per_token`].
pub(crate) const PER_TOKEN: &str = "one int8 scale per token";

/// The graphs of a decoder.
#[derive(Debug)]
pub(crate) struct DecoderGraphs<'a> {
    /// The graph of all runs, or of all but the first.
    pub(crate) step: GraphSource<'a>,
    /// The graph of the first run, if it is another one.
    pub(crate) first: Option<GraphSource<'a>>,
}

/// A graph file without its weights.
struct Opened {
    model: ModelProto,
    /// The folder of the weights.
    folder: PathBuf,
}

impl Opened {
    fn read(source: &GraphSource<'_>) -> Result<Self, Refusal> {
        let GraphSource::Path(path) = source else {
            return Err(Refusal::pattern("graph", "not in a file"));
        };
        // Links of a cache lead to files of other folders.
        let path = path.canonicalize()?;
        let folder = path.parent().map(ToOwned::to_owned).unwrap_or_default();
        Ok(Self { model: read_model(&path)?, folder })
    }

    fn rewritten(self, applied: &[&'static str]) -> GraphSource<'static> {
        let graph = self.model.graph.iter();
        let entries = graph.flat_map(|graph| &graph.initializer).flat_map(|t| &t.external_data);
        let locations = entries.filter(|entry| entry.key() == "location");
        let inputs = self.model.graph.iter().flat_map(|graph| &graph.input);
        let dims = |input: &ValueInfoProto| input.tensor().map_or_else(Vec::new, |(_, dims)| dims);
        GraphSource::Rewritten(Arc::new(RewrittenGraph {
            inputs: inputs.map(|input| (input.name().to_owned(), dims(input))).collect(),
            weights: locations.map(|entry| entry.value().to_owned()).collect(),
            bytes: self.model.encode_to_vec(),
            folder: self.folder,
            applied: applied.to_vec(),
        }))
    }

    fn has_input(&self, name: &str) -> bool {
        let graph = self.model.graph.iter();
        graph.flat_map(|graph| &graph.input).any(|input| input.name() == name)
    }
}

/// Rewrites a decoder by all rewritings that match.
///
/// # Errors
///
/// [`Refusal`] if none matches.
pub(crate) fn rewrite_decoder(
    published: &DecoderGraphs<'_>,
    facts: DecoderFacts,
) -> Result<DecoderGraphs<'static>, Refusal> {
    let mut step = Opened::read(&published.step)?;
    let mut first = published.first.as_ref().map(Opened::read).transpose()?;
    let mut applied = Vec::new();
    let mut is_per_token = per_token(&mut step.model)?;
    if let Some(first) = &mut first {
        is_per_token |= per_token(&mut first.model)?;
    }
    if is_per_token {
        applied.push(PER_TOKEN);
    }
    let cached = if step.has_input(ENCODER_STATES) {
        keep_across_runs(&step, first.as_ref()).map(|(first, step)| {
            applied.push("cross-attention once per row");
            (Some(first), step)
        })
    } else {
        let mut model = step.model.clone();
        in_place(&mut model, facts).map(|()| {
            applied.push("in-place cache");
            (None, Opened { model, folder: step.folder.clone() })
        })
    };
    let (first, step) = match cached {
        Ok(graphs) => graphs,
        Err(refusal) if applied.is_empty() => return Err(refusal),
        Err(_) => (first, step),
    };
    Ok(DecoderGraphs {
        step: step.rewritten(&applied),
        first: first.map(|first| first.rewritten(&applied)),
    })
}

/// Rewrites an encoder.
///
/// # Errors
///
/// [`Refusal`] if it does not match.
pub(crate) fn rewrite_encoder(
    published: &GraphSource<'_>,
) -> Result<GraphSource<'static>, Refusal> {
    let mut encoder = Opened::read(published)?;
    fuse_attention(&mut encoder.model)?;
    Ok(encoder.rewritten(&["fused attention"]))
}

/// Returns the graphs of the first run and of later ones, which keep cross-attention between them.
fn keep_across_runs(step: &Opened, first: Option<&Opened>) -> Result<(Opened, Opened), Refusal> {
    let (mut first, mut step) = match first {
        Some(first) => (
            Opened { model: first.model.clone(), folder: first.folder.clone() },
            Opened { model: step.model.clone(), folder: step.folder.clone() },
        ),
        None => {
            let branches = split(&step.model)?;
            let opened = |model| Opened { model, folder: step.folder.clone() };
            (opened(branches.first), opened(branches.step))
        }
    };
    if let (Some(first), Some(step)) = (&mut first.model.graph, &mut step.model.graph) {
        keep_cross_attention(first, step)?;
    }
    Ok((first, step))
}
