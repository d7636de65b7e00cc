//! The image and audio encoders: batching of media, and assignment of features to samples.

use std::borrow::Cow;

use super::{
    EncodeError,
    extra_inputs::{ExtraPort, ExtraTensor, Run},
    run_or_split,
};
use crate::{
    arch::{EncoderInputs, RunUnit},
    bundle::Bundle,
    exec::ModelError,
    preprocess::ImageLayout,
    runtime::{DeviceKind, Dtype, Feed, GraphSession, Runtime},
    tensors::{ShapeError, Tensor},
};

/// The maximum number of images, tiles or audio inputs per encoder run.
pub(super) const BATCH_MEDIA_MAX: usize = 8;

/// The maximum number of patches per encoder run. A large image alone may have as many.
const BATCH_PATCHES_MAX: usize = 1024;

/// The alternative names of a spectrogram input.
const AUDIO_INPUTS: [&str; 2] = ["audio_values", "audio_embeds"];

/// The media of one modality of one sample.
#[derive(Clone, Copy)]
pub(super) struct Media<'a> {
    pub(super) sample_idx: usize,
    /// One row per medium, tile, crop or patch.
    pub(super) values: &'a Tensor<f32>,
    pub(super) layout: MediaLayout<'a>,
    /// The number of placeholders in the prompt.
    pub(super) n_places: usize,
}

/// The layout of one sample's media in their rows.
#[derive(Clone, Copy)]
pub(super) enum MediaLayout<'a> {
    /// The layout of each image.
    Images(&'a [ImageLayout]),
    /// The number of valid frames of each audio input, empty for all; and whether the sample also
    /// has images.
    Audio { frames: &'a [usize], with_images: bool },
}

impl<'a> MediaLayout<'a> {
    /// Returns the layout of each image.
    pub(super) fn images(self) -> &'a [ImageLayout] {
        match self {
            Self::Images(images) => images,
            Self::Audio { .. } => &[],
        }
    }

    /// Returns the number of valid frames of each audio input.
    pub(super) fn frames(self) -> &'a [usize] {
        match self {
            Self::Images(_) => &[],
            Self::Audio { frames, .. } => frames,
        }
    }

    /// Returns whether this is audio of a sample that also has images.
    pub(super) fn is_with_images(self) -> bool {
        matches!(self, Self::Audio { with_images: true, .. })
    }
}

/// The features of one sample's media of one modality: rows of `C` values, in order.
pub(super) type Features = Result<Vec<f32>, EncodeError>;

/// An encoder and the placeholder token of its features.
#[derive(Debug)]
pub(super) struct MediaEncoder {
    modality: &'static str,
    graph: GraphSession,
    input: &'static str,
    output: &'static str,
    inputs: &'static EncoderInputs,
    /// The additional inputs of the graph.
    extra: Vec<ExtraPort>,
    hidden_size: usize,
    placeholder_id: i64,
}

