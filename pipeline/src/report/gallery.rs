//! Rows of a run as a person sees them: small pictures, sounds, what was asked and answered.

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
    job::RejectsPlace,
    ledger::LedgerEntry,
    table::{
        ANSWER_COLUMN, CODE_COLUMN, FLAGS_COLUMN, INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN,
        MESSAGE_COLUMN, RESERVED_PREFIX,
    },
};
use serde::{Deserialize, Serialize};

use super::sample::{AnswerSample, read, repeats};
use crate::{
    excerpt::excerpt,
    guard::{CALL_MAX, guarded_within},
    ledger::OutputFiles,
    media::image::PendingImage,
    plan::RunPlan,
    retry::row_numbers,
    source::{
        cell::{MediaCell, media_cells, text_cell},
        reader::FileReader,
    },
    stage::answer::flags_at,
};

/// Rows that are shown.
const ROWS_MAX: usize = 24;
/// Odd answers that are shown beside them.
const ODD_MAX: usize = 12;
/// Rejected rows that are shown.
const REJECTED_MAX: usize = 12;
/// Files of rejects that are looked at.
const REJECT_FILES_MAX: usize = 16;
/// Rows that give the same answer, and their share of all, from which on it is told.
const COMMON_ROWS_MIN: u64 = 5;
const COMMON_SHARE_MIN: f64 = 0.05;
/// Pixels of the longer side of a picture.
const SIDE_MAX: u32 = 192;
/// Pixels of a picture that is opened for it.
const PIXELS_MAX: u64 = 40_000_000;
/// Bytes of a sound that is put into the page.
const SOUND_BYTES_MAX: usize = 512 << 10;
/// Bytes that all pictures and sounds of a page have together.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Characters of an answer that are shown.
const CHARS_MAX: usize = 400;

/// Rows to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gallery {
    /// The rows, evenly spread over the output.
    pub rows: Vec<Shown>,
    /// Rows beside them with answers that something is odd about.
    #[serde(default)]
    pub odd: Vec<Shown>,
    /// Rows that were rejected, of every reason that was met.
    #[serde(default)]
    pub rejected: Vec<Shown>,
}

/// A row to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// What names it: the carried columns.
    pub columns: Vec<(String, String)>,
    /// What was asked, where a column says it.
    pub asked: Option<String>,
    /// Small pictures, as `data:` URLs.
    pub pictures: Vec<String>,
    /// Sounds, as `data:` URLs.
    pub sounds: Vec<String>,
    /// The answer.
    pub answer: String,
    /// The mean log probability of its tokens.
    pub logprob: Option<f32>,
    /// What is odd about it.
    pub flags: Vec<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<ShownReject>,
}

/// Why a row was rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownReject {
    /// The code.
    pub code: String,
    /// What is wrong.
    pub message: String,
}

impl Gallery {
    /// Reads some rows and what they were asked of; what cannot be read is left out.
    pub(crate) fn collect(
        plan: &RunPlan,
        output: &OutputFiles,
        entries: &[&LedgerEntry],
        sample: &AnswerSample,
    ) -> Self {
        // Of a retried span it is not known which row a part's row is.
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
struct SpanRows<'a> {
    plan: &'a RunPlan,
    row_group: usize,
    reader: FileReader,
    answers: Vec<RecordBatch>,
    rows: Vec<SpanRow>,
}

/// A row of a span's parts, and what became of it.
struct SpanRow {
    /// Where it stands: which batch of the answers, which row of that, and which of its row group.
    batch_idx: usize,
    row: usize,
    position: usize,
    shown: Shown,
}

impl<'a> SpanRows<'a> {
    fn read(
        plan: &'a RunPlan,
        output: &OutputFiles,
        entry: &LedgerEntry,
        sample: &AnswerSample,
    ) -> Option<Self> {
        let span = &entry.span;
        let rejected = rejected_rows(output, entry);
        let inline = plan.job.output.rejects == RejectsPlace::Inline;
        let of_file = |position: usize| span.file_row(position);
        let positions: Vec<usize> = plan
            .rows_of(span)
            .into_iter()
            .filter(|position| inline || !rejected.contains(&of_file(*position)))
            .collect();
        let answers: Vec<RecordBatch> =
            entry.parts.iter().flat_map(|file| read(output, file)).collect();
        let n_answers: usize = answers.iter().map(RecordBatch::num_rows).sum();
        // Where a query was not asked again, its rows are not known.
        if n_answers != positions.len() {
            return None;
        }
        let numbers = answers.iter().map(row_numbers);
        let told: Option<Vec<_>> = numbers.map(|column| Some(column?.values().to_vec())).collect();
        let position = |row: u64| {
            span.row_start + usize::try_from(row - span.file_row_start).unwrap_or_default()
        };
        // Answers in folders tell which rows they are of.
        let positions = match told {
            Some(told) => told.into_iter().flatten().map(position).collect(),
            None => positions,
        };
        let reader = plan.table.reader(&span.object).ok()??;
        let places = answers.iter().enumerate();
        let places =
            places.flat_map(|(idx, batch)| (0..batch.num_rows()).map(move |row| (idx, row)));
        // Embeddings are no texts to show.
        let rows = places.zip(positions).filter_map(|((batch_idx, row), position)| {
            let shown = answered(&answers[batch_idx], row, sample)?;
            Some(SpanRow { batch_idx, row, position, shown })
        });
        let rows = rows.collect();
        Some(Self { plan, row_group: span.row_group, reader, answers, rows })
    }

