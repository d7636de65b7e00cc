//! An embedding model, loaded on a device.

use std::sync::Arc;

use legenda_schemas::cause::Cause;

use super::{Model, ModelOptions};
use crate::{
    bundle::Bundle,
    engine::{Embedding, EmbeddingInput},
    exec::{EmbeddingEncoder, EncodeError, ModelError},
    preprocess::{Processor, Record, RgbImage, Sample, Waveform},
    runtime::{DeviceKind, Runtime},
};

/// A description of the loaded model, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// The name of the bundle.
    pub name: String,
    /// The chosen device.
    pub device: DeviceKind,
    /// The reason for the choice if `auto` could not use the GPU.
    pub device_note: Option<String>,
    /// The dimension of an embedding.
    pub dimension: usize,
    /// The maximum batch size.
    pub batch_rows: usize,
}

/// A loaded embedding model.
///
/// Rows of similar length are batched. Padding is masked, so an embedding does not depend on the
/// other rows of the batch, except for rounding in the last bits, because sums over other lengths
/// are split differently.
#[derive(Debug)]
pub struct Embedder {
    /// Prepares records; shareable between threads.
    pub processor: Arc<Processor>,
    /// A description of the loaded model.
    pub info: EmbedderInfo,
    encoder: EmbeddingEncoder,
}

impl Embedder {
    /// Opens the graph of a bundle that embeds `input`, and embeds one sample as a test.
    ///
    /// `slots` in the options is the maximum batch size; the generation options are ignored.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if the bundle is not an embedding model, the graph does not match its family,
    /// or the device is not available.
    pub fn load(
        runtime: &Runtime,
        bundle: &Bundle,
        options: &ModelOptions,
        input: EmbeddingInput,
    ) -> Result<Self, ModelError> {
        if options.slots == Some(0) {
            return Err(ModelError::NoSlots);
        }
        bundle.embedding()?;
        let processor = Arc::new(Processor::open(bundle)?);
        let choice = runtime.choose_device(options.device)?;
        let mut encoder = EmbeddingEncoder::open(
            runtime,
            bundle,
            choice.kind,
            input,
            &options.embedding,
            options.slots,
            processor.pad_id(),
        )?;
        let info = EmbedderInfo {
            name: bundle.name().to_owned(),
            device: choice.kind,
            device_note: choice.note,
            dimension: dimension(&processor, &mut encoder, input)?,
            batch_rows: encoder.rows_max(),
        };
        Ok(Self { processor, info, encoder })
    }

    /// Embeds samples and returns one result per sample, in order.
    ///
    /// A failed batch is retried in halves, down to one row, so only the rows that fail alone are
    /// errors.
    pub fn embed(&mut self, samples: &[Sample]) -> Vec<Result<Embedding, EncodeError>> {
        self.encoder.embed(samples)
    }
}

/// Returns the dimension by embedding a small input, because the configs do not always contain it.
fn dimension(
    processor: &Processor,
    encoder: &mut EmbeddingEncoder,
    input: EmbeddingInput,
) -> Result<usize, ModelError> {
    let failed = |source: Cause| ModelError::FirstEmbedding { input: input.as_str(), source };
    let record = match input {
        EmbeddingInput::Text => Record { text: Some("a".to_owned()), ..Record::default() },
        EmbeddingInput::Image => Record {
            images: vec![RgbImage { width: 8, height: 8, pixels: vec![128; 8 * 8 * 3] }],
            ..Record::default()
        },
        EmbeddingInput::Audio => Record {
            audios: vec![Waveform { sample_rate_hz: 48_000, samples: vec![0.0; 48] }],
            ..Record::default()
        },
    };
    let sample = processor.prepare(&record).map_err(|error| failed(error.into()))?;
    match encoder.embed(&[sample]).into_iter().next() {
        Some(Ok(embedding)) if !embedding.values.is_empty() => Ok(embedding.values.len()),
        Some(Err(error)) => Err(failed(error.into())),
        _ => Err(failed("the embedding is empty".into())),
    }
}

/// A loaded model of either kind.
#[derive(Debug)]
pub enum Loaded {
    /// A model that generates text.
    Model(Box<Model>),
    /// A model that computes embeddings.
    Embedder(Box<Embedder>),
}

impl From<Model> for Loaded {
    fn from(model: Model) -> Self {
        Self::Model(Box::new(model))
    }
}

impl From<Embedder> for Loaded {
    fn from(embedder: Embedder) -> Self {
        Self::Embedder(Box::new(embedder))
    }
}
