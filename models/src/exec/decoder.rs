//! The decoder graph of a bundle, opened with its slots.

use std::sync::PoisonError;

use legenda_schemas::job::GraphForm;

use super::{
    GraphSetup, ModelError, RowCount, encoder_graph,
    growing::{GrowingDecoder, RowRules},
    in_place::InPlaceDecoder,
    padding,
    slot_size::{RowBytes, shared_rows},
    tokens::TokenInput,
    trial::{Trial, matched},
};
use crate::{
    arch::{EncoderInput, PositionScheme, PromptAttention, Wiring},
    bundle::Bundle,
    config::BundleError,
    engine::Decoder,
    graph::{DecoderFacts, DecoderGraphs, Dialect, rewrite_decoder},
    runtime::{
        Adapter, DecoderDims, DecoderPorts, DeviceKind, Dtype, GraphSession, GrowingGraph,
        InPlaceGraph,
    },
};

/// The slots of a decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// The maximum number of rows decoded together.
    pub(crate) rows: RowCount,
    /// The number of slots per row: one for each beam.
    pub(crate) per_row: usize,
    /// The maximum number of tokens of a slot.
    pub(crate) context_tokens: usize,
}

/// The sizes of the slots of an opened decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecoderSlots {
    /// The number of slots.
    pub(super) slots: usize,
    /// The maximum number of tokens of a slot.
    pub(super) context_tokens: usize,
    /// Logits of a position.
    pub(super) vocab_size: usize,
}

/// A decoder that is ready to run.
pub(super) struct OpenedDecoder {
    pub(super) decoder: Box<dyn Decoder>,
    /// The rewritings of its graph.
    pub(super) rewritings: Vec<&'static str>,
}

/// Opens the decoder graph: rewritten, if that is possible and does not change its results.
pub(super) fn open_decoder(
    setup: GraphSetup<'_>,
    bundle: &Bundle,
    tokens: TokenInput,
    slots: Slots,
) -> Result<OpenedDecoder, ModelError> {
    let published = published(bundle)?;
    if setup.graphs == GraphForm::Rewritten
        && let Some(rewritten) = rewritten(bundle, setup.device, &published)
    {
        let open = |graphs: &DecoderGraphs<'_>, slots| {
            open_graphs(setup, bundle, tokens.clone(), slots, graphs)
        };
        let trial = Trial::new(setup, bundle, &tokens, slots.context_tokens);
        if trial.accepts(&published, &rewritten, open) {
            let rewritings = rewritten.step.rewritings().to_vec();
            let decoder = open_graphs(setup, bundle, tokens, slots, &rewritten)?;
            return Ok(OpenedDecoder { decoder, rewritings });
        }
    }
    let decoder = open_graphs(setup, bundle, tokens, slots, &published)?;
    Ok(OpenedDecoder { decoder, rewritings: Vec::new() })
}

/// Returns the rewritings that the graphs of a bundle match on a CPU. Whether they are in use also
/// depends on the test at load.
#[must_use]
pub fn rewritings(bundle: &Bundle) -> Vec<&'static str> {
    let mut found = Vec::new();
    if let Wiring::EncoderDecoder(spec) = bundle.arch.wiring
        && spec.input == EncoderInput::LogMel
        && let Ok(published) = bundle.files.graph(bundle.encoder_graph())
        && let Some(rewritten) = encoder_graph::rewritten("encoder", &published)
    {
        found.extend(rewritten.rewritings());
    }
    if !matches!(bundle.arch.wiring, Wiring::Embedding(_))
        && let Ok(published) = published(bundle)
        && let Some(rewritten) = rewritten(bundle, DeviceKind::Cpu, &published)
    {
        found.extend(rewritten.step.rewritings());
    }
    found
}

/// Returns the published graphs of a decoder.
fn published(bundle: &Bundle) -> Result<DecoderGraphs<'_>, BundleError> {
    let first = bundle.first_run_graph().map(|name| bundle.files.graph(name));
    let step = bundle.files.graph(bundle.decoder_graph)?;
    Ok(DecoderGraphs { step, first: first.transpose()? })
}

/// Returns what the config declares about the decoder.
fn decoder_facts(bundle: &Bundle, device: DeviceKind) -> DecoderFacts {
    let text = &bundle.config.text;
    DecoderFacts {
        heads: text.num_attention_heads(),
        head_dim: text.head_dim(),
        sliding_window: text.sliding_window,
        is_half: device == DeviceKind::Cuda,
    }
}

/// Rewrites the decoder of a bundle, if it matches a pattern.
pub(super) fn rewritten(
    bundle: &Bundle,
    device: DeviceKind,
    published: &DecoderGraphs<'_>,
) -> Option<DecoderGraphs<'static>> {
    // The new operators are causal.
    if bundle.arch.prompt.attention != PromptAttention::Causal {
        return None;
    }
    matched(bundle.decoder_graph, rewrite_decoder(published, decoder_facts(bundle, device)))
}

