//! Encoder-decoders: the encoder runs on text, images or audio. The prompt has its states and the
//! decoder start tokens.
//!
//! The states of a row must not depend on the other rows of its batch: texts of different lengths
//! are padded and masked, with little padding, and media are batched only if they have the same
//! shape. (Moonshine normalises over the whole audio, so padding would change it.)

use super::{
    EncodeError, Encoder, GraphSetup,
    encoder_graph::{OpenedEncoder, open_encoder},
    run_or_split,
    tokens::right_padded,
};
use crate::{
    arch::EncoderInput,
    bundle::{Bundle, DecoderStart},
    engine::{Prompt, prefill_groups},
    exec::ModelError,
    preprocess::Sample,
    runtime::{DeviceKind, EncoderGraph, Feed, GraphSession},
    tensors::{ShapeError, Tensor},
};

/// The maximum number of samples per encoder run.
const BATCH_ROWS_MAX: usize = 8;

/// The maximum number of images or audio inputs encoded together on a CPU. One has hundreds of
/// positions, enough for its matrix products: Whisper tiny (f32, one thread) takes 373 ms per row
/// alone and 412 ms in batches of 4, with a gigabyte more of memory; ViT base 280 and 300 ms.
const BATCH_MEDIA_MAX_CPU: usize = 1;

/// The name of log-mel spectrograms in onnxruntime-genai.
const GENAI_INPUT: &str = "audio_features";

/// Encodes the samples of an encoder-decoder.
#[derive(Debug)]
pub(crate) struct Seq2SeqEncoder {
    graph: EncoderGraph,
    input: EncoderInput,
    start: DecoderStart,
    pad_id: i64,
    text_tokens_max: usize,
    batch_rows_max: usize,
    /// The rewritings of the graph.
    pub(super) rewritings: Vec<&'static str>,
}

/// The encoder states of a sample, `[T, C]`, or their keys and values, `[N, heads, T, dim]`.
type States = Result<Tensor<f32>, EncodeError>;

impl Seq2SeqEncoder {
    /// Opens the encoder graph. A text may have `context_tokens`, like an answer.
    pub(crate) fn open(
        setup: GraphSetup<'_>,
        bundle: &Bundle,
        input: EncoderInput,
        start: DecoderStart,
        context_tokens: usize,
    ) -> Result<Self, ModelError> {
        let name = bundle.encoder_graph();
        let GraphSetup { runtime, device, .. } = setup;
        let OpenedEncoder { graph, rewritings } = match input {
            EncoderInput::LogMel => open_encoder(setup, bundle, name)?,
            _ => OpenedEncoder {
                graph: GraphSession::open(runtime, name, &bundle.files.graph(name)?, device)?,
                rewritings: Vec::new(),
            },
        };
        let port = match input {
            EncoderInput::Text => "input_ids",
            EncoderInput::Image | EncoderInput::ImageText => "pixel_values",
            EncoderInput::LogMel if graph.input_names().any(|name| name == GENAI_INPUT) => {
                GENAI_INPUT
            }
            EncoderInput::LogMel => "input_features",
            EncoderInput::Samples => "input_values",
        };
        // Images have one size and spectrograms one length.
        let is_fixed = matches!(input, EncoderInput::Image | EncoderInput::LogMel);
        let graph = if is_fixed { graph.keeping_memory() } else { graph };
        Ok(Self {
            graph: EncoderGraph::new(graph, port, input == EncoderInput::Text)?,
            input,
            start,
            pad_id: bundle.start.pad_token_id.unwrap_or(0),
            rewritings,
            text_tokens_max: context_tokens,
            batch_rows_max: match device {
                DeviceKind::Cpu if input != EncoderInput::Text => BATCH_MEDIA_MAX_CPU,
                _ => BATCH_ROWS_MAX,
            },
        })
    }

    /// Returns the batches of samples to encode together, as indices.
    fn batches(&self, samples: &[Sample]) -> Vec<Vec<usize>> {
        let rows_max = self.graph.rows_max(self.batch_rows_max);
        if self.input == EncoderInput::Text {
            let lengths = samples.iter().map(|sample| sample.token_ids.len());
            return prefill_groups(lengths.enumerate().collect(), rows_max);
        }
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let shape = |place: usize| self.medium(&samples[place]).map(Tensor::shape);
        for place in 0..samples.len() {
            let fits =
                |batch: &&mut Vec<usize>| batch.len() < rows_max && shape(batch[0]) == shape(place);
            match batches.iter_mut().find(fits) {
                Some(batch) => batch.push(place),
                None => batches.push(vec![place]),
            }
        }
        batches
    }

