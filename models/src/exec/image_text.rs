//! An encoder that reads an image and a text together (Florence-2).
//!
//! The image features precede the text embeddings. The prompt has the encoder states of both and
//! the embedded decoder start tokens.

use std::sync::{Arc, Mutex, PoisonError};

use super::{EncodeError, Encoder, TokenEmbedding, run_or_split};
use crate::{
    bundle::{Bundle, DecoderStart},
    engine::{Prompt, prefill_groups},
    exec::ModelError,
    preprocess::Sample,
    runtime::{DeviceKind, Dtype, EncoderGraph, Feed, GraphSession, Runtime},
    tensors::{ShapeError, Tensor},
};

/// The maximum number of samples per graph run.
const BATCH_ROWS_MAX: usize = 8;

const PIXELS: &str = "pixel_values";
const FEATURES: &str = "image_features";

/// Encodes samples of an image and a text.
#[derive(Debug)]
pub(crate) struct ImageTextEncoder {
    vision: GraphSession,
    embedding: Arc<Mutex<TokenEmbedding>>,
    graph: EncoderGraph,
    start: DecoderStart,
    positions_max: usize,
}

/// The encoder states of a sample, `[T, C]`.
type States = Result<Tensor<f32>, EncodeError>;

impl ImageTextEncoder {
    /// Opens `vision_encoder` and `encoder_model`. Image and text may have `positions_max`
    /// positions together.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        embedding: Arc<Mutex<TokenEmbedding>>,
        start: DecoderStart,
        positions_max: usize,
    ) -> Result<Self, ModelError> {
        let open = |name| {
            let source = bundle.files.graph(name)?;
            Ok::<_, ModelError>(GraphSession::open(runtime, name, &source, device)?)
        };
        let vision = open("vision_encoder")?;
        vision.expect_map(PIXELS, Dtype::F32, FEATURES)?;
        vision.expect_dims(PIXELS, &[-1, 3, -1, -1])?;
        vision.expect_no_inputs_but(&[PIXELS])?;
        let graph = EncoderGraph::new(open("encoder_model")?, "inputs_embeds", false)?;
        Ok(Self { vision, embedding, graph, start, positions_max })
    }

    /// Embeds token ids as `[S, C]`.
    fn embed(&self, token_ids: &[i64]) -> Result<Tensor<f32>, EncodeError> {
        let failed = |error: ShapeError| EncodeError::run("embed_tokens", error);
        let n_tokens = token_ids.len();
        let ids = Tensor::new([1, n_tokens], token_ids.to_vec());
        let ids = ids.map_err(failed)?;
        let mut embedding = self.embedding.lock().unwrap_or_else(PoisonError::into_inner);
        let embeds = embedding.embed(&ids)?;
        let shape = [n_tokens, embedding.hidden_size()];
        Tensor::new(shape, embeds.into_data()).map_err(failed)
    }

    /// Runs the vision encoder on images of one shape and returns the features of each, `[N, C]`.
    fn see(&mut self, pictures: &[&Tensor<f32>]) -> Result<Vec<Tensor<f32>>, EncodeError> {
        let graph = self.vision.name();
        let failed = |error: ShapeError| EncodeError::run(graph, error);
        let batch = Tensor::concat(pictures).map_err(failed)?;
        let features = self.vision.run(PIXELS, Feed::F32(&batch), FEATURES)?;
        let [n_rows, n_features, size] = *features.shape() else {
            return Err(shape_error(graph, &features, pictures.len()));
        };
        if n_rows != pictures.len() {
            return Err(shape_error(graph, &features, pictures.len()));
        }
        let row = |row_idx| Tensor::new([n_features, size], features.row(row_idx).to_vec());
        (0..n_rows).map(row).collect::<Result<_, _>>().map_err(failed)
    }

    /// Returns the encoder input of each sample: image features, then text embeddings.
    fn sources(&mut self, samples: &[Sample]) -> Vec<States> {
        let mut features: Vec<Option<States>> = samples.iter().map(|_| None).collect();
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let rows_max = self.vision.rows_max(BATCH_ROWS_MAX);
        let pixels = |place: usize| samples[place].pixel_values.as_ref();
        let shape = |place: usize| pixels(place).map(Tensor::shape);
        for place in (0..samples.len()).filter(|place| pixels(*place).is_some()) {
            let fits =
                |batch: &&mut Vec<usize>| batch.len() < rows_max && shape(batch[0]) == shape(place);
            match batches.iter_mut().find(fits) {
                Some(batch) => batch.push(place),
                None => batches.push(vec![place]),
            }
        }
        for batch in batches {
            let mut run = |places: &[usize]| {
                let images: Vec<&Tensor<f32>> =
                    places.iter().filter_map(|place| pixels(*place)).collect();
                self.see(&images)
            };
            run_or_split(&batch, &mut run, &mut |place, seen| features[*place] = Some(seen));
        }
        let source = |(features, sample): (Option<States>, &Sample)| {
            let features = features.unwrap_or(Err(EncodeError::NoEncoder { modality: "text" }))?;
            let n_tokens = features.rows() + sample.token_ids.len();
            if n_tokens > self.positions_max {
                let max_tokens = self.positions_max;
                return Err(EncodeError::TextTooLong { n_tokens, max_tokens });
            }
            let text = self.embed(&sample.token_ids)?;
            Tensor::concat(&[&features, &text])
                .map_err(|error| EncodeError::run(self.graph.name(), error))
        };
        features.into_iter().zip(samples).map(source).collect()
    }

    /// Encodes inputs, right-padded to the longest and masked.
    fn run(&mut self, sources: &[&Tensor<f32>]) -> Result<Vec<Tensor<f32>>, EncodeError> {
        let graph = self.graph.name();
        let failed = |error: ShapeError| EncodeError::run(graph, error);
        let longest = sources.iter().map(|source| source.rows()).max().unwrap_or(0);
        let size = sources.first().map_or(0, |source| source.row_len());
        let mut embeds = Tensor::zeros([sources.len(), longest, size]);
        let mut mask = Tensor::zeros([sources.len(), longest]);
        for (row_idx, source) in sources.iter().enumerate() {
            let at = row_idx * longest * size;
            embeds.data_mut()[at..at + source.data().len()].copy_from_slice(source.data());
            mask.data_mut()[row_idx * longest..][..source.rows()].fill(1);
        }
        let encoded = self.graph.run(Feed::F32(&embeds), Some(&mask))?;
        if encoded.shape() != [sources.len(), longest, size] {
            return Err(shape_error(graph, &encoded, sources.len()));
        }
        let states = |(row_idx, source): (usize, &&Tensor<f32>)| {
            let kept = &encoded.row(row_idx)[..source.data().len()];
            Tensor::new([source.rows(), size], kept.to_vec())
        };
        let states = sources.iter().enumerate().map(states).collect::<Result<_, _>>();
        states.map_err(failed)
    }
}

