//! Sample rows of a run for the report: thumbnails, audio, prompts and answers.

use std::{
    collections::{BTreeMap, HashSet},
    io::Cursor,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Float32Type,
    util::display::{ArrayFormatter, FormatOptions},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, RgbImage, imageops::FilterType};
use legenda_schemas::{
    job::{RejectsMode, TaskKind},
    ledger::LedgerEntry,
    table::{
        ANSWER_COLUMN, CODE_COLUMN, FLAGS_COLUMN, INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN,
        MESSAGE_COLUMN, RESERVED_PREFIX, answer_column,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    neighbours::{Neighbour, embedded_rows},
    sample::{AnswerSample, read, repeats},
};
use crate::{
    base::{
        excerpt::excerpt,
        guard::{CALL_MAX, guarded_within},
    },
    input::{
        media::image::PendingImage,
        source::{
            cell::{MediaCell, media_cells, text_cell},
            reader::FileReader,
        },
    },
    output::ledger::OutputFiles,
    run::{plan::RunPlan, retry::row_numbers, stage::answer::flags_at},
};

/// The maximum number of ordinary rows.
const ROWS_MAX: usize = 24;
/// The maximum number of rows with odd answers.
const ODD_MAX: usize = 12;
/// The maximum number of rejected rows.
const REJECTED_MAX: usize = 12;
/// The maximum number of reject files to read.
const REJECT_FILES_MAX: usize = 16;
/// The minimum count of equal answers to flag them; also limited by share.
const COMMON_ROWS_MIN: u64 = 5;
const COMMON_SHARE_MIN: f64 = 0.05;
/// The longer side of a thumbnail in pixels.
const SIDE_MAX: u32 = 192;
/// The maximum pixels of an image to make a thumbnail of.
const PIXELS_MAX: u64 = 40_000_000;
/// The maximum bytes of an embedded audio file.
const AUDIO_BYTES_MAX: usize = 512 << 10;
/// The maximum bytes of all thumbnails and audio of a page.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// The maximum characters of a shown answer.
const CHARS_MAX: usize = 400;

/// The sample rows of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gallery {
    /// Ordinary rows, spread evenly over the output.
    pub rows: Vec<Shown>,
    /// Rows with odd answers.
    #[serde(default)]
    pub odd: Vec<Shown>,
    /// Rejected rows, with every reason seen.
    #[serde(default)]
    pub rejected: Vec<Shown>,
}

/// A sample row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The carried columns, which identify it.
    pub columns: Vec<(String, String)>,
    /// The text input, if a column contains it.
    pub asked: Option<String>,
    /// Thumbnails as `data:` URLs.
    pub pictures: Vec<String>,
    /// Audio as `data:` URLs.
    pub sounds: Vec<String>,
    /// The answer.
    pub answer: String,
    /// The mean log probability of its tokens.
    pub logprob: Option<f32>,
    /// What is odd about it.
    pub flags: Vec<String>,
    /// The rows with the most similar embeddings, most similar first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// The reject, if it has no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<ShownReject>,
}

/// The reject of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownReject {
    /// The reject code.
    pub code: String,
    /// The message.
    pub message: String,
}

impl Gallery {
    /// Reads sample rows with their inputs; unreadable ones are omitted.
    pub(crate) fn collect(
        plan: &RunPlan,
        output: &OutputFiles,
        entries: &[&LedgerEntry],
        sample: &AnswerSample,
    ) -> Self {
        // In a retried span, the source row of a row in a part is unknown.
        let plain: Vec<&LedgerEntry> = entries
            .iter()
            .copied()
            .filter(|entry| entry.retries == 0 && !entry.parts.is_empty())
            .filter(|entry| plan.ledger.made(entry))
            .collect();
        let step = plain.len().div_ceil(ROWS_MAX).max(1);
        let chosen: Vec<&LedgerEntry> = plain.into_iter().step_by(step).collect();
        let mut this = Self::default();
        let mut bytes_left = PAGE_BYTES_MAX;
        this.rejected = rejected(plan, output, entries, &mut bytes_left);
        if plan.embedding.is_some() {
            this.rows = embedded_rows(plan, output, &chosen, sample, &mut bytes_left);
            return this;
        }
        for (idx, entry) in chosen.iter().enumerate() {
            let room = |max: usize, shown: &[Shown]| {
                max.saturating_sub(shown.len()).div_ceil(chosen.len() - idx)
            };
            let room = [
                room(ROWS_MAX, &this.rows),
                room(ODD_MAX, &this.odd),
                room(REJECTED_MAX, &this.rejected),
            ];
            let Some(rows) = SpanRows::read(plan, output, entry, sample) else { continue };
            let shown = [&mut this.rows, &mut this.odd, &mut this.rejected];
            for (to, chosen) in shown.into_iter().zip(rows.choose(room)) {
                to.extend(chosen.into_iter().map(|idx| rows.show(idx, &mut bytes_left)));
            }
        }
        this
    }
}

