//! Prepares rows concurrently: renders the prompt, decodes the media, runs the model's processor.

mod error;

use std::{borrow::Cow, sync::Arc};

use arrow::array::{Array, RecordBatch};
use legenda_models::{ENCODING_BYTES, Processor, Record, Sample, Work};
use legenda_schemas::{flag::Flags, job::TaskKind, sha256_hex};
use serde_json::{Number, Value};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};

use self::error::{PrepareError, media_error, rejected};
use super::{
    Outcome, Outcomes, PreparedRow, RowIdentity, ScannedBatch,
    admission::{Attempt, InitialNeed, Shortfall},
    chunks::{Chunk, ChunkIndex},
    decode::{self, ReservationShortfall, RowBudget},
    prompt::RowPrompt,
    sequential::SequentialRow,
};
use crate::{
    base::{
        budget::{Budget, ByteReceiver, ByteSender, Reservation},
        guard::guarded,
    },
    input::{
        media::{
            MediaError,
            locate::{LocateError, MediaRoots},
        },
        source::{
            SourceFailed,
            cell::{MediaCell, media_cells, template_value},
        },
    },
    run::{
        plan::RunPlan,
        reuse::{AnswerCache, Lookup},
        stop::Stop,
    },
};

/// The copies of a text before it is tokenized: cell, template value, prompt, rendered chat template.
const TEXT_COPIES: u64 = 4;

/// Shared state for preparing rows.
pub(crate) struct Preparer {
    /// The run.
    pub plan: Arc<RunPlan>,
    /// The model's processor.
    pub processor: Arc<Processor>,
    /// The memory budget for decoded media.
    pub decode_budget: Budget,
    /// The locations that media cells may refer to by path or URL.
    pub media_roots: MediaRoots,
    /// Stopped when a store fails; no further row is prepared then.
    pub stop: Arc<Stop>,
    /// The answer cache, if an answer can be used twice.
    pub answer_cache: Option<Arc<AnswerCache>>,
    /// Limits how many rows are in sequential long-audio decoding at a time: enough to fill the model's slots
    /// while others are prepared, but few enough that they finish roughly in order.
    pub sequential_rows: Arc<Semaphore>,
}

