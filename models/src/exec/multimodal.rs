//! Multimodal models: encoders and `embed_tokens` before one decoder. Features replace placeholder
//! tokens.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    EncodeError, Encoder, TokenEmbedding,
    media::{BATCH_MEDIA_MAX, Features, Media, MediaEncoder, MediaLayout},
    positions::PositionRule,
};
use crate::{
    bundle::Bundle,
    config::Adapters,
    engine::Prompt,
    exec::ModelError,
    preprocess::{ImageLayout, Sample},
    runtime::{DeviceKind, Runtime},
    tensors::Tensor,
};

/// Encodes the samples of a multimodal model.
#[derive(Debug)]
pub(crate) struct MultimodalEncoder {
    vision: Option<MediaEncoder>,
    audio: Option<MediaEncoder>,
    embedding: Arc<Mutex<TokenEmbedding>>,
    positions: PositionRule,
    adapters: Adapters,
}

impl MultimodalEncoder {
    /// Opens the encoders that the bundle has.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        embedding: Arc<Mutex<TokenEmbedding>>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            vision: MediaEncoder::open_image(runtime, bundle, device)?,
            audio: MediaEncoder::open_audio(runtime, bundle, device)?,
            embedding,
            positions: PositionRule::new(bundle),
            adapters: bundle.config.adapters.clone(),
        })
    }

    /// Embeds the tokens of a sample and inserts its features.
    fn prompt(
        &self,
        token_ids: Vec<i64>,
        image_layouts: &[ImageLayout],
        image_features: Option<Features>,
        audio_features: Option<Features>,
    ) -> Result<Prompt, EncodeError> {
        let n_tokens = token_ids.len();
        let has_media = [image_features.is_some(), audio_features.is_some()];
        let ids = Tensor::new([1, n_tokens], token_ids)
            .map_err(|error| EncodeError::run("embed_tokens", error))?;
        // Media without an encoder get an error instead of features.
        let [image_features, audio_features] =
            [image_features.transpose()?, audio_features.transpose()?]
                .map(Option::unwrap_or_default);
        let (embeds, hidden_size, are_placed) = {
            let mut embedding = self.embedding.lock().unwrap_or_else(PoisonError::into_inner);
            let embeds = embedding.embed_with(&ids, [&image_features, &audio_features])?;
            (embeds, embedding.hidden_size(), embedding.takes_features())
        };
        let token_ids = ids.into_data();
        let mut values = embeds.into_data();
        let media = [(&self.vision, image_features), (&self.audio, audio_features)];
        for ((encoder, features), are_placed) in media.into_iter().zip(are_placed) {
            if let Some(encoder) = encoder.as_ref().filter(|_| !are_placed) {
                encoder.scatter(&features, &token_ids, &mut values)?;
            }
        }
        let embeds = Tensor::new([n_tokens, hidden_size], values)
            .map_err(|error| EncodeError::run("embed_tokens", error))?;
        let positions = self.positions.positions(&token_ids, image_layouts);
        let [has_images, has_audio] = has_media;
        let adapter = self.adapters.number(has_images, has_audio);
        let prompt = Prompt::new(token_ids, embeds).with_adapter(adapter);
        Ok(match positions {
            Some(positions) => prompt.at(positions),
            None => prompt,
        })
    }
}

impl Encoder for MultimodalEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        let images = encode_media(self.vision.as_mut(), "image", &samples, |sample| {
            let layout = MediaLayout::Images(&sample.image_layouts);
            sample.pixel_values.as_ref().map(|values| (values, layout))
        });
        let audios = encode_media(self.audio.as_mut(), "audio", &samples, |sample| {
            let with_images = sample.pixel_values.is_some();
            let layout = MediaLayout::Audio { frames: &sample.sound_frames, with_images };
            sample.input_features.as_ref().map(|values| (values, layout))
        });
        samples
            .into_iter()
            .zip(images.into_iter().zip(audios))
            .map(|(sample, (image, audio))| {
                self.prompt(sample.token_ids, &sample.image_layouts, image, audio)
            })
            .collect()
    }

    fn batch_rows(&self) -> usize {
        BATCH_MEDIA_MAX
    }
}

/// Encodes the media of each sample; `None` if a sample has none.
fn encode_media<'a>(
    encoder: Option<&mut MediaEncoder>,
    modality: &'static str,
    samples: &'a [Sample],
    media_of: impl Fn(&'a Sample) -> Option<(&'a Tensor<f32>, MediaLayout<'a>)>,
) -> Vec<Option<Features>> {
    let mut features: Vec<Option<Features>> = samples.iter().map(|_| None).collect();
    let Some(encoder) = encoder else {
        for (sample, features) in samples.iter().zip(&mut features) {
            *features = media_of(sample).map(|_| Err(EncodeError::NoEncoder { modality }));
        }
        return features;
    };
    let media: Vec<Media<'_>> = samples
        .iter()
        .enumerate()
        .filter_map(|(sample_idx, sample)| {
            let (values, layout) = media_of(sample)?;
            let n_places = encoder.n_places(&sample.token_ids);
            Some(Media { sample_idx, values, layout, n_places })
        })
        .collect();
    encoder.encode(&media, &mut |sample_idx, encoded| features[sample_idx] = Some(encoded));
    features
}