/// The rows of a span's parts.
pub(super) struct SpanRows<'a> {
    plan: &'a RunPlan,
    row_group: usize,
    reader: FileReader,
    answers: Vec<RecordBatch>,
    pub(super) rows: Vec<SpanRow>,
}

/// A row of a span's parts with its result.
pub(super) struct SpanRow {
    /// The index of its answer batch, its row in that batch, and its position in the row group.
    batch_idx: usize,
    row: usize,
    pub(super) position: usize,
    shown: Shown,
}

impl<'a> SpanRows<'a> {
    pub(super) fn read(
        plan: &'a RunPlan,
        output: &OutputFiles,
        entry: &LedgerEntry,
        sample: &AnswerSample,
    ) -> Option<Self> {
        let span = &entry.span;
        let rejected = rejected_rows(output, entry);
        let inline = plan.job.output.rejects == RejectsMode::Inline;
        let file_row = |position: usize| span.file_row(position);
        let positions: Vec<usize> = plan
            .rows_of(span)
            .into_iter()
            .filter(|position| inline || !rejected.contains(&file_row(*position)))
            .collect();
        let answers: Vec<RecordBatch> =
            entry.parts.iter().flat_map(|file| read(output, file)).collect();
        let n_answers: usize = answers.iter().map(RecordBatch::num_rows).sum();
        // Without running the query again, its rows are unknown.
        if n_answers != positions.len() {
            return None;
        }
        let numbers = answers.iter().map(row_numbers);
        let row_numbers: Option<Vec<_>> =
            numbers.map(|column| Some(column?.values().to_vec())).collect();
        let position = |row: u64| {
            span.row_start + usize::try_from(row - span.file_row_start).unwrap_or_default()
        };
        // Partitioned answers contain their row numbers.
        let positions = match row_numbers {
            Some(row_numbers) => row_numbers.into_iter().flatten().map(position).collect(),
            None => positions,
        };
        let reader = plan.table.reader(&span.object).ok()??;
        let places = answers.iter().enumerate();
        let places =
            places.flat_map(|(idx, batch)| (0..batch.num_rows()).map(move |row| (idx, row)));
        let rows = places.zip(positions).filter_map(|((batch_idx, row), position)| {
            let shown = answered(&answers[batch_idx], row, sample)?;
            Some(SpanRow { batch_idx, row, position, shown })
        });
        let rows = rows.collect();
        Some(Self { plan, row_group: span.row_group, reader, answers, rows })
    }

    /// Selects at most the given numbers of ordinary, odd and rejected rows.
    fn choose(&self, [n_plain, n_odd, n_rejected]: [usize; 3]) -> [Vec<usize>; 3] {
        let is = |of: fn(&Shown) -> bool| {
            let rows = self.rows.iter().enumerate();
            rows.filter(|(_, row)| of(&row.shown)).map(|(idx, _)| idx).collect::<Vec<usize>>()
        };
        let answered = is(|shown| shown.reject.is_none());
        let every = (answered.len() / n_plain.max(1)).max(1);
        let plain: Vec<usize> = answered.iter().copied().step_by(every).take(n_plain).collect();
        let odd = is(|shown| shown.reject.is_none() && !shown.flags.is_empty());
        let odd = odd.into_iter().filter(|idx| !plain.contains(idx)).take(n_odd).collect();
        let rejected = is(|shown| shown.reject.is_some()).into_iter().take(n_rejected).collect();
        [plain, odd, rejected]
    }

    /// Returns a row with its columns and input.
    fn show(&self, idx: usize, bytes_left: &mut usize) -> Shown {
        let mut shown = self.without_input(idx);
        let (reader, position) = (&self.reader, self.rows[idx].position);
        add_input(self.plan, reader, self.row_group, position, &mut shown, bytes_left);
        shown
    }

    /// Returns a row with its columns.
    pub(super) fn without_input(&self, idx: usize) -> Shown {
        let SpanRow { batch_idx, row, shown, .. } = &self.rows[idx];
        let answer = answer_column(self.plan.job.task.kind);
        let is_wanted = |name: &str| name != answer && !name.starts_with(RESERVED_PREFIX);
        let columns = named(&self.answers[*batch_idx], *row, is_wanted);
        Shown { columns, ..shown.clone() }
    }