/// Runs the stage: prepares at most `workers` rows at a time and sends their samples on.
///
/// The memory of a batch is released when its last row is prepared.
pub(crate) async fn run(
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
            if preparer.stop.is_requested() {
                break;
            }
            let (preparer, batch) = (Arc::clone(&preparer), Arc::clone(&batch));
            let (prepared, outcomes) = (prepared.clone(), outcomes.clone());
            let stop = Arc::clone(&preparer.stop);
            let sequential_permit = if preparer.processor.is_sequential() {
                Arc::clone(&preparer.sequential_rows).acquire_owned().await.ok()
            } else {
                None
            };
            tasks.spawn(async move {
                let key = batch.item.key(offset);
                let windows = prepared.clone();
                let work = tokio::task::spawn_blocking(move || {
                    let runtime = Handle::current();
                    preparer.prepare_guarded(
                        &batch.item,
                        offset,
                        &runtime,
                        |identity, chunk, sample| {
                            let bytes = sample.size_bytes() as u64;
                            let row = PreparedRow { key, chunk, identity, sample };
                            // If a later stage has ended, it has reported its own error; the
                            // row stays outstanding.
                            runtime.block_on(prepared.send(row, bytes)).ok();
                        },
                    )
                });
                match work.await {
                    Ok(Ok(Prepared::Sent | Prepared::Pending)) => {}
                    Ok(Ok(Prepared::Answered(outcome))) => {
                        outcomes.send(outcome).await.ok();
                    }
                    Ok(Ok(Prepared::Sequential(row))) => {
                        // Others may be prepared while this one is decoded.
                        drop(permit);
                        row.run(key, &windows, &outcomes).await.ok();
                        drop(sequential_permit);
                        return;
                    }
                    // The row stays outstanding.
                    Ok(Err(PrepareError::Locate {
                        source: LocateError::Store { path, source },
                        ..
                    })) => stop.fail(SourceFailed { path, source: source.into() }),
                    Ok(Err(error)) => {
                        outcomes.send(rejected(key, &error)).await.ok();
                    }
                    Err(error) => {
                        let error = PrepareError::Panic { source: error.into() };
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

/// Returns the media of one row of a column.
fn cells<'a>(column: Option<&str>, rows: &'a RecordBatch, offset: usize) -> Vec<MediaCell<'a>> {
    let column = column.and_then(|name| rows.column_by_name(name));
    column.map(|cells| media_cells(cells.as_ref(), offset)).unwrap_or_default()
}

/// The reason an attempt to prepare a row failed.
enum Failed {
    /// The row needs more memory.
    Short(Shortfall),
    /// The row cannot be prepared.
    Refused(PrepareError),
}

/// The result of preparing a row.
enum Prepared {
    /// Its samples were sent.
    Sent,
    /// It needs sequential long-audio decoding.
    Sequential(Box<SequentialRow>),
    /// It was answered from the cache.
    Answered(Outcome),
    /// It waits for the answer of a duplicate row.
    Pending,
}

/// The state of a row once its media are read or decoded.
enum Ready {
    /// A cache hit, or a wait for a duplicate row.
    Cached(Lookup),
    /// The processor's input.
    Uncached(Work),
}

impl Failed {
    fn new(shortfall: ReservationShortfall, column: &Option<String>) -> Self {
        match shortfall {
            ReservationShortfall::Needs(shortfall) => Self::Short(shortfall),
            ReservationShortfall::Refused(error) => Self::Refused(media_error(column, error)),
        }
    }
}

impl From<PrepareError> for Failed {
    fn from(error: PrepareError) -> Self {
        Self::Refused(error)
    }
}

impl Preparer {
    /// Prepares a row; a panic in a third-party decoder rejects only this row.
    fn prepare_guarded(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        runtime: &Handle,
        send: impl FnMut(RowIdentity, Chunk, Sample),
    ) -> Result<Prepared, PrepareError> {
        guarded(|| self.prepare(batch, offset, runtime, send))
            .unwrap_or_else(|error| Err(PrepareError::Panic { source: error.into() }))
    }

    /// Prepares a row and passes the sample of each of its chunks to `send`, unless the row is settled
    /// otherwise.
    fn prepare(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        runtime: &Handle,
        mut send: impl FnMut(RowIdentity, Chunk, Sample),
    ) -> Result<Prepared, PrepareError> {
        let columns = &self.plan.job.source.columns;
        let images = cells(columns.image.as_deref(), &batch.rows, offset);
        let audios = cells(columns.audio.as_deref(), &batch.rows, offset);
        self.check_cells(&images, &audios)?;
        let (ready, identity, held) = self.admit(batch, offset, [images, audios], runtime)?;
        let records = match ready {
            Ready::Uncached(Work::Chunks(records)) => records,
            Ready::Uncached(Work::Sequential(audio)) => {
                return Ok(Prepared::Sequential(Box::new(SequentialRow::new(
                    identity, audio, held,
                ))));
            }
            Ready::Cached(Lookup::Hit(answer, origin)) => {
                let (key, input_sha256) = (batch.key(offset), identity.input_sha256);
                return Ok(Prepared::Answered(Outcome::Answered {
                    key,
                    input_sha256,
                    answer,
                    origin,
                }));
            }
            Ready::Cached(_) => return Ok(Prepared::Pending),
        };
        let n_chunks = records.len();
        for (idx, record) in records.iter().enumerate() {
            let sample = self.processor.prepare(record)?;
            let seed = identity.seed.wrapping_add(idx as u64);
            let chunk = Chunk::Indexed(ChunkIndex { idx, n_chunks });
            send(RowIdentity { seed, ..identity.clone() }, chunk, sample);
        }
        Ok(Prepared::Sent)
    }

    /// Refuses a row that lacks what the task needs, or with too large a cell.
    fn check_cells(
        &self,
        images: &[MediaCell<'_>],
        audios: &[MediaCell<'_>],
    ) -> Result<(), PrepareError> {
        let job = &self.plan.job;
        let columns = &job.source.columns;
        let needs = |kind, column: &Option<String>, found: &[MediaCell<'_>]| {
            if job.task.kind == kind && found.is_empty() {
                let column = column.clone().unwrap_or_default();
                return Err(PrepareError::Missing { column, task: kind.as_str() });
            }
            Ok(())
        };
        needs(TaskKind::Caption, &columns.image, images)?;
        needs(TaskKind::Transcribe, &columns.audio, audios)?;
        for (column, kind, found) in
            [(&columns.image, "image", images), (&columns.audio, "audio", audios)]
        {
            if column.is_some() {
                needs(TaskKind::Embed, column, found)?;
            }
            for cell in found {
                let bytes = match cell {
                    MediaCell::Bytes(bytes) => bytes.len() as u64,
                    MediaCell::Encoded(encoded) => encoded.size_bytes(),
                    // Checked when the file is opened.
                    MediaCell::Path(_) => continue,
                };
                self.check_size(column, kind, bytes)?;
            }
        }
        Ok(())
    }

    fn check_size(
        &self,
        column: &Option<String>,
        kind: &'static str,
        bytes: u64,
    ) -> Result<(), PrepareError> {
        let bytes_max = self.plan.job.limits.media_bytes.0;
        if bytes > bytes_max {
            return Err(media_error(column, MediaError::TooManyBytes { kind, bytes, bytes_max }));
        }
        Ok(())
    }

    /// Reserves memory for a row and reads it, again with more if it turns out to need more.
    fn admit(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        media: [Vec<MediaCell<'_>>; 2],
        runtime: &Handle,
    ) -> Result<(Ready, RowIdentity, Option<Reservation>), PrepareError> {
        let limits = &self.plan.job.limits;
        let columns = &self.plan.job.source.columns;
        let [images, audios] = &media;
        let refuse = |bytes: u64, bytes_max: u64| {
            let (column, kind) = if images.is_empty() && !audios.is_empty() {
                (&columns.audio, "audio")
            } else {
                (&columns.image, "image")
            };
            if images.is_empty() && audios.is_empty() {
                return PrepareError::TextExceedsMemory { bytes, bytes_max };
            }
            media_error(column, MediaError::TooMuchMemory { kind, bytes, bytes_max })
        };
        let first = decode::first_bytes(&self.processor, limits, images, audios)
            .map_err(|source| media_error(&columns.image, source))?;
        let text_bytes = self.text_bytes(&batch.rows, offset);
        let text_need = text_bytes.saturating_mul(TEXT_COPIES);
        let need = InitialNeed {
            media: first,
            is_lower_bound: audios.is_empty(),
            text: text_need.saturating_add(text_bytes.saturating_mul(ENCODING_BYTES)),
        };
        let mut attempt = Attempt::first(need, self.decode_budget.bytes_left());
        loop {
            let reservation = runtime
                .block_on(self.decode_budget.reserve_or_refuse(attempt.bytes))
                .map_err(|error| refuse(error.bytes, error.bytes_max))?;
            let row_budget = RowBudget {
                budget: &self.decode_budget,
                processor: &self.processor,
                limits,
                allowed: attempt.bytes,
                used: text_need,
                reservation: Some(reservation),
            };
            match self.records(batch, offset, &media, row_budget, runtime) {
                Ok(done) => return Ok(done),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Short(shortfall)) => {
                    attempt = attempt
                        .next(shortfall, self.decode_budget.bytes_left())
                        .map_err(|error| refuse(error.bytes, error.bytes_max))?;
                }
            }
        }
    }

    /// Renders the prompt of a row and decodes its media; returns the processor's input and the memory
    /// that holds it.
    fn records(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        media: &[Vec<MediaCell<'_>>; 2],
        mut row_budget: RowBudget<'_>,
        runtime: &Handle,
    ) -> Result<(Ready, RowIdentity, Option<Reservation>), Failed> {
        let columns = &self.plan.job.source.columns;
        let [image_cells, audio_cells] = media;
        let row_prompt =
            RowPrompt::new(&self.plan, &batch.rows, offset).map_err(PrepareError::from)?;
        let images =
            self.media(&columns.image, "image", image_cells, batch, &mut row_budget, runtime)?;
        let audios =
            self.media(&columns.audio, "audio", audio_cells, batch, &mut row_budget, runtime)?;
        if row_prompt.prompt.trim().is_empty() && images.is_empty() && audios.is_empty() {
            return Err(PrepareError::Nothing.into());
        }
        let mut identity = self.identity(batch, offset, &row_prompt, &images, &audios);
        let RowPrompt { prompt, system, earlier } = row_prompt;
        let lookup =
            self.answer_cache.as_ref().map(|cache| cache.lookup(batch.key(offset), &identity));
        if let Some(lookup @ (Lookup::Pending | Lookup::Hit(..))) = lookup {
            return Ok((Ready::Cached(lookup), identity, None));
        }
        let mut record = Record {
            text: (!prompt.is_empty()).then_some(prompt),
            system,
            earlier,
            ..Record::default()
        };
        for bytes in images {
            let image = row_budget
                .image(bytes)
                .map_err(|shortfall| Failed::new(shortfall, &columns.image))?;
            identity.flags.extend(image.flags);
            record.images.push(image.media);
        }
        for bytes in audios {
            let audio = row_budget
                .audio(bytes)
                .map_err(|shortfall| Failed::new(shortfall, &columns.audio))?;
            identity.flags.extend(audio.flags);
            record.audios.push(audio.media);
        }
        let work = self.processor.begin(record).map_err(PrepareError::from)?;
        Ok((Ready::Uncached(work), identity, row_budget.reservation))
    }

    /// Returns the bytes of the cells that the prompt is rendered from.
    fn text_bytes(&self, rows: &RecordBatch, offset: usize) -> u64 {
        let columns = &self.plan.job.source.columns;
        let names = self.plan.template_columns.iter().chain(&columns.text).chain(&columns.messages);
        let columns = names.filter_map(|name| rows.column_by_name(name));
        let bytes = columns.map(|column| {
            let cell = column.slice(offset, 1).to_data().get_slice_memory_size();
            cell.unwrap_or(0) as u64
        });
        bytes.sum()
    }

    /// Returns the encoded bytes of all images or audios of a row.
    fn media<'a>(
        &self,
        column: &Option<String>,
        kind: &'static str,
        cells: &[MediaCell<'a>],
        batch: &ScannedBatch,
        row_budget: &mut RowBudget<'_>,
        runtime: &Handle,
    ) -> Result<Vec<Cow<'a, [u8]>>, Failed> {
        let bytes_max = self.plan.job.limits.media_bytes.0;
        let mut media = Vec::with_capacity(cells.len());
        for cell in cells {
            media.push(match *cell {
                MediaCell::Bytes(bytes) => Cow::Borrowed(bytes),
                MediaCell::Encoded(encoded) => {
                    let need = decode::decode_bytes(encoded);
                    if need > row_budget.left() {
                        let bytes = row_budget.used.saturating_add(need);
                        return Err(Failed::Short(Shortfall { bytes, is_exact: false }));
                    }
                    let decoded = encoded.decode().map_err(|error| {
                        media_error(column, MediaError::undecoded(kind, &error))
                    })?;
                    row_budget.hold(&decoded);
                    Cow::Owned(decoded)
                }
                MediaCell::Path(path) => {
                    // A growing `Vec` may have twice the needed capacity.
                    let most = bytes_max.min(row_budget.left() / 2);
                    let read = self.media_roots.read(path, &batch.file, most, runtime);
                    let read = read.map_err(|source| {
                        let column = column.clone().unwrap_or_default();
                        PrepareError::Locate { column, source }
                    })?;
                    let bytes = read.len() as u64;
                    self.check_size(column, kind, bytes)?;
                    if bytes > most {
                        let bytes = row_budget.used.saturating_add(bytes.saturating_mul(2));
                        return Err(Failed::Short(Shortfall { bytes, is_exact: false }));
                    }
                    row_budget.hold(&read);
                    Cow::Owned(read)
                }
            });
        }
        Ok(media)
    }

    /// Computes the input digest and the seed of a row. The seed is derived from the seed column and the
    /// input, or from the job's seed, the row number and the input, so that sampling does not depend on
    /// order or resume.
    fn identity(
        &self,
        batch: &ScannedBatch,
        offset: usize,
        RowPrompt { prompt, system, earlier }: &RowPrompt,
        images: &[Cow<'_, [u8]>],
        audios: &[Cow<'_, [u8]>],
    ) -> RowIdentity {
        let system = system.as_deref().unwrap_or_default();
        let mut parts: Vec<&[u8]> = vec![prompt.as_bytes(), system.as_bytes()];
        let n_images = images.len().to_le_bytes();
        parts.push(&n_images);
        parts.extend(images.iter().chain(audios).map(AsRef::<[u8]>::as_ref));
        for turn in earlier {
            parts.extend([turn.role.as_str().as_bytes(), turn.text.as_bytes()]);
        }
        let input_sha256 = sha256_hex(parts);
        let seed = match self.row_seed(&batch.rows, offset) {
            Some(seed) => sha256_hex([seed.to_string().as_bytes(), input_sha256.as_bytes()]),
            None => {
                let row = batch.file_rows[offset].to_le_bytes();
                let job_seed = self.plan.job.generation.seed.to_le_bytes();
                sha256_hex([&row[..], &job_seed, input_sha256.as_bytes()])
            }
        };
        let seed = u64::from_str_radix(&seed[..16], 16).unwrap_or_default();
        RowIdentity { input_sha256, seed, flags: Flags::new() }
    }

    /// Returns the seed of the row in the seed column, if any.
    fn row_seed(&self, rows: &RecordBatch, offset: usize) -> Option<Number> {
        let name = self.plan.job.source.columns.seed.as_ref()?;
        match template_value(rows.column_by_name(name)?.as_ref(), offset) {
            Value::Number(seed) => Some(seed),
            _ => None,
        }
    }
}