/// Opens the graphs of a decoder. The dialect determines the slot implementation.
pub(super) fn open_graphs(
    setup: GraphSetup<'_>,
    bundle: &Bundle,
    tokens: TokenInput,
    slots: Slots,
    graphs: &DecoderGraphs<'_>,
) -> Result<Box<dyn Decoder>, ModelError> {
    let GraphSetup { runtime, device, .. } = setup;
    let name = bundle.decoder_graph;
    let graph = GraphSession::open(runtime, name, &graphs.step, device)?;
    let first_name = bundle.first_run_graph().unwrap_or(name);
    let open = |source| GraphSession::open(runtime, first_name, source, device);
    let first = graphs.first.as_ref().map(open).transpose()?;
    let mixes_rows = graph.mixes_rows()
        || tokens.mixes_rows()
        || first.as_ref().is_some_and(GraphSession::mixes_rows);
    let ports = DecoderPorts::read(&graph, &graphs.step)?;
    let embeds_prompts = matches!(bundle.arch.wiring, Wiring::Multimodal);
    let row_bytes = RowBytes::new(bundle, slots.context_tokens, embeds_prompts);
    let is_in_place = matches!(ports.dialect, Dialect::InPlace | Dialect::InPlaceMask);
    // Rows that wait in the engine hold their prompts, which are large with embeddings.
    let is_shared = !mixes_rows && slots.per_row == 1 && matches!(tokens, TokenInput::Ids);
    let limit =
        slots.rows.shared_bytes().filter(|_| is_shared).map(|bytes_max| {
            row_bytes.shared(ports.dialect, bytes_max, shared_rows(ports.dialect))
        });
    let wanted_rows = match limit {
        Some(_) => shared_rows(ports.dialect),
        None => slots.rows.rows(row_bytes.held(ports.dialect, slots.per_row)),
    };
    let rows = if mixes_rows { 1 } else { wanted_rows };
    if rows < wanted_rows {
        tracing::warn!(
            graph = name,
            "rows run one at a time: the graph computes a scale over all rows of a run. Use \
             `model.precision` `q4`, `fp16` or `fp32`, if available, to batch rows"
        );
    }
    // A prompt carries its tokens in one form only, which the graph must accept.
    match &tokens {
        TokenInput::Ids if ports.tokens_dtype == Dtype::I32 => {}
        TokenInput::Ids => graph.expect_input("input_ids", Dtype::I64)?,
        TokenInput::Embeds(embedding) => {
            graph.expect_float_input("inputs_embeds")?;
            embedding.lock().unwrap_or_else(PoisonError::into_inner).serve(&ports)?;
        }
    }
    if bundle.arch.positions == PositionScheme::MRope {
        graph.expect_input("position_ids", Dtype::I64)?;
        graph.expect_dims("position_ids", &[3, -1, -1])?;
    }
    let text = &bundle.config.text;
    let dims = DecoderDims::new(text);
    let slots = DecoderSlots {
        slots: rows * slots.per_row,
        context_tokens: slots.context_tokens,
        vocab_size: text.vocab_size,
    };
    tracing::debug!(graph = name, dialect = ?ports.dialect, "decoder opened");
    let tries_padding = ports.pads_on_either_side.then(|| tokens.clone());
    if let Some(file) =
        bundle.config.adapters.numbered().into_iter().flatten().next().filter(|_| !is_in_place)
    {
        return Err(ModelError::Bundle(BundleError::UnsupportedOption {
            file: "genai_config.json",
            key: "adapter_filename".to_owned(),
            value: file.to_owned(),
            supported: "decoders with an in-place KV cache".to_owned(),
        }));
    }
    let whole_prompts = mixes_rows || bundle.arch.prompt.attention == PromptAttention::Prefix;
    let mut decoder: Box<dyn Decoder> = match ports.dialect {
        Dialect::InPlace | Dialect::InPlaceMask => {
            let adapters = adapters(&graph, bundle)?;
            let graph = InPlaceGraph::new(graph, ports, dims)?.with_adapters(adapters);
            Box::new(InPlaceDecoder::new(graph, tokens, slots, limit, mixes_rows)?)
        }
        dialect @ (Dialect::Growing | Dialect::Shifted) => {
            let graph = GrowingGraph::new(graph, ports, dims)?;
            let rules = RowRules { merges: dialect == Dialect::Growing, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, slots, limit, rules))
        }
        Dialect::Cohort => {
            let graph =
                GrowingGraph::new(graph, ports, dims)?.with_encoder(first, bundle.mask_stride())?;
            let rules = RowRules { merges: false, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, slots, limit, rules))
        }
    };
    if let Some(tokens) = tries_padding {
        padding::check(decoder.as_mut(), &tokens, text.vocab_size, name)?;
    }
    Ok(decoder)
}

/// Reads the existing adapters of a decoder graph.
fn adapters(graph: &GraphSession, bundle: &Bundle) -> Result<Vec<Option<Adapter>>, ModelError> {
    let read = |file: Option<&str>| {
        let Some(file) = file else { return Ok(None) };
        Ok(Some(Adapter::read(graph, file, &bundle.files.bytes(file)?)?))
    };
    bundle.config.adapters.numbered().into_iter().map(read).collect()
}
