//! Encoders and `embed_tokens` before one decoder: features stand in placeholder positions.

use std::sync::{Arc, Mutex, PoisonError};

use super::{EncodeError, Encoder, TokenEmbedding};
use crate::{
    Bundle, ModelError, Prompt, Runtime, Sample,
    onnx::{DeviceKind, Dtype, Feed, GraphSession},
    tensors::Tensor,
};

/// Images or sounds that go through an encoder together, at most.
const BATCH_MEDIA_MAX: usize = 8;

/// One encoder and where its features go.
#[derive(Debug)]
struct MediaEncoder {
    modality: &'static str,
    graph: GraphSession,
    input: &'static str,
    output: &'static str,
    placeholder_id: i64,
}

/// Encodes samples of the multimodal family.
#[derive(Debug)]
pub(crate) struct MultimodalEncoder {
    vision: Option<MediaEncoder>,
    audio: Option<MediaEncoder>,
    embedding: Arc<Mutex<TokenEmbedding>>,
}

/// The features of one sample's media of one kind: rows of `C` values, in order.
type Features = Result<Vec<f32>, EncodeError>;

impl MultimodalEncoder {
    /// Opens the encoders that the bundle has.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        embedding: Arc<Mutex<TokenEmbedding>>,
    ) -> Result<Self, ModelError> {
        let open = |placeholder_id: Option<i64>, modality, graph, input, output| {
            let Some(placeholder_id) = placeholder_id else { return Ok(None) };
            let source = bundle.files.graph(graph)?;
            let graph = GraphSession::open(runtime, graph, &source, device)?;
            graph.expect_map(input, Dtype::F32, output)?;
            Ok::<_, ModelError>(Some(MediaEncoder {
                modality,
                graph,
                input,
                output,
                placeholder_id,
            }))
        };
        let modalities = bundle.modalities();
        let image_id = bundle.config.image_token_id.filter(|_| modalities.image);
        let audio_id = bundle.config.audio_token_id.filter(|_| modalities.audio);
        Ok(Self {
            vision: open(image_id, "image", "vision_encoder", "pixel_values", "image_features")?,
            audio: open(audio_id, "audio", "audio_encoder", "input_features", "audio_features")?,
            embedding,
        })
    }

    /// Embeds the tokens of a sample and puts its features in their places.
    fn prompt(
        &self,
        token_ids: Vec<i64>,
        image_features: Option<Features>,
        audio_features: Option<Features>,
    ) -> Result<Prompt, EncodeError> {
        let n_tokens = token_ids.len();
        let ids = Tensor::new([1, n_tokens], token_ids).map_err(|error| EncodeError::Run {
            graph: "embed_tokens".to_owned(),
            message: error.to_string(),
        })?;
        let (embeds, hidden_size) = {
            let mut embedding = self.embedding.lock().unwrap_or_else(PoisonError::into_inner);
            let embeds = embedding
                .embed(&ids)
                .map_err(|error| EncodeError::Run { graph: error.graph, message: error.message })?;
            (embeds, embedding.hidden_size())
        };
        let token_ids = ids.into_data();
        let mut values = embeds.into_data();
        let media = [(&self.vision, image_features), (&self.audio, audio_features)];
        for (encoder, features) in media {
            let Some(encoder) = encoder else { continue };
            let features = features.transpose()?.unwrap_or_default();
            encoder.scatter(&features, &token_ids, &mut values, hidden_size)?;
        }
        let embeds = Tensor::new([n_tokens, hidden_size], values).map_err(|error| {
            EncodeError::Run { graph: "embed_tokens".to_owned(), message: error.to_string() }
        })?;
        Ok(Prompt::new(token_ids, embeds))
    }
}

impl Encoder for MultimodalEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        let pixels: Vec<_> = samples.iter().map(|sample| sample.pixel_values.as_ref()).collect();
        let sounds: Vec<_> = samples.iter().map(|sample| sample.input_features.as_ref()).collect();
        let image_features = encode_media(self.vision.as_mut(), "image", &pixels);
        let audio_features = encode_media(self.audio.as_mut(), "audio", &sounds);
        samples
            .into_iter()
            .zip(image_features.into_iter().zip(audio_features))
            .map(|(sample, (image, audio))| self.prompt(sample.token_ids, image, audio))
            .collect()
    }

    fn batch_rows(&self) -> usize {
        BATCH_MEDIA_MAX
    }
}