    /// Returns the medium that the encoder reads; `None` for text.
    fn medium<'s>(&self, sample: &'s Sample) -> Option<&'s Tensor<f32>> {
        match self.input {
            EncoderInput::Text => None,
            EncoderInput::Image | EncoderInput::ImageText => sample.pixel_values.as_ref(),
            EncoderInput::LogMel | EncoderInput::Samples => sample.input_features.as_ref(),
        }
    }

    fn run(
        &mut self,
        places: &[usize],
        samples: &[Sample],
    ) -> Result<Vec<Tensor<f32>>, EncodeError> {
        let graph = self.graph.name();
        let failed = |error: ShapeError| EncodeError::run(graph, error);
        let rows = places.iter().map(|place| &samples[*place]);
        let (encoded, lengths) = if self.input == EncoderInput::Text {
            let texts: Vec<&[i64]> = rows.map(|sample| sample.token_ids.as_slice()).collect();
            let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
            let (longest, max_tokens) = (lengths.iter().max(), self.text_tokens_max);
            if let Some(n_tokens) = longest.copied().filter(|longest| *longest > max_tokens) {
                return Err(EncodeError::TextTooLong { n_tokens, max_tokens });
            }
            let (ids, mask) = right_padded(&texts, self.pad_id);
            (self.graph.run(Feed::I64(&ids), Some(&mask)), Some(lengths))
        } else {
            let media: Vec<&Tensor<f32>> = rows.filter_map(|sample| self.medium(sample)).collect();
            if media.len() != places.len() {
                return Err(EncodeError::NoEncoder { modality: "text" });
            }
            let batch = Tensor::concat(&media).map_err(failed)?;
            let takes_mask = self.graph.takes_mask();
            let mask = takes_mask.then(|| Tensor::filled([batch.rows(), batch.row_len()], 1));
            (self.graph.run(Feed::F32(&batch), mask.as_ref()), None)
        };
        let encoded = encoded?;
        let wrong = || EncodeError::OutputShape {
            graph: graph.to_owned(),
            actual: encoded.shape().to_vec(),
            expected: format!("[{}, T, C]", places.len()),
        };
        let (n_rows, n_positions, shape) = match *encoded.shape() {
            [n_rows, n_positions, size] => (n_rows, n_positions, vec![n_positions, size]),
            [n_rows, n, heads, n_positions, dim] => {
                (n_rows, n_positions, vec![n, heads, n_positions, dim])
            }
            _ => return Err(wrong()),
        };
        if n_rows != places.len() || n_positions == 0 {
            return Err(wrong());
        }
        (0..n_rows)
            .map(|row_idx| {
                let (mut shape, row) = (shape.clone(), encoded.row(row_idx));
                // Only texts are padded, and their encoder returns states.
                if let Some(lengths) = &lengths {
                    shape[0] = lengths[row_idx];
                }
                let kept = row.get(..shape.iter().product()).ok_or_else(wrong)?;
                Tensor::new(shape, kept.to_vec()).map_err(failed)
            })
            .collect()
    }
}

impl Encoder for Seq2SeqEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        let mut states: Vec<Option<States>> = samples.iter().map(|_| None).collect();
        for batch in self.batches(&samples) {
            run_or_split(&batch, &mut |places| self.run(places, &samples), &mut |place, row| {
                states[*place] = Some(row);
            });
        }
        let prompt = |(states, sample): (Option<States>, &Sample)| {
            let states = states.unwrap_or(Err(EncodeError::NoEncoder { modality: "text" }))?;
            // For image and audio inputs, the tokens of the sample are the decoder prefix.
            if self.input != EncoderInput::Text && !sample.token_ids.is_empty() {
                let prompt = Prompt::of_states(sample.token_ids.clone(), states, None, 0);
                return Ok(prompt.single(sample.is_single));
            }
            let (start, n_text_tokens) = (self.start.clone(), sample.token_ids.len());
            let prompt = Prompt::of_states(start.token_ids, states, start.choice, n_text_tokens);
            Ok(prompt.single(sample.is_single))
        };
        states.into_iter().zip(&samples).map(prompt).collect()
    }

    fn batch_rows(&self) -> usize {
        self.batch_rows_max
    }
}