    /// Returns the embedding of a row.
    pub(super) fn embedding(&self, idx: usize) -> Option<Vec<f32>> {
        let SpanRow { batch_idx, row, .. } = &self.rows[idx];
        let column = self.answers[*batch_idx].column_by_name(answer_column(TaskKind::Embed))?;
        let values = column.as_fixed_size_list_opt()?.value(*row);
        Some(values.as_primitive_opt::<Float32Type>()?.values().to_vec())
    }
}

/// Reads the input of a row and adds it to what is shown.
pub(super) fn add_input(
    plan: &RunPlan,
    reader: &FileReader,
    row_group: usize,
    position: usize,
    shown: &mut Shown,
    bytes_left: &mut usize,
) {
    let read = Some(plan.read_columns.as_slice());
    let range = position..position + 1;
    let source = reader.read(row_group, std::slice::from_ref(&range), read, 1);
    let source = source.ok().and_then(|mut batches| Some(batches.next()?.ok()?.rows));
    if let Some(source) = source.filter(|source| source.num_rows() == 1) {
        add_source(plan, &source, shown, bytes_left);
    }
}

/// Reads rejected rows from reject files, balanced over the codes.
fn rejected(
    plan: &RunPlan,
    output: &OutputFiles,
    entries: &[&LedgerEntry],
    bytes_left: &mut usize,
) -> Vec<Shown> {
    let files: Vec<_> = entries.iter().filter_map(|entry| entry.rejects_file.as_ref()).collect();
    let step = files.len().div_ceil(REJECT_FILES_MAX).max(1);
    let batches: Vec<RecordBatch> =
        files.into_iter().step_by(step).flat_map(|file| read(output, file)).collect();
    let mut by_code: BTreeMap<&str, Vec<(&RecordBatch, usize)>> = BTreeMap::new();
    for batch in &batches {
        let Some(codes) = batch.column_by_name(CODE_COLUMN) else { continue };
        for row in 0..batch.num_rows() {
            if let Some(code) = text_cell(codes.as_ref(), row) {
                by_code.entry(code).or_default().push((batch, row));
            }
        }
    }
    let each = REJECTED_MAX / by_code.len().max(1);
    let chosen = by_code.into_values().flat_map(|rows| rows.into_iter().take(each.max(1)));
    let shown = chosen.take(REJECTED_MAX).map(|(batch, row)| {
        let mut shown = Shown {
            reject: reject(batch, row, [CODE_COLUMN, MESSAGE_COLUMN]),
            columns: named(batch, row, |name| plan.carried.find(name).is_some()),
            ..Shown::default()
        };
        add_source(plan, &batch.slice(row, 1), &mut shown, bytes_left);
        shown
    });
    shown.collect()
}

/// Reads the reject of a row, if it was rejected.
fn reject(batch: &RecordBatch, row: usize, columns: [&str; 2]) -> Option<ShownReject> {
    let cell = |name: &str| text_cell(batch.column_by_name(name)?.as_ref(), row).map(str::to_owned);
    let [code, message] = columns.map(cell);
    Some(ShownReject { code: code?, message: shorten(&message.unwrap_or_default()) })
}

/// Formats the non-empty cells of the selected columns.
fn named(
    batch: &RecordBatch,
    row: usize,
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<(String, String)> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let wanted = columns.filter(|(field, column)| is_wanted(field.name()) && !column.is_null(row));
    wanted
        .filter_map(|(field, column)| {
            let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default());
            let text = formatter.ok()?.value(row).to_string();
            Some((field.name().clone(), excerpt(&text).into_owned()))
        })
        .collect()
}

fn rejected_rows(output: &OutputFiles, entry: &LedgerEntry) -> HashSet<u64> {
    let mut rows = HashSet::new();
    for batch in entry.rejects_file.iter().flat_map(|file| read(output, file)) {
        rows.extend(row_numbers(&batch).into_iter().flat_map(|column| column.values()).copied());
    }
    rows
}