    /// Chooses at most as many rows of each kind: as they come, odd ones, rejected ones.
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

    /// Returns a row with what names it and what it was asked of.
    fn show(&self, idx: usize, bytes_left: &mut usize) -> Shown {
        let SpanRow { batch_idx, row, position, shown } = &self.rows[idx];
        let is_wanted = |name: &str| name != ANSWER_COLUMN && !name.starts_with(RESERVED_PREFIX);
        let columns = named(&self.answers[*batch_idx], *row, is_wanted);
        let mut shown = Shown { columns, ..shown.clone() };
        let read = Some(self.plan.read_columns.as_slice());
        let range = *position..position + 1;
        let source = self.reader.read(self.row_group, std::slice::from_ref(&range), read, 1);
        let source = source.ok().and_then(|mut batches| Some(batches.next()?.ok()?.rows));
        if let Some(source) = source.filter(|source| source.num_rows() == 1) {
            add_source(self.plan, &source, &mut shown, bytes_left);
        }
        shown
    }
}

/// Reads rejected rows from the files that keep them: of every code as many, as far as there are.
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

/// Reads why a row was rejected, if it was.
fn reject(batch: &RecordBatch, row: usize, columns: [&str; 2]) -> Option<ShownReject> {
    let cell = |name: &str| text_cell(batch.column_by_name(name)?.as_ref(), row).map(str::to_owned);
    let [code, message] = columns.map(cell);
    Some(ShownReject { code: code?, message: shorten(&message.unwrap_or_default()) })
}

/// Writes the cells of a row whose columns are wanted, and that are not empty.
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

/// Reads what became of a row of a part, but for what names it; none where it has an embedding.
fn answered(batch: &RecordBatch, row: usize, sample: &AnswerSample) -> Option<Shown> {
    let Some(answer) = text_cell(batch.column_by_name(ANSWER_COLUMN)?.as_ref(), row) else {
        let reject = reject(batch, row, [INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN])?;
        return Some(Shown { reject: Some(reject), ..Shown::default() });
    };
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
        ("cut off", reason == Some("length")),
        ("repeats itself", repeats(answer)),
        ("empty", answer.trim().is_empty()),
        ("as many others", rows_alike >= COMMON_ROWS_MIN && share_alike >= COMMON_SHARE_MIN),
        ("unlikely", is_unlikely),
    ];
    let of_input = batch.column_by_name(FLAGS_COLUMN).map(|column| flags_at(column, row));
    let of_input = of_input.iter().flatten().map(|flag| flag.as_str().replace('_', " "));
    let odd = odd.iter().filter(|(_, is)| *is).map(|(flag, _)| (*flag).to_owned());
    let flags = odd.chain(of_input).collect();
    Some(Shown { answer: shorten(answer), logprob, flags, ..Shown::default() })
}

/// Adds what a row was asked of.
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
            // Files and URLs are not asked for again only to be shown.
            MediaCell::Path(_) => None,
        });
        bytes.collect()
    };
    for bytes in bytes_of(&columns.image) {
        add(picture(bytes), &mut shown.pictures);
    }
    for bytes in bytes_of(&columns.audio) {
        add(sound(&bytes), &mut shown.sounds);
    }
}

fn picture(bytes: Vec<u8>) -> Option<String> {
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

/// Sounds go into the page as they are, where a browser plays their kind.
fn sound(bytes: &[u8]) -> Option<String> {
    if bytes.len() > SOUND_BYTES_MAX {
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
