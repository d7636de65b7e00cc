//! Makes samples of rows: renders the prompt, decodes the media, runs the model's processor; many
//! rows at a time.

use std::sync::Arc;

use arrow::array::RecordBatch;
use legenda_models::{ProcessError, Processor, Record, RgbImage, Sample, Waveform};
use legenda_schemas::{job::TaskKind, sha256_hex};
use serde_json::{Map, Value};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};

use super::{
    Outcome, Outcomes, PreparedRow, RowIdentity, RowKey, ScannedBatch, Stage,
    hearing::HeardRow,
    parts::{Part, Place},
};
use crate::{
    budget::{Budget, ByteReceiver, ByteSender, Reservation},
    guard::{CALL_MAX, guarded, guarded_within},
    media::{
        MediaError,
        audio::decode_audio,
        image::PendingImage,
        locate::{LocateError, MediaPlaces},
    },
    plan::RunPlan,
    run::Stop,
    source::{
        SourceFailed,
        cell::{MediaCell, media_cells, template_value, text_cell},
    },
    template::TemplateError,
};

/// Bytes of 32-bit samples, twice over, for a byte of encoded sound: MP3 at 128 kbit/s and 44.1 kHz.
const AUDIO_EXPANSION: u64 = 22;

/// What preparing a row needs.
pub struct Preparer {
    /// The run.
    pub plan: Arc<RunPlan>,
    /// The model's processor.
    pub processor: Arc<Processor>,
    /// Memory for decoded media.
    pub decode_budget: Budget,
    /// Where media cells with a path or URL may lead.
    pub places: MediaPlaces,
    /// Asked to stop when a store fails.
    pub stop: Arc<Stop>,
    /// Rows whose sounds may be heard window by window at a time: enough to fill the model's slots
    /// while others are prepared, and few enough that they end in about their order.
    pub heard_rows: Arc<Semaphore>,
}

/// Why a row cannot be prepared.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("column `{column}`: {source}")]
    Media { column: String, source: MediaError },
    #[error("column `{column}`: {source}")]
    Locate { column: String, source: LocateError },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("column `{column}` is null, but the task `{task}` needs it")]
    Missing { column: String, task: &'static str },
    #[error("the row has no text, no image and no sound to ask about")]
    Nothing,
    #[error("the prompt has {bytes} bytes; `limits.text_bytes` allows {bytes_max}")]
    TextTooLong { bytes: usize, bytes_max: u64 },
    #[error("the row cannot be prepared: {problem}")]
    Panic { problem: String },
}

impl PrepareError {
    fn code(&self) -> &'static str {
        match self {
            Self::Media { source, .. } => source.code(),
            Self::Locate { source, .. } => source.code(),
            Self::Template(_) => "template_failed",
            Self::Process(error) => error.code(),
            Self::Missing { .. } => "media_missing",
            Self::Nothing => "row_empty",
            Self::TextTooLong { .. } => "text_too_long",
            Self::Panic { .. } => "decoder_panicked",
        }
    }
}