/// Reads the result of a row of a part, without its columns. An embedding has no text.
fn answered(batch: &RecordBatch, row: usize, sample: &AnswerSample) -> Option<Shown> {
    if let Some(reject) = reject(batch, row, [INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN]) {
        return Some(Shown { reject: Some(reject), ..Shown::default() });
    }
    let Some(answers) = batch.column_by_name(ANSWER_COLUMN) else { return Some(Shown::default()) };
    let answer = text_cell(answers.as_ref(), row)?;
    let logprobs = batch.column_by_name("legenda_logprob_mean");
    let logprobs = logprobs.and_then(|column| column.as_primitive_opt::<Float32Type>());
    let logprob = logprobs.filter(|column| column.is_valid(row)).map(|column| column.value(row));
    let reason = batch.column_by_name("legenda_finish_reason");
    let reason = reason.and_then(|column| text_cell(column.as_ref(), row));
    let rows_alike = sample.common.iter().find(|(text, _)| text == answer).map_or(0, |(_, n)| *n);
    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    let share_alike = rows_alike as f64 / sample.rows.max(1) as f64;
    let is_unlikely =
        logprob.zip(sample.logprob_low).is_some_and(|(logprob, low)| f64::from(logprob) < low);
    let odd = [
        ("truncated", reason == Some("length")),
        ("repetitive", repeats(answer)),
        ("empty", answer.trim().is_empty()),
        ("very frequent", rows_alike >= COMMON_ROWS_MIN && share_alike >= COMMON_SHARE_MIN),
        ("unlikely", is_unlikely),
    ];
    let input_flags = batch.column_by_name(FLAGS_COLUMN).map(|column| flags_at(column, row));
    let input_flags = input_flags.iter().flatten().map(|flag| flag.as_str().replace('_', " "));
    let odd = odd.iter().filter(|(_, is)| *is).map(|(flag, _)| (*flag).to_owned());
    let flags = odd.chain(input_flags).collect();
    Some(Shown { answer: shorten(answer), logprob, flags, ..Shown::default() })
}

/// Adds the input of a row.
fn add_source(plan: &RunPlan, row: &RecordBatch, shown: &mut Shown, bytes_left: &mut usize) {
    let columns = &plan.job.source.columns;
    let column = |name: &Option<String>| row.column_by_name(name.as_deref()?).cloned();
    if let Some(text) = column(&columns.text) {
        shown.asked = text_cell(text.as_ref(), 0).map(|text| excerpt(text).into_owned());
    }
    let mut add = |url: Option<String>, to: &mut Vec<String>| {
        if let Some(url) = url.filter(|url| url.len() <= *bytes_left) {
            *bytes_left -= url.len();
            to.push(url);
        }
    };
    let bytes_of = |name: &Option<String>| -> Vec<Vec<u8>> {
        let cells = column(name);
        let cells = cells.iter().flat_map(|cells| media_cells(cells.as_ref(), 0));
        let bytes = cells.filter_map(|cell| match cell {
            MediaCell::Bytes(bytes) => Some(bytes.to_vec()),
            MediaCell::Encoded(encoded) => encoded.decode().ok(),
            // Do not fetch files and URLs again only to show them.
            MediaCell::Path(_) => None,
        });
        bytes.collect()
    };
    for bytes in bytes_of(&columns.image) {
        add(thumbnail(bytes), &mut shown.pictures);
    }
    for bytes in bytes_of(&columns.audio) {
        add(embedded_audio(&bytes), &mut shown.sounds);
    }
}

fn thumbnail(bytes: Vec<u8>) -> Option<String> {
    let make = move || -> Option<Vec<u8>> {
        let decoded = PendingImage::open(&bytes, PIXELS_MAX).ok()?.decode().ok()?;
        let (width, height) =
            (u32::try_from(decoded.width).ok()?, u32::try_from(decoded.height).ok()?);
        let whole = RgbImage::from_raw(width, height, decoded.pixels)?;
        let longer = width.max(height).max(1);
        let side = |pixels: u32| (pixels * SIDE_MAX.min(longer) / longer).max(1);
        let small =
            image::imageops::resize(&whole, side(width), side(height), FilterType::Triangle);
        let mut jpeg = Vec::new();
        small.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).ok()?;
        Some(jpeg)
    };
    let jpeg = guarded_within(CALL_MAX, make).ok().flatten()?;
    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}

/// Embeds audio unchanged if browsers play its format.
fn embedded_audio(bytes: &[u8]) -> Option<String> {
    if bytes.len() > AUDIO_BYTES_MAX {
        return None;
    }
    let kind = match bytes {
        [b'R', b'I', b'F', b'F', ..] => "audio/wav",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'O', b'g', b'g', b'S', ..] => "audio/ogg",
        [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..] => "audio/mpeg",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "audio/mp4",
        _ => return None,
    };
    Some(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
