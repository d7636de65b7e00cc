//! The wiring of a bundle's graphs: encoders turn samples into prompts, decoders provide slots.

mod causal;
mod embedding;
mod encoder_decoder;
mod extra_inputs;
mod growing;
mod image_text;
mod in_place;
mod media;
mod multimodal;
mod padding;
mod pooling;
mod positions;
mod slot_size;
mod tokens;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Bundle, ModelError, Prompt, Runtime, Sample,
    arch::{EncoderInput, PositionScheme, PromptAttention, Wiring},
    bundle::{BundleError, DecoderStart},
    engine::{DecodeError, Decoder},
    onnx::{
        Adapter, DecoderPorts, DeviceKind, Dialect, Dtype, GraphSession, GrowingGraph,
        InPlaceGraph, RunError,
    },
};

use causal::TextEncoder;
pub(crate) use embedding::EmbeddingEncoder;
use encoder_decoder::Seq2SeqEncoder;
use growing::{GrowingDecoder, RowRules};
use image_text::ImageTextEncoder;
use in_place::InPlaceDecoder;
pub(crate) use in_place::cache_tokens;
use multimodal::MultimodalEncoder;
use slot_size::RowBytes;
pub(crate) use slot_size::RowCount;
use tokens::{TokenEmbedding, TokenInput};

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
    let dims = [text.num_key_value_heads(), text.head_dim(), text.vocab_size];
    let sizes = [rows * slots.per_row, slots.context_tokens, text.vocab_size];
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
            Box::new(InPlaceDecoder::new(graph, tokens, sizes, mixes_rows)?)
        }
        dialect @ (Dialect::Growing | Dialect::Shifted) => {
            let graph = GrowingGraph::new(graph, ports, dims)?;
            let rules = RowRules { merges: dialect == Dialect::Growing, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, sizes, rules))
        }
        Dialect::Cohort => {
            let graph =
                GrowingGraph::new(graph, ports, dims)?.with_encoder(first, bundle.mask_stride())?;
            let rules = RowRules { merges: false, whole_prompts };
            Box::new(GrowingDecoder::new(graph, tokens, sizes, rules))
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

impl From<RunError> for EncodeError {
    fn from(error: RunError) -> Self {
        Self::Run { graph: error.graph, message: error.message }
    }
}

/// Runs an encoder on a batch. If it fails, runs it on halves of the batch, down to single items.
/// `put` receives the result of each item.
fn run_or_split<T, R>(
    batch: &[T],
    run: &mut impl FnMut(&[T]) -> Result<Vec<R>, EncodeError>,
    put: &mut impl FnMut(&T, Result<R, EncodeError>),
) {
    match (run(batch), batch) {
        (Ok(found), _) => batch.iter().zip(found).for_each(|(item, found)| put(item, Ok(found))),
        (Err(_), []) => {}
        (Err(error), [one]) => put(one, Err(error)),
        (Err(error), _) => {
            tracing::warn!(rows = batch.len(), code = error.code(), "encoder failed, will split");
            let (left, right) = batch.split_at(batch.len() / 2);
            run_or_split(left, run, put);
            run_or_split(right, run, put);
        }
    }
}

/// Converts a failed run into the error of a whole decoder call.
fn decode_error(error: RunError, n_rows: usize) -> DecodeError {
    DecodeError::Run { graph: error.graph, n_rows, message: error.message }
}

/// Token counts are far below 2^63.
fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Turns samples into prompts: runs the encoders and merges their features into the embeddings.
pub trait Encoder: Send + fmt::Debug {
    /// Encodes samples and returns one result per sample, in order.
    ///
    /// Encoders run on batches. A failing batch is split and retried down to single rows, so only
    /// the rows that fail on their own are returned as errors.
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>>;

    /// Returns the preferred number of samples per [`encode`](Self::encode) call.
    fn batch_rows(&self) -> usize {
        8
    }
}

/// An error while encoding one sample. The row is rejected; other rows continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The runtime failed on this row alone.
    #[error("failed to run `{graph}`: {message}")]
    Run {
        /// The graph that was run.
        graph: String,
        /// The error of the runtime.
        message: String,
    },
    /// A graph returned a shape that violates its contract.
    #[error("output of `{graph}` has shape {actual:?}, expected {expected}")]
    OutputShape {
        /// The graph that was run.
        graph: String,
        /// The returned shape.
        actual: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// The number of placeholders in the prompt does not match the number of features.
    #[error("the prompt has {n_placeholders} {modality} placeholders for {n_features} features")]
    FeatureCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The number of placeholders in the prompt.
        n_placeholders: usize,
        /// The number of features from the encoder.
        n_features: usize,
    },
    /// The text exceeds the maximum length of the encoder.
    #[error("the text has {n_tokens} tokens, the model accepts at most {max_tokens}")]
    TextTooLong {
        /// The number of tokens of the text.
        n_tokens: usize,
        /// The maximum number of tokens.
        max_tokens: usize,
    },
    /// An embedding has NaN or infinite values.
    #[error("`{graph}` returned a non-finite embedding")]
    NotFinite {
        /// The graph that was run.
        graph: String,
    },
    /// The model has no encoder for a medium of the sample.
    #[error("the model has no {modality} encoder")]
    NoEncoder {
        /// `image` or `audio`.
        modality: &'static str,
    },
}

impl EncodeError {
    /// Returns a stable error code for metrics and rejects.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Run { .. } => "runtime",
            Self::OutputShape { .. } => "output_shape",
            Self::FeatureCount { .. } => "feature_count",
            Self::TextTooLong { .. } => "prompt_too_long",
            Self::NotFinite { .. } => "not_finite",
            Self::NoEncoder { .. } => "encoder_missing",
        }
    }
}
