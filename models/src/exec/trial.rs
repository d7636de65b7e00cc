//! A load-time test of a rewritten decoder against the published graph.
//!
//! A short prompt runs together with a longer one, then both take a step, in both graphs: the logits must
//! be the same. The result is kept in the cache folder, so that the published graph is not opened again at
//! the next start.

use std::fmt;

use legenda_schemas::cause::{Cause, chain};

use super::{
    GraphSetup, ModelError, RowCount,
    decoder::Slots,
    padding::{distance, prompt, scores},
    tokens::TokenInput,
};
use crate::{
    bundle::Bundle,
    engine::{Decoder, Prompt},
    graph::{DecoderGraphs, ENCODER_STATES, GraphSource, PER_TOKEN, is_quantized},
    kept::{Kept, Key},
    runtime::DeviceKind,
    tensors::Tensor,
};

/// The lengths of the two prompts in tokens.
const SHORT_TOKENS: usize = 3;
const LONG_TOKENS: usize = 11;

/// The longest sliding window that the long prompt exceeds, so that the trial takes less than a second
/// on models of some hundred million parameters.
const WINDOW_TOKENS_MAX: usize = 1024;

/// The maximum difference of logits, relative to their range. In single precision, rounding errors of
/// the references are below 4e-7. Reduced precision rounds activations, so small differences grow.
const TOLERANCE: f32 = 5e-4;
const TOLERANCE_REDUCED: f32 = 0.03;
/// With other scales, activations are rounded to other values.
const TOLERANCE_REQUANTIZED: f32 = 0.2;

/// The number of states of an encoder that a prompt attends to.
const N_STATES: usize = 7;

/// A trial of the decoder of a bundle.
pub(super) struct Trial<'a> {
    setup: GraphSetup<'a>,
    graph: &'static str,
    tokens: &'a TokenInput,
    context_tokens: usize,
    long_tokens: usize,
    verdicts: Verdicts<'a>,
    vocab_size: usize,
}

impl<'a> Trial<'a> {
    pub(super) fn new(
        setup: GraphSetup<'a>,
        bundle: &Bundle,
        tokens: &'a TokenInput,
        context_tokens: usize,
    ) -> Self {
        let window = bundle.config.text.sliding_window.filter(|n| *n <= WINDOW_TOKENS_MAX);
        let long_tokens = LONG_TOKENS.max(window.map_or(0, |window| window + SHORT_TOKENS));
        let graph = bundle.decoder_graph;
        let vocab_size = bundle.config.text.vocab_size;
        let verdicts = Verdicts::new(setup);
        Self { setup, graph, tokens, context_tokens, long_tokens, verdicts, vocab_size }
    }