/// Runs the stage: takes batches, prepares at most `workers` rows at a time, sends samples on.
///
/// Rows of one batch are released from memory together, when the last of them is prepared.
pub async fn run(
    preparer: Arc<Preparer>,
    workers: usize,
    mut batches: ByteReceiver<ScannedBatch>,
    prepared: ByteSender<PreparedRow>,
    outcomes: Outcomes,
) {
    let free = Arc::new(Semaphore::new(workers));
    let mut tasks = JoinSet::new();
    while let Some(batch) = batches.recv().await {
        let batch = Arc::new(batch);
        for offset in 0..batch.item.rows.num_rows() {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            let (preparer, batch) = (Arc::clone(&preparer), Arc::clone(&batch));
            let (prepared, outcomes) = (prepared.clone(), outcomes.clone());
            let stop = Arc::clone(&preparer.stop);
            let heard = if preparer.processor.hears_sequentially() {
                Arc::clone(&preparer.heard_rows).acquire_owned().await.ok()
            } else {
                None
            };
            tasks.spawn(async move {
                let first = batch.item.first;
                let key = RowKey { row_idx: first.row_idx + offset, ..first };
                let windows = prepared.clone();
                let work = tokio::task::spawn_blocking(move || {
                    let runtime = Handle::current();
                    preparer.prepare_guarded(
                        &batch.item,
                        offset,
                        &runtime,
                        |identity, part, sample| {
                            let bytes = sample.size_bytes() as u64;
                            let row = PreparedRow { key, part, identity, sample };
                            // A later stage that is gone has told its own error; the row stays
                            // outstanding.
                            runtime.block_on(prepared.send(row, bytes)).ok();
                        },
                    )
                });
                match work.await {
                    Ok(Ok(None)) => {}
                    Ok(Ok(Some(row))) => {
                        // Others may be prepared while this one is heard.
                        drop(permit);
                        row.hear(key, &windows, &outcomes).await.ok();
                        drop(heard);
                        return;
                    }
                    // The row stays outstanding.
                    Ok(Err(PrepareError::Locate {
                        source: LocateError::Store { path, problem },
                        ..
                    })) => stop.fail(SourceFailed { path, problem }),
                    Ok(Err(error)) => {
                        outcomes.send(rejected(key, &error)).await.ok();
                    }
                    Err(error) => {
                        let error = PrepareError::Panic { problem: error.to_string() };
                        outcomes.send(rejected(key, &error)).await.ok();
                    }
                }
                drop(permit);
            });
            while tasks.try_join_next().is_some() {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn media_error(column: &Option<String>, source: MediaError) -> PrepareError {
    PrepareError::Media { column: column.clone().unwrap_or_default(), source }
}

fn rejected(key: RowKey, error: &PrepareError) -> Outcome {
    Outcome::rejected(key, Stage::Prepare, error.code(), error)
}

impl Preparer {
    /// Prepares a row; a panic in a third-party decoder costs this row only.
    fn prepare_guarded(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        runtime: &Handle,
        send: impl FnMut(RowIdentity, Part, Sample),
    ) -> Result<Option<HeardRow>, PrepareError> {
        guarded(|| self.prepare(batch, offset, runtime, send))
            .unwrap_or_else(|error| Err(PrepareError::Panic { problem: error.to_string() }))
    }

    /// Prepares a row and hands its sample to `send`, or those of its parts one after another; returns
    /// a row whose sound is to be heard window by window.
    fn prepare(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        runtime: &Handle,
        mut send: impl FnMut(RowIdentity, Part, Sample),
    ) -> Result<Option<HeardRow>, PrepareError> {
        let job = &self.plan.job;
        let columns = &job.source.columns;
        let rows = &batch.rows;
        let (prompt, system) = self.prompt(rows, offset)?;
        let images = self.media(columns.image.as_deref(), batch, offset, runtime)?;
        let audios = self.media(columns.audio.as_deref(), batch, offset, runtime)?;
        let needs = |kind, column: &Option<String>, found: &[Vec<u8>]| {
            if job.task.kind == kind && found.is_empty() {
                let column = column.clone().unwrap_or_default();
                return Err(PrepareError::Missing { column, task: kind.as_str() });
            }
            Ok(())
        };
        needs(TaskKind::Caption, &columns.image, &images)?;
        needs(TaskKind::Transcribe, &columns.audio, &audios)?;
        for (column, found) in [(&columns.image, &images), (&columns.audio, &audios)] {
            if column.is_some() {
                needs(TaskKind::Embed, column, found)?;
            }
        }
        if prompt.trim().is_empty() && images.is_empty() && audios.is_empty() {
            return Err(PrepareError::Nothing);
        }

        let identity = self.identity(batch, offset, &prompt, system.as_deref(), &images, &audios);
        let mut record =
            Record { text: (!prompt.is_empty()).then_some(prompt), system, ..Record::default() };
        // Held until the record is processed: decoded pixels and samples are the largest things.
        let mut held: Vec<Reservation> = Vec::new();
        for bytes in images {
            let refuse = |source| media_error(&columns.image, source);
            record.images.push(self.image(bytes, runtime, &mut held).map_err(refuse)?);
        }
        for bytes in audios {
            let refuse = |source| media_error(&columns.audio, source);
            record.audios.push(self.sound(bytes.into(), runtime, &mut held).map_err(refuse)?);
        }
        if let Some(hearing) = self.processor.hear(&record)? {
            return Ok(Some(HeardRow::new(identity, hearing, held)));
        }
        let records = self.processor.split(record)?;
        let n_parts = records.len();
        for (idx, record) in records.iter().enumerate() {
            let sample = self.processor.prepare(record)?;
            if idx + 1 == n_parts {
                held.clear();
            }
            let seed = identity.seed.wrapping_add(idx as u64);
            let part = Part::OfSeveral(Place { idx, n_parts });
            send(RowIdentity { seed, ..identity.clone() }, part, sample);
        }
        Ok(None)
    }

    /// Decodes an image; what it takes is held in `held`.
    fn image(
        &self,
        bytes: Vec<u8>,
        runtime: &Handle,
        held: &mut Vec<Reservation>,
    ) -> Result<RgbImage, MediaError> {
        let pixels_max = self.plan.job.limits.image_pixels;
        let pending = PendingImage::open(&bytes, pixels_max)?;
        let (width, height) = pending.size();
        let of_model = self.processor.image_bytes(width, height) as u64;
        let needed = pending.decode_bytes().saturating_add(of_model);
        drop(pending);
        // The library's decoder cannot change threads, so the header is read again on the guard's.
        held.push(self.reserve("image", needed, runtime)?);
        let decode = move || PendingImage::open(&bytes, pixels_max)?.decode();
        guarded_within(CALL_MAX, decode)
            .unwrap_or_else(|source| Err(MediaError::Decoder { kind: "image", source }))
    }

    /// Decodes a sound; what it takes is held in `held`.
    ///
    /// How long a sound is shows only when it is decoded, so the usual is reserved first. One that
    /// needs more is decoded again with the whole budget, alone: to add to a reservation while others
    /// do so too could make all of them wait for each other.
    fn sound(
        &self,
        bytes: Arc<[u8]>,
        runtime: &Handle,
        held: &mut Vec<Reservation>,
    ) -> Result<Waveform, MediaError> {
        let seconds_max = self.plan.job.limits.audio_seconds;
        let decode = |bytes: Arc<[u8]>, bytes_max: u64| {
            guarded_within(CALL_MAX, move || decode_audio(bytes, seconds_max, bytes_max))
                .unwrap_or_else(|source| Err(MediaError::Decoder { kind: "audio", source }))
        };
        let whole = self.decode_budget.bytes_max();
        let usual = (bytes.len() as u64).saturating_mul(AUDIO_EXPANSION).min(whole);
        let reservation = self.reserve("audio", usual, runtime)?;
        match decode(Arc::clone(&bytes), usual) {
            Err(MediaError::TooMuchMemory { .. }) if usual < whole && held.is_empty() => {
                drop(reservation);
                held.push(self.reserve("audio", whole, runtime)?);
                decode(bytes, whole)
            }
            decoded => {
                held.push(reservation);
                decoded
            }
        }
    }

    fn prompt(
        &self,
        rows: &RecordBatch,
        offset: usize,
    ) -> Result<(String, Option<String>), PrepareError> {
        let mut row = Map::new();
        for name in &self.plan.template_columns {
            if let Some(column) = rows.column_by_name(name) {
                row.insert(name.clone(), template_value(column.as_ref(), offset));
            }
        }
        if let Some(name) = &self.plan.job.source.columns.text {
            let text = rows.column_by_name(name).and_then(|column| text_cell(column, offset));
            row.insert("text".to_owned(), Value::from(text.unwrap_or_default()));
        }
        let mut prompt = self.plan.prompt.render(&row)?;
        if let Some(embedding) = &self.plan.embedding
            && !prompt.trim().is_empty()
        {
            prompt.insert_str(0, &embedding.prefix);
        }
        let system = self.plan.system.as_ref().map(|system| system.render(&row)).transpose()?;
        let bytes = prompt.len() + system.as_ref().map_or(0, String::len);
        let bytes_max = self.plan.job.limits.text_bytes.0;
        if bytes as u64 > bytes_max {
            return Err(PrepareError::TextTooLong { bytes, bytes_max });
        }
        Ok((prompt, system))
    }

    /// Returns the encoded bytes of every image or sound of a row.
    fn media(
        &self,
        column: Option<&str>,
        batch: &ScannedBatch,
        offset: usize,
        runtime: &Handle,
    ) -> Result<Vec<Vec<u8>>, PrepareError> {
        let Some((name, cells)) =
            column.and_then(|name| Some((name, batch.rows.column_by_name(name)?)))
        else {
            return Ok(Vec::new());
        };
        let is_image = self.plan.job.source.columns.image.as_deref() == Some(name);
        let kind = if is_image { "image" } else { "audio" };
        let bytes_max = self.plan.job.limits.media_bytes.0;
        let mut media = Vec::new();
        for cell in media_cells(cells.as_ref(), offset) {
            let bytes = match cell {
                MediaCell::Bytes(bytes) => bytes.to_vec(),
                MediaCell::Path(path) => {
                    let read = self.places.read(path, &batch.file, bytes_max, runtime);
                    read.map_err(|source| PrepareError::Locate { column: name.to_owned(), source })?
                }
            };
            if bytes.len() as u64 > bytes_max {
                let source =
                    MediaError::TooManyBytes { kind, bytes: bytes.len() as u64, bytes_max };
                return Err(PrepareError::Media { column: name.to_owned(), source });
            }
            media.push(bytes);
        }
        Ok(media)
    }

    /// Waits for memory to decode one image, or refuses what would never fit.
    fn reserve(
        &self,
        kind: &'static str,
        bytes: u64,
        runtime: &Handle,
    ) -> Result<Reservation, MediaError> {
        let bytes_max = self.decode_budget.bytes_max();
        if bytes > bytes_max {
            return Err(MediaError::TooMuchMemory { kind, bytes, bytes_max });
        }
        Ok(runtime.block_on(self.decode_budget.reserve(bytes)))
    }

    /// Takes the digest of what is asked, and the row's own seed: from the job's seed, the row's
    /// place in its file and its input, so that draws do not depend on order or resume.
    fn identity(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        prompt: &str,
        system: Option<&str>,
        images: &[Vec<u8>],
        audios: &[Vec<u8>],
    ) -> RowIdentity {
        let mut parts: Vec<&[u8]> = vec![prompt.as_bytes(), system.unwrap_or_default().as_bytes()];
        let n_images = images.len().to_le_bytes();
        parts.push(&n_images);
        parts.extend(images.iter().chain(audios).map(Vec::as_slice));
        let input_sha256 = sha256_hex(parts);
        let row = batch.file_rows[offset].to_le_bytes();
        let job_seed = self.plan.job.generation.seed.to_le_bytes();
        let seed = sha256_hex([&row[..], &job_seed, input_sha256.as_bytes()]);
        let seed = u64::from_str_radix(&seed[..16], 16).unwrap_or_default();
        RowIdentity { input_sha256, seed }
    }
}
