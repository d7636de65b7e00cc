//! Encoders that produce embeddings: sentence encoders, and each encoder of a dual encoder.
//!
//! Inputs and outputs are determined from the graph. Rows of a batch have similar lengths and are
//! right-padded; the padding is masked or, in CLIP's causal text encoder, after all tokens that are
//! read. Graphs in which padding would be visible run rows of one length only.

use std::ops::Range;

use legenda_schemas::job::{EmbeddingOptions, Pooling};

use super::{EncodeError, pooling, run_or_split, to_i64, tokens::right_padded};
use crate::{
    bundle::{Bundle, EmbeddingConfig, EmbeddingKind, Step},
    config::BundleError,
    engine::{Embedding, EmbeddingInput},
    exec::ModelError,
    preprocess::Sample,
    runtime::{DeviceKind, Dtype, Feed, GraphSession, Runtime, SessionError},
    tensors::Tensor,
};

/// The maximum number of tokens of a batch, padding included. On a GPU, attention over 8 rows of 512
/// tokens takes some 100 MB per layer in a BERT of the usual size. On a CPU, larger batches do not fit
/// its L2 cache: MiniLM-L6 (f32, one thread) takes 6.0 ms per row of 32 tokens in batches of 8, and
/// 6.2 to 6.5 ms in batches of 32; per row of 256 tokens 55 ms alone, and 65 ms in batches of 32.
const BATCH_TOKENS_MAX: usize = 4096;
const BATCH_TOKENS_MAX_CPU: usize = 512;

/// The default maximum number of texts per batch.
const BATCH_TEXTS: usize = 32;

/// The default maximum number of images or audio inputs per batch.
const BATCH_MEDIA: usize = 8;

/// The length difference in tokens that a batch always tolerates, even for very short rows.
const PADDING_TOKENS: usize = 8;

/// The graph output that contains the embedding.
#[derive(Debug)]
enum Output {
    /// Token states, `[B, S, C]`, to be pooled.
    States(&'static str, Vec<Pooling>),
    /// One vector per row, `[B, C]`.
    Vector(&'static str),
}

/// A graph that computes embeddings of text, images or audio.
#[derive(Debug)]
pub(crate) struct EmbeddingEncoder {
    graph: GraphSession,
    inputs: Vec<String>,
    input: EmbeddingInput,
    output: Output,
    /// The steps after the output.
    steps: Vec<Step>,
    /// The dummy input of a dual encoder's other side, if both are in one graph.
    beside: Beside,
    pad_id: i64,
    rows_max: usize,
    /// The maximum number of tokens of a batch of texts.
    tokens_max: usize,
    /// Whether rows of different lengths may share a batch.
    pads: bool,
}

/// An image for texts, or a text of one token for images. Its output is ignored.
#[derive(Debug)]
struct Beside {
    pixels: Tensor<f32>,
    zero: Tensor<i64>,
    one: Tensor<i64>,
}

/// The inputs of a batch of texts, each `[B, S]`.
struct TextBatch {
    ids: Tensor<i64>,
    mask: Tensor<i64>,
    types: Tensor<i64>,
    positions: Tensor<i64>,
}

/// A sample and the index of its embedding.
type Place<'a> = (usize, &'a Sample);

/// One result per sample.
type Results = Vec<Result<Embedding, EncodeError>>;

impl EmbeddingEncoder {
    /// Opens the graph that embeds `input`, for batches of at most `rows_max` rows.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        input: EmbeddingInput,
        options: &EmbeddingOptions,
        rows_max: Option<usize>,
        pad_id: i64,
    ) -> Result<Self, ModelError> {
        let config = bundle.embedding()?;
        let name = graph_name(bundle, config, input)?;
        let source = bundle.files.graph(name)?;
        let graph = GraphSession::open(runtime, name, &source, device)?;
        match medium_name(input) {
            None => graph.expect_input("input_ids", Dtype::I64)?,
            Some(name) => graph.expect_float_input(name)?,
        }
        let inputs: Vec<String> = graph.input_names().map(str::to_owned).collect();
        for name in &inputs {
            match name.as_str() {
                "input_ids" | "attention_mask" | "token_type_ids" | "position_ids" => {
                    graph.expect_input(name, Dtype::I64)?;
                }
                "pixel_values" | "input_features" => graph.expect_float_input(name)?,
                "is_longer" => graph.expect_input(name, Dtype::Bool)?,
                _ => {
                    let (graph, name) = (graph.name().to_owned(), name.clone());
                    return Err(SessionError::UnknownInput { graph, name }.into());
                }
            }
        }
        let (output, steps) = output(&graph, config, input, options)?;
        let has_mask = inputs.iter().any(|name| name == "attention_mask");
        let (looks_back, image_size) = match config.kind {
            EmbeddingKind::Sentence(_) => (false, 1),
            EmbeddingKind::Dual { looks_back, image_size, .. } => (looks_back, image_size),
        };
        let usual = match input {
            EmbeddingInput::Text => BATCH_TEXTS,
            EmbeddingInput::Image | EmbeddingInput::Audio => BATCH_MEDIA,
        };
        Ok(Self {
            beside: Beside {
                pixels: Tensor::zeros(pixel_shape(&graph, image_size)),
                zero: Tensor::zeros([1, 1]),
                one: Tensor::filled([1, 1], 1),
            },
            rows_max: graph.rows_max(rows_max.unwrap_or(usual)),
            tokens_max: match device {
                DeviceKind::Cpu => BATCH_TOKENS_MAX_CPU,
                DeviceKind::Cuda => BATCH_TOKENS_MAX,
            },
            pads: has_mask || looks_back,
            graph,
            inputs,
            input,
            output,
            steps,
            pad_id,
        })
    }