fn shape_error(graph: &str, actual: &Tensor<f32>, n_rows: usize) -> EncodeError {
    EncodeError::OutputShape {
        graph: graph.to_owned(),
        actual: actual.shape().to_vec(),
        expected: format!("[{n_rows}, T, C]"),
    }
}

impl Encoder for ImageTextEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        let sources = self.sources(&samples);
        let lengths = sources.iter().enumerate();
        let lengths =
            lengths.filter_map(|(place, source)| Some((place, source.as_ref().ok()?.rows())));
        let groups = prefill_groups(lengths.collect(), self.graph.rows_max(BATCH_ROWS_MAX));
        let mut states: Vec<Option<States>> = samples.iter().map(|_| None).collect();
        for group in groups {
            let mut run = |places: &[usize]| {
                let group: Vec<&Tensor<f32>> =
                    places.iter().filter_map(|place| sources[*place].as_ref().ok()).collect();
                self.run(&group)
            };
            run_or_split(&group, &mut run, &mut |place, row| states[*place] = Some(row));
        }
        let start_ids = self.start.token_ids.clone();
        let start = self.embed(&start_ids).map_err(Arc::new);
        let to_prompt = |((states, source), sample): ((Option<States>, States), Sample)| {
            let n_source = source?.rows();
            let states = states.unwrap_or(Err(EncodeError::NoEncoder { modality: "text" }))?;
            let embeds = match &start {
                Ok(start) => start.clone(),
                Err(error) => return Err(EncodeError::run("embed_tokens", Arc::clone(error))),
            };
            let prompt = Prompt::of_states(start_ids.clone(), states, None, n_source);
            Ok(prompt.embedded(embeds).about(sample.subject))
        };
        states.into_iter().zip(sources).zip(samples).map(to_prompt).collect()
    }

    fn batch_rows(&self) -> usize {
        BATCH_ROWS_MAX
    }
}