    /// Returns whether a rewritten graph gives the results of the published one. If not, a warning
    /// says so.
    pub(super) fn accepts(
        &self,
        published: &DecoderGraphs<'_>,
        rewritten: &DecoderGraphs<'_>,
        open: impl Fn(&DecoderGraphs<'_>, Slots) -> Result<Box<dyn Decoder>, ModelError>,
    ) -> bool {
        let sources: Vec<_> =
            [Some(&rewritten.step), rewritten.first.as_ref()].into_iter().flatten().collect();
        let run = || self.run(published, rewritten, open).map_err(|error| chain(&*error));
        self.verdicts.accept(self.graph, &sources, &self.long_tokens.to_string(), run)
    }

    /// Runs both graphs. `Err` is the problem.
    fn run(
        &self,
        published: &DecoderGraphs<'_>,
        rewritten: &DecoderGraphs<'_>,
        open: impl Fn(&DecoderGraphs<'_>, Slots) -> Result<Box<dyn Decoder>, ModelError>,
    ) -> Result<(), Cause> {
        // A token for the step, and one that the capacity of the slot needs.
        let long_tokens = self.long_tokens.min(self.context_tokens.saturating_sub(2));
        let short_tokens = SHORT_TOKENS.min(long_tokens);
        let context_tokens = long_tokens + 2;
        let slots = Slots { rows: RowCount::Fixed(2), per_row: 1, context_tokens };
        let prompts = [self.prompt(rewritten, short_tokens)?, self.prompt(rewritten, long_tokens)?];
        let open = |graphs| open(graphs, slots);
        let mut decoder = open(published)?;
        let expected = if decoder.slots() < prompts.len() {
            // Rows depend on each other, so each one runs alone.
            let alone = |prompt| scores(decoder.as_mut(), std::slice::from_ref(prompt));
            prompts.iter().map(alone).collect::<Result<Vec<_>, _>>()?.concat()
        } else {
            scores(decoder.as_mut(), &prompts)?
        };
        drop(decoder);
        let mut decoder = open(rewritten)?;
        if decoder.slots() < prompts.len() {
            return Err("rows depend on each other".into());
        }
        let actual = scores(decoder.as_mut(), &prompts)?;
        let is_reduced = self.setup.device == DeviceKind::Cuda || is_quantized(&published.step)?;
        let difference = distance(&expected, &actual);
        let tolerance = if rewritten.step.rewritings().contains(&PER_TOKEN) {
            TOLERANCE_REQUANTIZED
        } else if is_reduced {
            TOLERANCE_REDUCED
        } else {
            TOLERANCE
        };
        expect_close(self.graph, "logits", difference, tolerance)
    }

    /// Creates a prompt of `n_tokens`. If the decoder attends to the states of an encoder, they are
    /// numbers between -1 and 1 that depend on `n_tokens`.
    fn prompt(&self, graphs: &DecoderGraphs<'_>, n_tokens: usize) -> Result<Prompt, Cause> {
        let prompt = prompt(self.tokens, self.vocab_size, n_tokens)?;
        // Later runs may take the keys and values of the states alone.
        let mut sources = [Some(&graphs.step), graphs.first.as_ref()].into_iter().flatten();
        let size = sources.find_map(|source| source.input_dim(ENCODER_STATES, 2));
        let Some(size) = size else { return Ok(prompt) };
        let value = |idx: usize| {
            let hash = (idx + 1) * (n_tokens + 1) * 7919 % 2001;
            u16::try_from(hash).map_or(0.0, |hash| f32::from(hash) / 1000.0 - 1.0)
        };
        let states = (0..N_STATES * size).map(value).collect();
        let states = Tensor::new([N_STATES, size], states)?;
        Ok(Prompt::of_states(prompt.token_ids().to_vec(), states, None, 0))
    }
}

/// Returns a rewritten graph; a refusal is not an error, and the published graph runs.
pub(super) fn matched<T>(graph: &str, rewritten: Result<T, impl fmt::Display>) -> Option<T> {
    rewritten.inspect_err(|refusal| tracing::debug!(graph, %refusal, "graph not rewritten")).ok()
}

/// Checks the difference between the results of both graphs, relative to their range.
pub(super) fn expect_close(
    graph: &str,
    results: &str,
    difference: f32,
    tolerance: f32,
) -> Result<(), Cause> {
    tracing::debug!(graph, difference, "rewritten graph tested");
    if difference <= tolerance {
        Ok(())
    } else {
        Err(format!("{results} differ by {difference:.4} of their range").into())
    }
}

/// The results of trials, kept between starts.
pub(super) struct Verdicts<'a> {
    setup: GraphSetup<'a>,
    kept: Kept,
}

impl<'a> Verdicts<'a> {
    pub(super) fn new(setup: GraphSetup<'a>) -> Self {
        Self { setup, kept: Kept::of(setup.runtime.cache_dir(), "rewritten-graphs") }
    }

