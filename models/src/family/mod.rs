//! How the graphs of a bundle are wired: samples to prompts before the engine, slots under it.

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

/// The graphs of a bundle, opened and wired.
pub(crate) struct Graphs {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) decoder: Box<dyn Decoder>,
}

/// The slots that a decoder is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// Rows together, at most.
    pub(crate) rows: RowCount,
    /// Slots that each row takes: one for each beam.
    pub(crate) per_row: usize,
    /// Tokens that each may have.
    pub(crate) context_tokens: usize,
}

/// Opens the graphs of a bundle: what makes prompts of samples, and the slots they go to.
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

/// Opens the decoder graph; its dialect says what the slots are made of.
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
            "rows are run one by one: the graph scales values by all rows of a run. `model.precision` \
             `q4`, `fp16` or `fp32` runs rows together, where the model has it"
        );
    }
    // A prompt's tokens come in one form only: the graph must take that one.
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
            supported: "decoders that keep keys and values in place".to_owned(),
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

/// Reads the adapters of a decoder's graph, as far as there are some.
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

/// Runs an encoder on a batch; if it fails, on halves of the batch, down to one. `put` gets what came
/// of each item.
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

/// Says of a failed run that a whole decoder call has failed.
fn decode_error(error: RunError, n_rows: usize) -> DecodeError {
    DecodeError::Run { graph: error.graph, n_rows, message: error.message }
}

/// Token counts are far below 2^63.
fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Turns samples into prompts: runs the encoders and puts their features in place.
pub trait Encoder: Send + fmt::Debug {
    /// Encodes samples, each to its own result, in order.
    ///
    /// Encoders run on batches. A batch that fails is split and repeated down to one row, so only
    /// the rows that fail alone come back as errors.
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>>;

    /// Returns how many samples are worth giving to one [`encode`](Self::encode).
    fn batch_rows(&self) -> usize {
        8
    }
}

/// Failure to encode one sample. The row is rejected; other rows go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The runtime failed on this row alone.
    #[error("failed to run `{graph}`: {message}")]
    Run {
        /// The graph that was run.
        graph: String,
        /// What the runtime said.
        message: String,
    },
    /// A graph returned something other than its contract says.
    #[error("output of `{graph}` has shape {actual:?}, expected {expected}")]
    OutputShape {
        /// The graph that was run.
        graph: String,
        /// The shape returned.
        actual: Vec<usize>,
        /// The shape its contract says.
        expected: String,
    },
    /// The prompt has not one placeholder per feature.
    #[error("the prompt has {n_placeholders} {modality} placeholders for {n_features} features")]
    FeatureCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// Placeholders in the prompt.
        n_placeholders: usize,
        /// Feature rows from the encoder.
        n_features: usize,
    },
    /// The text is longer than the encoder reads.
    #[error("the text has {n_tokens} tokens, the model reads at most {max_tokens}")]
    TextTooLong {
        /// The tokens of the text.
        n_tokens: usize,
        /// The most that are read.
        max_tokens: usize,
    },
    /// An embedding has numbers that are not finite.
    #[error("`{graph}` returned an embedding that is not finite")]
    NotFinite {
        /// The graph that was run.
        graph: String,
    },
    /// The model has no encoder for what is in the sample.
    #[error("the model has no {modality} encoder")]
    NoEncoder {
        /// `image` or `audio`.
        modality: &'static str,
    },
}

impl EncodeError {
    /// Returns the label for metrics and rejects: few and stable.
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