/// Encodes the media of each sample; `None` where a sample has none.
fn encode_media(
    encoder: Option<&mut MediaEncoder>,
    modality: &'static str,
    media: &[Option<&Tensor<f32>>],
) -> Vec<Option<Features>> {
    let mut features: Vec<Option<Features>> = media.iter().map(|_| None).collect();
    let with_media: Vec<(usize, &Tensor<f32>)> = media
        .iter()
        .enumerate()
        .filter_map(|(sample_idx, tensor)| tensor.map(|tensor| (sample_idx, tensor)))
        .collect();
    let Some(encoder) = encoder else {
        for (sample_idx, _) in with_media {
            features[sample_idx] = Some(Err(EncodeError::NoEncoder { modality }));
        }
        return features;
    };
    let mut rest = with_media.as_slice();
    while let Some((_, first)) = rest.first() {
        // A batch is of one shape and has at most so many media; one sample is never cut.
        let mut n_media = 0;
        let n_samples = rest
            .iter()
            .take_while(|(_, tensor)| {
                n_media += tensor.rows();
                tensor.shape()[1..] == first.shape()[1..] && n_media <= BATCH_MEDIA_MAX
            })
            .count()
            .max(1);
        let (batch, after) = rest.split_at(n_samples);
        encoder.encode_batch(batch, &mut features);
        rest = after;
    }
    features
}

impl MediaEncoder {
    /// Encodes a batch; if it fails, halves of it, down to one sample.
    fn encode_batch(&mut self, batch: &[(usize, &Tensor<f32>)], features: &mut [Option<Features>]) {
        match self.run(batch) {
            Ok(encoded) => {
                let per_medium = encoded.row_len();
                let mut values = encoded.data();
                for (sample_idx, tensor) in batch {
                    let (own, rest) = values.split_at(tensor.rows() * per_medium);
                    features[*sample_idx] = Some(Ok(own.to_vec()));
                    values = rest;
                }
            }
            Err(error) => match batch {
                [(sample_idx, _)] => features[*sample_idx] = Some(Err(error)),
                _ => {
                    tracing::warn!(
                        rows = batch.len(),
                        code = error.code(),
                        "encode failed, will split"
                    );
                    let (left, right) = batch.split_at(batch.len() / 2);
                    self.encode_batch(left, features);
                    self.encode_batch(right, features);
                }
            },
        }
    }

    /// Runs the encoder: `[B, ...]` to `[B, N, C]`.
    fn run(&mut self, batch: &[(usize, &Tensor<f32>)]) -> Result<Tensor<f32>, EncodeError> {
        let graph = self.graph.name().to_owned();
        let stacked;
        let input = match batch {
            [(_, one)] => *one,
            _ => {
                stacked = stack(batch)
                    .map_err(|message| EncodeError::Run { graph: graph.clone(), message })?;
                &stacked
            }
        };
        let encoded = self
            .graph
            .run(self.input, Feed::F32(input), self.output)
            .map_err(|error| EncodeError::Run { graph: error.graph, message: error.message })?;
        match *encoded.shape() {
            [n_rows, _, _] if n_rows == input.rows() => Ok(encoded),
            _ => Err(EncodeError::OutputShape {
                graph,
                actual: encoded.shape().to_vec(),
                expected: format!("[{}, N, C]", input.rows()),
            }),
        }
    }

    /// Puts feature rows over the placeholders of a prompt, in order; their number must agree.
    fn scatter(
        &self,
        features: &[f32],
        token_ids: &[i64],
        embeds: &mut [f32],
        hidden_size: usize,
    ) -> Result<(), EncodeError> {
        let places = || {
            token_ids
                .iter()
                .enumerate()
                .filter(|(_, id)| **id == self.placeholder_id)
                .map(|(position, _)| position * hidden_size)
        };
        let n_placeholders = places().count();
        if n_placeholders * hidden_size != features.len() {
            return Err(EncodeError::FeatureCount {
                modality: self.modality,
                n_placeholders,
                n_features: features.len() / hidden_size.max(1),
            });
        }
        for (at, feature) in places().zip(features.chunks_exact(hidden_size)) {
            embeds[at..at + hidden_size].copy_from_slice(feature);
        }
        Ok(())
    }
}

fn stack(batch: &[(usize, &Tensor<f32>)]) -> Result<Tensor<f32>, String> {
    let n_rows: usize = batch.iter().map(|(_, tensor)| tensor.rows()).sum();
    let inner = batch.first().map_or(&[][..], |(_, tensor)| &tensor.shape()[1..]);
    let shape = [&[n_rows], inner].concat();
    let mut values = Vec::with_capacity(shape.iter().product());
    for (_, tensor) in batch {
        values.extend_from_slice(tensor.data());
    }
    Tensor::new(shape, values).map_err(|error| error.to_string())
}