    /// Returns whether rewritten graphs passed a trial: an earlier one under the same conditions, or
    /// `run`, whose `Err` is the problem. If not, a warning says so. `trial` tells trials of the same
    /// graphs apart.
    pub(super) fn accept(
        &self,
        graph: &str,
        rewritten: &[&GraphSource<'_>],
        trial: &str,
        run: impl FnOnce() -> Result<(), String>,
    ) -> bool {
        let key = self.key(rewritten, trial);
        let result = match key.as_ref().and_then(|key| self.kept.get(key)) {
            Some(text) if text == EQUAL => Ok(()),
            Some(problem) => Err(problem),
            None => {
                let result = run();
                if let Some(key) = key {
                    self.kept.put(&key, result.as_ref().err().map_or(EQUAL, String::as_str));
                }
                result
            }
        };
        match &result {
            Ok(()) => {
                let applied = rewritten.first().map(|source| source.rewritings());
                tracing::debug!(graph, ?applied, "graph rewritten");
            }
            Err(problem) => tracing::warn!(
                graph,
                problem,
                "the published graph runs, because a test of the rewritten graph failed"
            ),
        }
        result.is_ok()
    }

    /// Returns what a result depends on; `None` if that is unknown.
    fn key(&self, rewritten: &[&GraphSource<'_>], trial: &str) -> Option<Key> {
        let mut key = Key::new();
        for graph in rewritten {
            let GraphSource::Rewritten(graph) = graph else { return None };
            key.add(&graph.bytes);
            graph.weights.iter().for_each(|file| key.add_file(&graph.folder.join(file)));
        }
        key.add(self.setup.runtime.version().as_bytes());
        key.add(format!("{:?} {trial}", self.setup.device).as_bytes());
        Some(key)
    }
}

/// The content of a kept result if the logits are the same; else it is the problem.
const EQUAL: &str = "equal";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use legenda_schemas::job::{Device, GraphForm};
    use prost::Message;

    use super::*;
    use crate::{
        exec::{decoder::open_graphs, decoder::rewritten},
        graph::{RewrittenGraph, onnx::ModelProto},
        load::BundleSource,
        runtime::{Runtime, RuntimeOptions},
    };

    /// Changes a rewritten graph.
    fn broken(
        graphs: &DecoderGraphs<'_>,
        change: impl Fn(&mut ModelProto),
    ) -> DecoderGraphs<'static> {
        let GraphSource::Rewritten(graph) = &graphs.step else { panic!("not rewritten") };
        let mut model = ModelProto::decode(graph.bytes.as_slice()).unwrap();
        change(&mut model);
        let step = GraphSource::Rewritten(Arc::new(RewrittenGraph {
            bytes: model.encode_to_vec(),
            folder: graph.folder.clone(),
            inputs: graph.inputs.clone(),
            weights: graph.weights.clone(),
            applied: graph.applied.clone(),
        }));
        DecoderGraphs { step, first: None }
    }

    /// Changes an attribute of the first attention operator.
    fn with_attribute(model: &mut ModelProto, name: &str, f: Option<f32>, i: Option<i64>) {
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let node = nodes.iter_mut().find(|node| node.op_type() == crate::graph::GQA).unwrap();
        let attribute = node.attribute.iter_mut().find(|attribute| attribute.name() == name);
        let attribute = attribute.unwrap();
        (attribute.f, attribute.i) = (f, i);
    }

    #[test]
    fn a_wrong_rewriting_is_found_and_the_result_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
        let device = runtime.choose_device(Device::Cpu).unwrap().kind;
        assert_eq!(device, DeviceKind::Cpu);
        let setup = GraphSetup { runtime: &runtime, device, graphs: GraphForm::Rewritten };
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles/gemma3_text");
        let bundle = Bundle::open(&BundleSource::Directory(path.into())).unwrap();
        let step = bundle.files.graph(bundle.decoder_graph).unwrap();
        let published = DecoderGraphs { step, first: None };
        let correct = rewritten(&bundle, device, &published).unwrap();
        let tokens = TokenInput::Ids;
        let kept = Kept::of(Some(cache.path()), "trials");
        let verdicts = Verdicts { setup, kept };
        let trial = Trial { verdicts, ..Trial::new(setup, &bundle, &tokens, 64) };
        let accepts = |graphs: &DecoderGraphs<'_>| {
            trial.accepts(&published, graphs, |graphs, slots| {
                open_graphs(setup, &bundle, tokens.clone(), slots, graphs)
            })
        };
        assert!(accepts(&correct));
        // A window that is one token too long, another scale, and a graph that does not run.
        let wrong = [
            broken(&correct, |model| with_attribute(model, "local_window_size", None, Some(17))),
            broken(&correct, |model| with_attribute(model, "scale", Some(0.5), None)),
            broken(&correct, |model| with_attribute(model, "kv_num_heads", None, Some(1))),
        ];
        for (idx, source) in wrong.iter().enumerate() {
            assert!(!accepts(source), "wrong graph {idx}");
        }
        let kept = || std::fs::read_dir(cache.path().join("trials")).unwrap().count();
        assert_eq!(kept(), 1 + wrong.len());
        // The kept results are used: a graph that cannot be opened is not opened.
        let unopened = |graphs: &DecoderGraphs<'_>| {
            trial.accepts(&published, graphs, |_, _| panic!("the result was kept"))
        };
        assert!(unopened(&correct) && wrong.iter().all(|source| !unopened(source)));
        assert_eq!(kept(), 1 + wrong.len());
    }
}