impl MediaEncoder {
    /// Opens the image encoder, if the bundle has one.
    pub(super) fn open_image(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Option<Self>, ModelError> {
        let spec = bundle.arch.image.as_ref().filter(|_| bundle.modalities().image);
        let Some((spec, token_id)) = spec.zip(bundle.config.image_token_id) else {
            return Ok(None);
        };
        let ports = ["vision_encoder", "pixel_values", "image_features"];
        Self::open(runtime, bundle, device, "image", ports, &spec.inputs, token_id).map(Some)
    }

    /// Opens the audio encoder, if the bundle has one.
    pub(super) fn open_audio(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Option<Self>, ModelError> {
        let spec = bundle.arch.audio.as_ref().filter(|_| bundle.modalities().audio);
        let Some((spec, token_id)) = spec.zip(bundle.config.audio_token_id) else {
            return Ok(None);
        };
        let ports = ["audio_encoder", "input_features", "audio_features"];
        Self::open(runtime, bundle, device, "audio", ports, &spec.inputs, token_id).map(Some)
    }

    /// Opens an encoder graph and checks its inputs.
    fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        modality: &'static str,
        [name, input, output]: [&'static str; 3],
        inputs: &'static EncoderInputs,
        placeholder_id: i64,
    ) -> Result<Self, ModelError> {
        let graph = GraphSession::open(runtime, name, &bundle.files.graph(name)?, device)?;
        let other =
            AUDIO_INPUTS.into_iter().find(|name| graph.input_names().any(|own| own == *name));
        let input = other.unwrap_or(input);
        graph.expect_map(input, Dtype::F32, output)?;
        if !inputs.dims.is_empty() {
            graph.expect_dims(input, inputs.dims)?;
        }
        let mut extra = Vec::new();
        for wanted in inputs.extra {
            extra.extend(ExtraPort::open(&graph, wanted, &bundle.processor)?);
        }
        let names = extra.iter().map(|port: &ExtraPort| port.name);
        graph.expect_no_inputs_but(&std::iter::once(input).chain(names).collect::<Vec<_>>())?;
        let hidden_size = bundle.config.text.hidden_size;
        Ok(Self { modality, graph, input, output, inputs, extra, hidden_size, placeholder_id })
    }

    /// Returns the number of placeholders in a prompt.
    pub(super) fn n_places(&self, token_ids: &[i64]) -> usize {
        token_ids.iter().filter(|id| **id == self.placeholder_id).count()
    }

    /// Encodes the media of samples in batches and passes each sample's features to `put`.
    pub(super) fn encode(&mut self, media: &[Media<'_>], put: &mut dyn FnMut(usize, Features)) {
        let rows_max = match self.inputs.unit {
            RunUnit::Rows { .. } => BATCH_MEDIA_MAX,
            RunUnit::Patches => BATCH_PATCHES_MAX,
            RunUnit::Sample | RunUnit::Image => 1,
        };
        let rows_max = self.graph.rows_max(rows_max);
        let mut rest = media;
        while let Some(first) = rest.first() {
            // A batch has one shape and a maximum number of rows. One sample is never split.
            let mut n_rows = 0;
            let n_samples = rest
                .iter()
                .take_while(|media| {
                    n_rows += media.values.rows();
                    media.values.shape()[1..] == first.values.shape()[1..] && n_rows <= rows_max
                })
                .count()
                .max(1);
            let (batch, after) = rest.split_at(n_samples);
            run_or_split(batch, &mut |batch| self.run(batch), &mut |media, features| {
                put(media.sample_idx, features);
            });
            rest = after;
        }
    }

    /// Runs the encoder on a batch and returns the features of each sample's media. Their number
    /// must match the placeholders of the prompt.
    fn run(&mut self, batch: &[Media<'_>]) -> Result<Vec<Vec<f32>>, EncodeError> {
        if let (RunUnit::Image, [one]) = (self.inputs.unit, batch) {
            return Ok(vec![self.run_by_image(*one)?]);
        }
        let n_rows: usize = batch.iter().map(|media| media.values.rows()).sum();
        let values = match batch {
            [one] => Cow::Borrowed(one.values),
            _ => {
                let values: Vec<&Tensor<f32>> = batch.iter().map(|media| media.values).collect();
                Cow::Owned(Tensor::concat(&values).map_err(|error| self.failed(error))?)
            }
        };
        let may_split = self.inputs.unit == RunUnit::Rows { may_split: true };
        let encoded = if may_split && n_rows > BATCH_MEDIA_MAX {
            self.run_in_pieces(&values)?
        } else {
            let run: Vec<_> =
                batch.iter().map(|media| (media.values.rows(), media.layout)).collect();
            self.run_rows(values, &run)?
        };
        let n_features = encoded.data().len() / self.hidden_size.max(1);
        if encoded.shape().len() < 2 || encoded.shape().last() != Some(&self.hidden_size) {
            return Err(EncodeError::OutputShape {
                graph: self.graph.name().to_owned(),
                actual: encoded.shape().to_vec(),
                expected: format!("[..., {}]", self.hidden_size),
            });
        }
        // Every row has the same number of features, so none can take those of another.
        let fits = |media: &Media<'_>| media.n_places * n_rows == n_features * media.values.rows();
        if let Some(media) = batch.iter().find(|media| !fits(media)) {
            return Err(EncodeError::FeatureCount {
                modality: self.modality,
                n_placeholders: media.n_places,
                n_features: n_features * media.values.rows() / n_rows.max(1),
            });
        }
        let mut rest = encoded.data();
        let features = batch.iter().map(|media| {
            let (own, after) = rest.split_at(media.n_places * self.hidden_size);
            rest = after;
            own.to_vec()
        });
        Ok(features.collect())
    }

    /// Runs the encoder on rows, with its additional inputs.
    fn run_rows(
        &mut self,
        values: Cow<'_, Tensor<f32>>,
        run: &Run<'_>,
    ) -> Result<Tensor<f32>, EncodeError> {
        let extra: Result<Vec<ExtraTensor>, ShapeError> =
            self.extra.iter().map(|port| port.tensor(&values, run)).collect();
        let extra = extra.map_err(|error| self.failed(error))?;
        let values = if self.inputs.has_leading_axis {
            let shape = [&[1], values.shape()].concat();
            let tensor = Tensor::new(shape, values.into_owned().into_data());
            Cow::Owned(tensor.map_err(|error| self.failed(error))?)
        } else {
            values
        };
        let mut feeds = vec![(self.input, Feed::F32(&values))];
        feeds
            .extend(self.extra.iter().zip(&extra).map(|(port, tensor)| (port.name, tensor.feed())));
        Ok(self.graph.run_on(&feeds, self.output)?)
    }

    /// Runs the encoder on the images of one sample, whose rows are adjacent, one at a time.
    fn run_by_image(&mut self, media: Media<'_>) -> Result<Vec<f32>, EncodeError> {
        let values = media.values;
        let mut rest = values.data();
        let mut encoded = Vec::new();
        for image in media.layout.images() {
            let n_rows = image.n_rows();
            let (own, after) = rest.split_at((n_rows * values.row_len()).min(rest.len()));
            rest = after;
            let shape = [&[n_rows], &values.shape()[1..]].concat();
            let rows = Tensor::new(shape, own.to_vec()).map_err(|error| self.failed(error))?;
            let layout = MediaLayout::Images(std::slice::from_ref(image));
            encoded.extend(self.run_rows(Cow::Owned(rows), &[(n_rows, layout)])?.into_data());
        }
        if encoded.len() == media.n_places * self.hidden_size {
            return Ok(encoded);
        }
        Err(EncodeError::FeatureCount {
            modality: self.modality,
            n_placeholders: media.n_places,
            n_features: encoded.len() / self.hidden_size.max(1),
        })
    }

    /// Converts a shape error into an error of the graph.
    fn failed(&self, error: ShapeError) -> EncodeError {
        EncodeError::run(self.graph.name(), error)
    }

    /// Runs the encoder on the media of one sample, or the clips of one audio input, in several
    /// runs.
    fn run_in_pieces(&mut self, rows: &Tensor<f32>) -> Result<Tensor<f32>, EncodeError> {
        let name = self.graph.name();
        let failed = |error: ShapeError| EncodeError::run(name, error);
        let mut encoded = Vec::new();
        for values in rows.data().chunks(BATCH_MEDIA_MAX * rows.row_len()) {
            let shape = [&[values.len() / rows.row_len()], &rows.shape()[1..]].concat();
            let piece = Tensor::new(shape, values.to_vec()).map_err(failed)?;
            encoded.push(self.graph.run(self.input, Feed::F32(&piece), self.output)?);
        }
        Tensor::concat(&encoded.iter().collect::<Vec<_>>()).map_err(failed)
    }

    /// Replaces the placeholder embeddings of a prompt by features, in order. Their numbers must
    /// match.
    pub(super) fn scatter(
        &self,
        features: &[f32],
        token_ids: &[i64],
        embeds: &mut [f32],
    ) -> Result<(), EncodeError> {
        let n_placeholders = self.n_places(token_ids);
        let hidden_size = self.hidden_size;
        if n_placeholders * hidden_size != features.len() {
            return Err(EncodeError::FeatureCount {
                modality: self.modality,
                n_placeholders,
                n_features: features.len() / hidden_size.max(1),
            });
        }
        let places = token_ids.iter().enumerate().filter(|(_, id)| **id == self.placeholder_id);
        for ((token_idx, _), feature) in places.zip(features.chunks_exact(hidden_size)) {
            let at = token_idx * hidden_size;
            embeds[at..at + hidden_size].copy_from_slice(feature);
        }
        Ok(())
    }
}
