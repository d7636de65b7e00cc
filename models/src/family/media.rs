//! The encoders of pictures and sounds: which media go through together, and whose features they
//! become.

use super::{EncodeError, phi4, run_or_split};
use crate::{
    Bundle, ModelError, Runtime,
    bundle::{Reader, SoundConfig},
    onnx::{DeviceKind, Dtype, Feed, GraphSession, SessionError},
    processor::CropGrid,
    tensors::{ShapeError, Tensor},
};

/// Images, tiles or sounds that go through an encoder together, at most.
pub(super) const BATCH_MEDIA_MAX: usize = 8;

/// Patches that go through an encoder together, at most: each of them looks at all, so nothing is
/// gained by more, and a large picture has as many alone.
const BATCH_PATCHES_MAX: usize = 1024;

/// What the features of sounds are called as an input of some encoders: Ultravox and Voxtral,
/// Phi-4-multimodal.
const AUDIO_INPUTS: [&str; 2] = ["audio_values", "audio_embeds"];

/// Which pixels of tiles are of the image.
const TILES_MASK: &str = "pixel_attention_mask";

/// Which frames of `input_features` are of the sound.
const FRAMES_MASK: &str = "input_features_mask";

/// The media of one kind of one sample.
#[derive(Clone, Copy)]
pub(super) struct Media<'a> {
    pub(super) sample_idx: usize,
    /// One row per medium, tile or patch.
    pub(super) values: &'a Tensor<f32>,
    pub(super) layout: MediaLayout<'a>,
    /// Places that the prompt has for features.
    pub(super) n_places: usize,
}

/// How the media of one sample lie in their rows.
#[derive(Clone, Copy)]
pub(super) enum MediaLayout<'a> {
    /// Frames, rows and columns of patches of each image, where rows are patches.
    Grids(&'a [[usize; 3]]),
    /// How images are cut, where rows are their crops.
    Crops(&'a [CropGrid]),
    /// The frames of each sound that count, all of them where nothing is said; and whether there are
    /// images beside the sounds.
    Frames { counts: &'a [usize], with_images: bool },
}

impl MediaLayout<'_> {
    /// Returns a mask `[rows, frames]` that is true for frames that count.
    pub(super) fn frames_mask(self, n_rows: usize, n_frames: usize) -> Vec<bool> {
        let mut mask = vec![true; n_rows * n_frames];
        if let Self::Frames { counts, .. } = self {
            for (row, n_own) in mask.chunks_exact_mut(n_frames.max(1)).zip(counts) {
                row[*n_own..].fill(false);
            }
        }
        mask
    }
}

/// The features of one sample's media of one kind: rows of `C` values, in order.
pub(super) type Features = Result<Vec<f32>, EncodeError>;

/// How media lie in the encoder's input.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Intake {
    /// `[B, ...]`
    Rows,
    /// `[1, tiles, 3, S, S]`, with a mask `[1, tiles, S, S]` that leaves nothing out: graphs put
    /// both first axes together, so tiles of several samples stand in one row and none is padding.
    Tiles { is_masked: bool },
    /// `[patches, N]`, with the frames, rows and columns of each image `[images, 3]`.
    Patches { grid: String },
    /// `[B, T, N]`, with a mask `[B, T]` that is true for frames of the sound.
    Frames,
    /// Phi-4-multimodal's images.
    Crops,
    /// Phi-4-multimodal's sounds.
    Speech { frames_per_feature: usize },
}

/// One encoder and where its features go.
#[derive(Debug)]
pub(super) struct MediaEncoder {
    modality: &'static str,
    graph: GraphSession,
    input: &'static str,
    output: &'static str,
    intake: Intake,
    hidden_size: usize,
    placeholder_id: i64,
}