    /// Returns the maximum number of rows per batch.
    pub(crate) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Embeds samples and returns one result per sample, in order. A failing batch is split and
    /// retried down to single rows.
    pub(crate) fn embed(&mut self, samples: &[Sample]) -> Results {
        let input = self.input;
        let size = |sample: &Sample| match input {
            EmbeddingInput::Text => sample.token_ids.len(),
            _ => medium(input, sample).map_or(0, Tensor::row_len),
        };
        // Samples without a row below have another kind of input.
        let other = |sample: &Sample| {
            let media = [
                ("image", sample.pixel_values.is_some()),
                ("audio", sample.input_features.is_some()),
            ];
            let modality = media.into_iter().find_map(|(name, is_there)| is_there.then_some(name));
            Err(EncodeError::NoEncoder { modality: modality.unwrap_or("text") })
        };
        let mut results: Results = samples.iter().map(other).collect();
        let mut rows: Vec<Place<'_>> =
            samples.iter().enumerate().filter(|(_, sample)| size(sample) > 0).collect();
        rows.sort_by_key(|(_, sample)| std::cmp::Reverse(size(sample)));
        let sizes: Vec<usize> = rows.iter().map(|(_, sample)| size(sample)).collect();
        let batches = match self.input {
            EmbeddingInput::Text => batches(&sizes, self.rows_max, self.tokens_max, self.pads),
            _ => batches(&sizes, self.rows_max, usize::MAX, false),
        };
        let graph = self.graph.name();
        for batch in batches {
            run_or_split(
                &rows[batch],
                &mut |batch| self.run(batch),
                &mut |(place, _), embedding| {
                    results[*place] = embedding.and_then(|embedding| checked(graph, embedding));
                },
            );
        }
        results
    }

