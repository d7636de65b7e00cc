//! The wiring of a bundle's graphs: encoders turn samples into prompts, decoders provide slots.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Encoder, ModelError, RowCount, TokenEmbedding,
    causal::TextEncoder,
    encoder_decoder::Seq2SeqEncoder,
    growing::{GrowingDecoder, RowRules},
    image_text::ImageTextEncoder,
    in_place::InPlaceDecoder,
    multimodal::MultimodalEncoder,
    padding,
    slot_size::RowBytes,
    tokens::TokenInput,
};
use crate::{
    arch::{EncoderInput, PositionScheme, PromptAttention, Wiring},
    bundle::{Bundle, DecoderStart},
    config::BundleError,
    engine::Decoder,
    graph::Dialect,
    runtime::{
        Adapter, DecoderDims, DecoderPorts, DeviceKind, Dtype, GraphSession, GrowingGraph,
        InPlaceGraph, Runtime,
    },
};

/// The opened graphs of a bundle.
pub(crate) struct Graphs {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) decoder: Box<dyn Decoder>,
}

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

/// Opens the graphs of a bundle: the encoder and the decoder with its slots.
pub(crate) fn open(
    runtime: &Runtime,
    bundle: &Bundle,
    device: DeviceKind,
    slots: Slots,
    start: DecoderStart,
) -> Result<Graphs, ModelError> {
    let context_tokens = slots.context_tokens;
    match bundle.arch.wiring {
        Wiring::EncoderDecoder(spec) if spec.input == EncoderInput::ImageText => {
            let embedding = Arc::new(Mutex::new(TokenEmbedding::open(runtime, bundle, device)?));
            let shared = Arc::clone(&embedding);
            let encoder =
                ImageTextEncoder::open(runtime, bundle, device, shared, start, context_tokens)?;
            let tokens = TokenInput::Embeds(embedding);
            let decoder = open_decoder(runtime, bundle, device, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(encoder), decoder })
        }
        Wiring::EncoderDecoder(spec) => {
            let encoder =
                Seq2SeqEncoder::open(runtime, bundle, device, spec.input, start, context_tokens)?;
            let tokens = TokenInput::Ids;
            let decoder = open_decoder(runtime, bundle, device, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(encoder), decoder })
        }
        Wiring::Multimodal => {
            let embedding = Arc::new(Mutex::new(TokenEmbedding::open(runtime, bundle, device)?));
            let encoder = MultimodalEncoder::open(runtime, bundle, device, Arc::clone(&embedding))?;
            let tokens = TokenInput::Embeds(embedding);
            let decoder = open_decoder(runtime, bundle, device, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(encoder), decoder })
        }
        Wiring::Causal => {
            let tokens = TokenInput::Ids;
            let decoder = open_decoder(runtime, bundle, device, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(TextEncoder), decoder })
        }
        Wiring::Embedding(_) => Err(bundle.no_generation("generate").into()),
    }
}

/// Opens the decoder graph. Its dialect determines the slot implementation.
fn open_decoder(
    runtime: &Runtime,
    bundle: &Bundle,
    device: DeviceKind,
    tokens: TokenInput,
    slots: Slots,
) -> Result<Box<dyn Decoder>, ModelError> {
    let name = bundle.decoder_graph;
    let source = bundle.files.graph(name)?;
    let graph = GraphSession::open(runtime, name, &source, device)?;
    let open = |name| {
        let source = bundle.files.graph(name)?;
        Ok::<_, ModelError>(GraphSession::open(runtime, name, &source, device)?)
    };
    let first = bundle.first_run_graph().map(open).transpose()?;
    let mixes_rows = graph.mixes_rows()
        || tokens.mixes_rows()
        || first.as_ref().is_some_and(GraphSession::mixes_rows);
    let ports = DecoderPorts::read(&graph, &source)?;
    let embeds_prompts = matches!(bundle.arch.wiring, Wiring::Multimodal);
    let row_bytes = RowBytes::new(bundle, slots.context_tokens, embeds_prompts);
    let wanted_rows = slots.rows.rows(row_bytes.held(ports.dialect, slots.per_row));
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
    let is_in_place = matches!(ports.dialect, Dialect::InPlace | Dialect::InPlaceMask);
    if let Some(file) = bundle.config.adapters.iter().flatten().next().filter(|_| !is_in_place) {
        return Err(ModelError::Bundle(BundleError::UnsupportedOption {
            file: "genai_config.json",
            key: "adapter_filename".to_owned(),
            value: file.clone(),
            supported: "decoders with an in-place KV cache".to_owned(),
        }));
    }
    let whole_prompts = mixes_rows || bundle.arch.prompt.attention == PromptAttention::Prefix;
    let mut decoder: Box<dyn Decoder> = match ports.dialect {
        Dialect::InPlace | Dialect::InPlaceMask => {
            let adapters = adapters(&graph, bundle)?;
            let graph = InPlaceGraph::new(graph, ports, dims)?.with_adapters(adapters);
            Box::new(InPlaceDecoder::new(graph, tokens, slots, mixes_rows)?)
        }
        dialect @ (Dialect::Growing | Dialect::Shifted) => {
            let graph = GrowingGraph::new(graph, ports, dims)?;
            let rules = RowRules { merges: dialect == Dialect::Growing, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, slots, rules))
        }
        Dialect::Cohort => {
            let graph =
                GrowingGraph::new(graph, ports, dims)?.with_encoder(first, bundle.mask_stride())?;
            let rules = RowRules { merges: false, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, slots, rules))
        }
    };
    if let Some(tokens) = tries_padding {
        padding::check(decoder.as_mut(), &tokens, name)?;
    }
    Ok(decoder)
}

/// Reads the existing adapters of a decoder graph.
fn adapters(graph: &GraphSession, bundle: &Bundle) -> Result<Vec<Option<Adapter>>, ModelError> {
    let read = |file: &Option<String>| {
        let Some(file) = file else { return Ok(None) };
        Ok(Some(Adapter::read(graph, file, &bundle.files.bytes(file)?)?))
    };
    bundle.config.adapters.iter().map(read).collect()
}
