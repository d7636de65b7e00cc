//! Rewrites the graphs of a decoder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;

use super::{
    DecoderFacts, Refusal, branches::split, cross_attention::keep_cross_attention,
    encoder_attention::fuse_attention, fused_cross_attention::fuse_cross_attention,
    in_place::in_place, per_token::per_token,
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
#[derive(Clone)]
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
        let opened = |path: &Path| -> Result<Self, Refusal> {
            let folder = path.parent().map(ToOwned::to_owned).unwrap_or_default();
            Ok(Self { model: read_model(path)?, folder })
        };
        // A link of a cache leads to a file of another folder, but external data are named relative to
        // the link.
        let real_path = path.canonicalize()?;
        let real = opened(&real_path)?;
        let is_own = |file: &String| real_path.file_name().is_some_and(|name| name == &**file);
        if real.weight_files().iter().all(is_own) { Ok(real) } else { opened(path) }
    }

    /// Returns the files of the weights, relative to the folder.
    fn weight_files(&self) -> BTreeSet<String> {
        let graph = self.model.graph.iter();
        let entries = graph.flat_map(|graph| &graph.initializer).flat_map(|t| &t.external_data);
        let locations = entries.filter(|entry| entry.key() == "location");
        locations.map(|entry| entry.value().to_owned()).collect()
    }

    fn rewritten(self, applied: &[&'static str]) -> GraphSource<'static> {
        let inputs = self.model.graph.iter().flat_map(|graph| &graph.input);
        let dims = |input: &ValueInfoProto| input.tensor().map_or_else(Vec::new, |(_, dims)| dims);
        GraphSource::Rewritten(Arc::new(RewrittenGraph {
            inputs: inputs.map(|input| (input.name().to_owned(), dims(input))).collect(),
            weights: self.weight_files(),
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
    let mut graphs = Graphs {
        step: Opened::read(&published.step)?,
        first: published.first.as_ref().map(Opened::read).transpose()?,
    };
    let is_encoder_decoder = graphs.step.has_input(ENCODER_STATES);
    if is_encoder_decoder {
        graphs.split_branches()?;
    }
    let rewritings: &[(&'static str, Rewriting)] = if is_encoder_decoder {
        &[
            (PER_TOKEN, |graphs, _| graphs.quantize_per_token()),
            ("cross-attention once per row", |graphs, _| graphs.keep_cross_attention()),
            ("fused cross-attention", |graphs, _| fuse_cross_attention(&mut graphs.step.model)),
        ]
    } else {
        &[
            (PER_TOKEN, |graphs, _| graphs.quantize_per_token()),
            ("in-place cache", |graphs, facts| in_place(&mut graphs.step.model, facts)),
        ]
    };
    let (mut applied, mut refusals) = (Vec::new(), Vec::new());
    for (name, rewrite) in rewritings {
        let mut rewritten = graphs.clone();
        match rewrite(&mut rewritten, facts) {
            Ok(()) => {
                graphs = rewritten;
                applied.push(*name);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    match refusals.pop().filter(|_| applied.is_empty()) {
        Some(refusal) => Err(refusal),
        None => Ok(DecoderGraphs {
            step: graphs.step.rewritten(&applied),
            first: graphs.first.map(|first| first.rewritten(&applied)),
        }),
    }
}

/// Changes the graphs of a decoder.
type Rewriting = fn(&mut Graphs, DecoderFacts) -> Result<(), Refusal>;

/// The graphs of a decoder while they are rewritten.
#[derive(Clone)]
struct Graphs {
    step: Opened,
    first: Option<Opened>,
}

impl Graphs {
    /// Splits a merged decoder.
    fn split_branches(&mut self) -> Result<(), Refusal> {
        if self.first.is_none() {
            let branches = split(&self.step.model)?;
            let folder = self.step.folder.clone();
            self.first = Some(Opened { model: branches.first, folder });
            self.step.model = branches.step;
        }
        Ok(())
    }

    fn quantize_per_token(&mut self) -> Result<(), Refusal> {
        let mut n_products = per_token(&mut self.step.model)?;
        if let Some(first) = &mut self.first {
            n_products += per_token(&mut first.model)?;
        }
        if n_products == 0 {
            return Err(Refusal::pattern("DynamicQuantizeLinear", "no int8 product"));
        }
        Ok(())
    }

    fn keep_cross_attention(&mut self) -> Result<(), Refusal> {
        let Some(first) = &mut self.first else {
            return Err(Refusal::pattern("graph", "no graph of the first run"));
        };
        keep_cross_attention(&mut first.model, &mut self.step.model)
    }
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

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;
    use crate::graph::onnx::EXTERNAL;

    const FACTS: DecoderFacts =
        DecoderFacts { heads: 4, head_dim: 16, sliding_window: None, is_half: false };

    fn published() -> PathBuf {
        let bundles = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles");
        Path::new(bundles).join("llama/onnx/model.onnx")
    }

    fn rewritten(path: PathBuf) -> Arc<RewrittenGraph> {
        let graphs = DecoderGraphs { step: GraphSource::Path(path), first: None };
        match rewrite_decoder(&graphs, FACTS).unwrap().step {
            GraphSource::Rewritten(graph) => graph,
            other => panic!("{other:?}"),
        }
    }

    fn write(path: &Path, content: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(content).unwrap();
    }

    #[test]
    fn weights_stay_where_they_are_published() {
        let graph = rewritten(published());
        let size = std::fs::metadata(published()).unwrap().len();
        assert_eq!(graph.weights, BTreeSet::from(["model.onnx".to_owned()]));
        assert_eq!(graph.folder, published().parent().unwrap().canonicalize().unwrap());
        // Every tensor of some size is a place within the published file.
        let model = ModelProto::decode(graph.bytes.as_slice()).unwrap();
        let tensors = model.graph.unwrap().initializer;
        let outside: Vec<_> = tensors
            .iter()
            .filter(|tensor| tensor.data_location() == EXTERNAL)
            .map(|tensor| {
                let number = |key: &str| -> u64 {
                    let entry = tensor.external_data.iter().find(|entry| entry.key() == key);
                    entry.unwrap().value().parse().unwrap()
                };
                (number("offset"), number("length"))
            })
            .collect();
        assert!(outside.len() > 10, "{outside:?}");
        assert!(outside.iter().all(|(offset, length)| offset + length <= size));
        let inside = tensors.iter().filter_map(|tensor| tensor.raw_data.as_ref());
        assert!(inside.clone().all(|data| data.len() < 1024), "{}", inside.count());
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_weights_next_to_the_target_or_the_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (blobs, snapshot) = (root.join("blobs"), root.join("snapshot"));
        let link = |blob: &str, name: &str| {
            std::fs::create_dir_all(&snapshot).unwrap();
            std::os::unix::fs::symlink(blobs.join(blob), snapshot.join(name)).unwrap();
        };
        // Weights in the graph: the target has them.
        write(&blobs.join("a1"), &std::fs::read(published()).unwrap());
        link("a1", "model.onnx");
        let graph = rewritten(snapshot.join("model.onnx"));
        assert_eq!((&graph.folder, graph.weights.first().unwrap().as_str()), (&blobs, "a1"));
        // Weights in a file of their own: it is next to the link.
        let mut model = read_model(&published()).unwrap();
        let tensors = &mut model.graph.as_mut().unwrap().initializer;
        for entry in tensors.iter_mut().flat_map(|tensor| &mut tensor.external_data) {
            if entry.key() == "location" {
                entry.value = Some("graph.onnx_data".to_owned());
            }
        }
        write(&blobs.join("b1"), &model.encode_to_vec());
        write(&blobs.join("b2"), &std::fs::read(published()).unwrap());
        link("b1", "graph.onnx");
        link("b2", "graph.onnx_data");
        let graph = rewritten(snapshot.join("graph.onnx"));
        assert_eq!(graph.folder, snapshot);
        assert_eq!(graph.weights, BTreeSet::from(["graph.onnx_data".to_owned()]));
    }

    #[test]
    fn damaged_graphs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let whole = std::fs::read(published()).unwrap();
        for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
            write(&path, &whole[..length]);
            let graphs = DecoderGraphs { step: GraphSource::Path(path.clone()), first: None };
            assert!(rewrite_decoder(&graphs, FACTS).is_err(), "{length} bytes");
        }
    }
}