    fn run(&mut self, batch: &[Place<'_>]) -> Result<Vec<Embedding>, EncodeError> {
        let graph = self.graph.name();
        let (texts, media) = match self.input {
            EmbeddingInput::Text => (Some(self.texts(batch)), None),
            input => {
                let media = batch.iter().filter_map(|(_, sample)| medium(input, sample));
                let media: Vec<&Tensor<f32>> = media.collect();
                // The same number of values in different shapes: splitting the batch separates
                // them.
                if media.iter().any(|one| one.shape()[1..] != media[0].shape()[1..]) {
                    return Err(EncodeError::run(graph, "the media of one batch differ in shape"));
                }
                let stacked =
                    Tensor::concat(&media).map_err(|error| EncodeError::run(graph, error))?;
                (None, Some(stacked))
            }
        };
        // CLAP marks an audio input that is processed alone as longer than a clip
        // (`ClapFeatureExtractor.__call__`).
        let is_longer = Tensor::filled([batch.len(), 1], true);
        let feeds: Vec<(&str, Feed<'_>)> = self
            .inputs
            .iter()
            .map(|name| {
                let feed = match (name.as_str(), &texts) {
                    ("pixel_values" | "input_features", _) => {
                        Feed::F32(media.as_ref().unwrap_or(&self.beside.pixels))
                    }
                    ("is_longer", _) => Feed::Bool(&is_longer),
                    ("input_ids", Some(texts)) => Feed::I64(&texts.ids),
                    ("attention_mask", Some(texts)) => Feed::I64(&texts.mask),
                    ("position_ids", Some(texts)) => Feed::I64(&texts.positions),
                    (_, Some(texts)) => Feed::I64(&texts.types),
                    ("attention_mask", None) => Feed::I64(&self.beside.one),
                    (_, None) => Feed::I64(&self.beside.zero),
                };
                (name.as_str(), feed)
            })
            .collect();
        let (Output::States(name, _) | Output::Vector(name)) = self.output;
        let found = self.graph.run_on(&feeds, name)?;
        let longest = batch.iter().map(|(_, sample)| sample.token_ids.len()).max().unwrap_or(0);
        let wrong = |expected: String| EncodeError::OutputShape {
            graph: self.graph.name().to_owned(),
            actual: found.shape().to_vec(),
            expected,
        };
        let width = match (&self.output, found.shape()) {
            (Output::States(..), [rows, tokens, width])
                if (*rows, *tokens) == (batch.len(), longest) && *width > 0 =>
            {
                *width
            }
            (Output::Vector(_), [rows, width]) if *rows == batch.len() => *width,
            (Output::States(..), _) => {
                return Err(wrong(format!("[{}, {longest}, C]", batch.len())));
            }
            (Output::Vector(_), _) => return Err(wrong(format!("[{}, C]", batch.len()))),
        };
        batch
            .iter()
            .enumerate()
            .map(|(row_idx, (_, sample))| {
                let row = found.row(row_idx);
                let n_tokens = sample.token_ids.len();
                let pooled = match &self.output {
                    Output::States(_, modes) => {
                        pooling::pool(&row[..n_tokens * width], width, modes)
                    }
                    Output::Vector(_) => row.to_vec(),
                };
                let values = pooling::finish(pooled, &self.steps)
                    .ok_or_else(|| wrong("the input width of the Dense module".to_owned()))?;
                let is_text = self.input == EmbeddingInput::Text;
                Ok(Embedding { values, n_tokens: is_text.then_some(n_tokens) })
            })
            .collect()
    }

    fn texts(&self, batch: &[Place<'_>]) -> TextBatch {
        let texts: Vec<&[i64]> =
            batch.iter().map(|(_, sample)| sample.token_ids.as_slice()).collect();
        let (ids, mask) = right_padded(&texts, self.pad_id);
        let mut positions = Tensor::zeros(ids.shape());
        for row in positions.data_mut().chunks_mut(ids.row_len().max(1)) {
            for (position, value) in row.iter_mut().enumerate() {
                *value = to_i64(position);
            }
        }
        TextBatch { types: Tensor::zeros(ids.shape()), ids, mask, positions }
    }
}

fn checked(graph: &str, embedding: Embedding) -> Result<Embedding, EncodeError> {
    if embedding.values.iter().all(|value| value.is_finite()) {
        Ok(embedding)
    } else {
        Err(EncodeError::NotFinite { graph: graph.to_owned() })
    }
}

/// Returns the graph that embeds `input`: its own graph, or the single graph of a dual encoder.
fn graph_name(
    bundle: &Bundle,
    config: &EmbeddingConfig,
    input: EmbeddingInput,
) -> Result<&'static str, BundleError> {
    let (is_there, tower) = match input {
        EmbeddingInput::Text => (config.modalities.text, "text_model"),
        EmbeddingInput::Image => (config.modalities.image, "vision_model"),
        EmbeddingInput::Audio => (config.modalities.audio, "audio_model"),
    };
    if is_there {
        Ok(bundle.tower_graph(tower))
    } else {
        Err(BundleError::TaskNeeds {
            bundle: bundle.name().to_owned(),
            task: "embed",
            modality: input.as_str(),
        })
    }
}

/// Finds the output of the graph to use, and the steps after it.
fn output(
    graph: &GraphSession,
    config: &EmbeddingConfig,
    input: EmbeddingInput,
    options: &EmbeddingOptions,
) -> Result<(Output, Vec<Step>), ModelError> {
    let first = |names: &[&'static str]| names.iter().copied().find(|name| graph.has_output(name));
    let missing = |name: &str| match graph.expect_output(name, Dtype::F32) {
        Err(error) => error.into(),
        // An existing output was found above.
        Ok(()) => ModelError::NoEmbedding { graph: graph.name() },
    };
    let (output, mut steps) = match &config.kind {
        EmbeddingKind::Sentence(head) => {
            let requested = options.pooling.map(|pooling| vec![pooling]);
            match (
                first(&["sentence_embedding"]),
                first(&["last_hidden_state", "token_embeddings"]),
            ) {
                // The graph already pools and applies the later steps. Normalising again is
                // harmless.
                (Some(name), _) if requested.is_none() => {
                    let steps = head.steps.iter().filter(|step| **step == Step::Normalize);
                    (Output::Vector(name), steps.cloned().collect())
                }
                (_, Some(name)) => {
                    let default = head.pooling.clone();
                    let pooling = requested.or(default).unwrap_or_else(|| {
                        tracing::warn!(
                            "the bundle has no `modules.json`: texts are mean-pooled, the default of \
                             sentence-transformers; set `embedding.pooling` to choose another mode"
                        );
                        vec![Pooling::Mean]
                    });
                    (Output::States(name, pooling), head.steps.clone())
                }
                _ => return Err(missing("last_hidden_state")),
            }
        }
        EmbeddingKind::Dual { .. } if options.pooling.is_some() => {
            return Err(ModelError::PooledInside { graph: graph.name() });
        }
        EmbeddingKind::Dual { is_projected, .. } => {
            let projection = match input {
                EmbeddingInput::Text => "text_embeds",
                EmbeddingInput::Image => "image_embeds",
                EmbeddingInput::Audio => "audio_embeds",
            };
            let state = if *is_projected { projection } else { "pooler_output" };
            let name = first(&[projection, state]).ok_or_else(|| missing(projection))?;
            (Output::Vector(name), Vec::new())
        }
    };
    match options.normalize {
        Some(true) => steps.push(Step::Normalize),
        Some(false) => steps.retain(|step| *step != Step::Normalize),
        None => {}
    }
    Ok((output, steps))
}

/// Returns the graph's input name for a medium; `None` for text.
fn medium_name(input: EmbeddingInput) -> Option<&'static str> {
    match input {
        EmbeddingInput::Text => None,
        EmbeddingInput::Image => Some("pixel_values"),
        EmbeddingInput::Audio => Some("input_features"),
    }
}

/// Returns the medium of a sample to embed; `None` for text.
fn medium(input: EmbeddingInput, sample: &Sample) -> Option<&Tensor<f32>> {
    match input {
        EmbeddingInput::Text => None,
        EmbeddingInput::Image => sample.pixel_values.as_ref(),
        EmbeddingInput::Audio => sample.input_features.as_ref(),
    }
}

/// Returns the shape of one image, using `image_size` if the graph does not fix it.
fn pixel_shape(graph: &GraphSession, image_size: usize) -> [usize; 4] {
    let dims = graph.input_dims("pixel_values").unwrap_or_default();
    let dim = |idx: usize, otherwise: usize| {
        let fixed = dims.get(idx).and_then(|dim| usize::try_from(*dim).ok());
        fixed.filter(|dim| *dim > 0).unwrap_or(otherwise)
    };
    [1, dim(1, 3), dim(2, image_size), dim(3, image_size)]
}

/// Splits rows, sorted by descending length, into batches with little padding: a row has at least
/// three quarters of the longest row's tokens, or is only a few tokens shorter.
fn batches(lengths: &[usize], rows_max: usize, tokens_max: usize, pads: bool) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut start = 0;
    while let Some(longest) = lengths.get(start).copied() {
        let fits = |length: usize| {
            length == longest
                || pads && (length * 4 >= longest * 3 || longest - length <= PADDING_TOKENS)
        };
        let n_rows = rows_max.min(tokens_max / longest.max(1)).max(1);
        let batch = lengths[start..].iter().take(n_rows).take_while(|length| fits(**length));
        let end = start + batch.count();
        batches.push(start..end);
        start = end;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_row_once_and_little_padding() {
        let lengths = [100, 90, 75, 74, 20, 13, 12, 4, 3];
        let cut = batches(&lengths, 8, 4096, true);
        assert_eq!(cut, [0..3, 3..4, 4..7, 7..9]);
        assert_eq!(batches(&lengths, 2, 4096, true)[..2], [0..2, 2..4]);
        assert_eq!(batches(&lengths, 8, 150, true)[..2], [0..1, 1..2], "the token limit applies");
        assert_eq!(batches(&[9, 9, 8], 8, 4096, false), [0..2, 2..3], "a graph without a mask");
        assert_eq!(batches(&[9000, 9000], 8, 4096, true), [0..1, 1..2], "one row is never split");
    }
}