impl MediaEncoder {
    /// Opens the encoder of images, or of sounds, if the bundle has one.
    pub(super) fn open_image(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Option<Self>, ModelError> {
        let Some(placeholder_id) = bundle.config.image_token_id else { return Ok(None) };
        if !bundle.modalities().image {
            return Ok(None);
        }
        let ports = ["pixel_values", "image_features"];
        let mut encoder =
            Self::open(runtime, bundle, device, "image", "vision_encoder", ports, placeholder_id)?;
        encoder.intake = encoder.image_intake(bundle.reader())?;
        Ok(Some(encoder))
    }

    /// Opens the encoder of sounds, if the bundle has one.
    pub(super) fn open_audio(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Option<Self>, ModelError> {
        let Some(placeholder_id) = bundle.config.audio_token_id else { return Ok(None) };
        if !bundle.modalities().audio {
            return Ok(None);
        }
        let ports = ["input_features", "audio_features"];
        let mut encoder =
            Self::open(runtime, bundle, device, "audio", "audio_encoder", ports, placeholder_id)?;
        encoder.intake = match (bundle.reader(), &bundle.processor.feature_extractor) {
            (Some(Reader::Gemma3n), _) => Intake::Frames,
            (Some(Reader::Phi4), Some(SoundConfig::Phi4(config))) => {
                Intake::Speech { frames_per_feature: config.audio_compression_rate.max(1) }
            }
            _ => Intake::Rows,
        };
        match encoder.intake {
            Intake::Speech { .. } => phi4::expect_sounds(&encoder.graph, encoder.input)?,
            Intake::Frames => {
                encoder.graph.expect_mask(FRAMES_MASK)?;
                encoder.graph.expect_no_inputs_but(&[encoder.input, FRAMES_MASK])?;
            }
            _ => encoder.graph.expect_no_inputs_but(&[encoder.input])?,
        }
        Ok(Some(encoder))
    }

    fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
        modality: &'static str,
        name: &'static str,
        [input, output]: [&'static str; 2],
        placeholder_id: i64,
    ) -> Result<Self, ModelError> {
        let graph = GraphSession::open_encoder(runtime, name, &bundle.files.graph(name)?, device)?;
        // Other models have another name for the same.
        let other =
            AUDIO_INPUTS.into_iter().find(|name| graph.input_names().any(|own| own == *name));
        let input = other.unwrap_or(input);
        graph.expect_map(input, Dtype::F32, output)?;
        let (intake, hidden_size) = (Intake::Rows, bundle.config.text.hidden_size);
        Ok(Self { modality, graph, input, output, intake, hidden_size, placeholder_id })
    }

    /// Reads from the graph's inputs how images lie in them, and holds that against what the model's
    /// image processor makes.
    fn image_intake(&self, reader: Option<Reader>) -> Result<Intake, SessionError> {
        let first_of = |names: &[&str]| {
            let mut inputs = self.graph.input_names();
            inputs.find(|input| names.contains(input)).map(str::to_owned)
        };
        match reader {
            Some(Reader::Idefics3) => {
                self.graph.expect_dims(self.input, &[-1, -1, 3, -1, -1])?;
                let is_masked = self.graph.input_names().any(|name| name == TILES_MASK);
                if is_masked {
                    self.graph.expect_mask(TILES_MASK)?;
                }
                self.graph.expect_no_inputs_but(&[self.input, TILES_MASK])?;
                Ok(Intake::Tiles { is_masked })
            }
            Some(Reader::Qwen2Vl) => {
                self.graph.expect_dims(self.input, &[-1, -1])?;
                let names = ["grid_thw", "image_grid_thw"];
                let grid = first_of(&names).unwrap_or_else(|| names[0].to_owned());
                self.graph.expect_input(&grid, Dtype::I64)?;
                self.graph.expect_no_inputs_but(&[self.input, &grid])?;
                Ok(Intake::Patches { grid })
            }
            Some(Reader::Phi4) => {
                phi4::expect_images(&self.graph, self.input)?;
                Ok(Intake::Crops)
            }
            _ => {
                self.graph.expect_dims(self.input, &[-1, 3, -1, -1])?;
                self.graph.expect_no_inputs_but(&[self.input])?;
                Ok(Intake::Rows)
            }
        }
    }

    /// Returns the places that a prompt has for features.
    pub(super) fn n_places(&self, token_ids: &[i64]) -> usize {
        token_ids.iter().filter(|id| **id == self.placeholder_id).count()
    }

    /// Encodes the media of samples in batches and hands each sample's features to `put`.
    pub(super) fn encode(&mut self, media: &[Media<'_>], put: &mut dyn FnMut(usize, Features)) {
        let rows_max = match self.intake {
            Intake::Rows | Intake::Tiles { .. } | Intake::Frames => BATCH_MEDIA_MAX,
            Intake::Patches { .. } => BATCH_PATCHES_MAX,
            Intake::Crops | Intake::Speech { .. } => 1,
        };
        let rows_max = self.graph.rows_max(rows_max);
        let mut rest = media;
        while let Some(first) = rest.first() {
            // A batch is of one shape and has at most so many rows; one sample is never cut.
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

    /// Runs the encoder on a batch and returns the features of each sample's media, which are as many
    /// as its prompt has places for.
    fn run(&mut self, batch: &[Media<'_>]) -> Result<Vec<Vec<f32>>, EncodeError> {
        if let ([one], Intake::Crops | Intake::Speech { .. }) = (batch, &self.intake) {
            return Ok(vec![self.run_phi4(*one)?]);
        }
        let run_error =
            |message: String| EncodeError::Run { graph: self.graph.name().to_owned(), message };
        let n_rows: usize = batch.iter().map(|media| media.values.rows()).sum();
        let joined;
        let input = match (batch, &self.intake) {
            ([one], Intake::Rows | Intake::Patches { .. } | Intake::Frames) => one.values,
            _ => {
                let values: Vec<&Tensor<f32>> = batch.iter().map(|media| media.values).collect();
                let rows = Tensor::concat(&values).map_err(|error| run_error(error.to_string()))?;
                joined = match self.intake {
                    Intake::Tiles { .. } => {
                        let shape = [&[1], rows.shape()].concat();
                        Tensor::new(shape, rows.into_data())
                            .map_err(|error| run_error(error.to_string()))?
                    }
                    _ => rows,
                };
                &joined
            }
        };
        let mut feeds = vec![(self.input, Feed::F32(input))];
        let (mask, grids);
        match &self.intake {
            Intake::Rows
            | Intake::Tiles { is_masked: false }
            | Intake::Crops
            | Intake::Speech { .. } => {}
            Intake::Tiles { is_masked: true } => {
                let shape = [&[1, n_rows], &input.shape()[3..]].concat();
                mask = Tensor::filled(shape, true);
                feeds.push((TILES_MASK, Feed::Bool(&mask)));
            }
            Intake::Frames => {
                let n_frames = input.shape()[1];
                let of =
                    |media: &Media<'_>| media.layout.frames_mask(media.values.rows(), n_frames);
                mask = Tensor::new([n_rows, n_frames], batch.iter().flat_map(of).collect())
                    .map_err(|error| run_error(error.to_string()))?;
                feeds.push((FRAMES_MASK, Feed::Bool(&mask)));
            }
            Intake::Patches { grid } => {
                let grids_of = |media: &Media<'_>| match media.layout {
                    MediaLayout::Grids(grids) => grids.as_flattened().to_vec(),
                    MediaLayout::Crops(_) | MediaLayout::Frames { .. } => Vec::new(),
                };
                let values: Vec<i64> = batch.iter().flat_map(grids_of).map(super::to_i64).collect();
                grids = Tensor::new([values.len() / 3, 3], values)
                    .map_err(|error| run_error(error.to_string()))?;
                feeds.push((grid, Feed::I64(&grids)));
            }
        }
        let encoded = if self.intake == Intake::Rows && n_rows > BATCH_MEDIA_MAX {
            self.run_in_pieces(input)?
        } else {
            self.graph.run_on(&feeds, self.output)?
        };
        let n_features = encoded.data().len() / self.hidden_size.max(1);
        if encoded.shape().len() < 2 || encoded.shape().last() != Some(&self.hidden_size) {
            return Err(EncodeError::OutputShape {
                graph: self.graph.name().to_owned(),
                actual: encoded.shape().to_vec(),
                expected: format!("[..., {}]", self.hidden_size),
            });
        }
        // Every row becomes as many features as the next, so none can take those of another.
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

    /// Runs the encoder of Phi-4-multimodal on the media of one sample.
    fn run_phi4(&mut self, media: Media<'_>) -> Result<Vec<f32>, EncodeError> {
        let (graph, ports) = (&mut self.graph, [self.input, self.output]);
        let encoded = match (&self.intake, media.layout) {
            (Intake::Crops, MediaLayout::Crops(grids)) => {
                phi4::see(graph, ports, media.values, grids)?
            }
            (Intake::Speech { frames_per_feature }, layout) => {
                phi4::hear(graph, ports, media.values, layout, *frames_per_feature)?
            }
            _ => Vec::new(),
        };
        if encoded.len() == media.n_places * self.hidden_size {
            return Ok(encoded);
        }
        Err(EncodeError::FeatureCount {
            modality: self.modality,
            n_placeholders: media.n_places,
            n_features: encoded.len() / self.hidden_size.max(1),
        })
    }

    /// Runs the encoder on the many media of one sample, or clips of one sound, so many at a time.
    fn run_in_pieces(&mut self, rows: &Tensor<f32>) -> Result<Tensor<f32>, EncodeError> {
        let name = self.graph.name();
        let failed = |error: ShapeError| EncodeError::Run {
            graph: name.to_owned(),
            message: error.to_string(),
        };
        let mut encoded = Vec::new();
        for values in rows.data().chunks(BATCH_MEDIA_MAX * rows.row_len()) {
            let shape = [&[values.len() / rows.row_len()], &rows.shape()[1..]].concat();
            let piece = Tensor::new(shape, values.to_vec()).map_err(failed)?;
            encoded.push(self.graph.run(self.input, Feed::F32(&piece), self.output)?);
        }
        Tensor::concat(&encoded.iter().collect::<Vec<_>>()).map_err(failed)
    }

    /// Puts feature rows over the placeholders of a prompt, in order; their number must agree.
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
