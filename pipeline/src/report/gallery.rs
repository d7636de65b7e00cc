//! Rows of a run as a person sees them: small pictures, sounds, what was asked and answered.

use std::{collections::HashSet, io::Cursor};

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
    table::{ANSWER_COLUMN, RESERVED_PREFIX},
};
use serde::{Deserialize, Serialize};

use super::sample::{read, repeats};
use crate::{
    guard::{CALL_MAX, guarded_within},
    ledger::OutputFiles,
    media::image::PendingImage,
    plan::RunPlan,
    retry::row_numbers,
    source::cell::{MediaCell, media_cells, text_cell},
};

/// Rows that are shown.
const ROWS_MAX: usize = 24;
/// Pixels of the longer side of a picture.
const SIDE_MAX: u32 = 192;
/// Pixels of a picture that is opened for it.
const PIXELS_MAX: u64 = 40_000_000;
/// Bytes of a sound that is put into the page.
const SOUND_BYTES_MAX: usize = 512 << 10;
/// Bytes that all pictures and sounds of a page have together.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Characters of a text that are shown.
const CHARS_MAX: usize = 400;

/// Rows to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gallery {
    /// The rows, evenly spread over the output.
    pub rows: Vec<Shown>,
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
}

impl Gallery {
    /// Reads some answered rows and what they were asked of; what cannot be read is left out.
    pub(crate) fn collect(plan: &RunPlan, output: &OutputFiles, entries: &[LedgerEntry]) -> Self {
        // Of a retried span it is not known which row a part's row is.
        let plain: Vec<&LedgerEntry> = entries
            .iter()
            .filter(|entry| entry.retries == 0 && entry.answers > 0 && plan.ledger.made(entry))
            .collect();
        let step = plain.len().div_ceil(ROWS_MAX).max(1);
        let chosen: Vec<&LedgerEntry> = plain.into_iter().step_by(step).collect();
        let mut this = Self::default();
        let mut bytes_left = PAGE_BYTES_MAX;
        for (idx, entry) in chosen.iter().enumerate() {
            let n_rows = (ROWS_MAX - this.rows.len()).div_ceil(chosen.len() - idx);
            this.rows.extend(rows_of(plan, output, entry, n_rows, &mut bytes_left));
        }
        this
    }
}

/// Returns at most `n_rows` answered rows of a span.
fn rows_of(
    plan: &RunPlan,
    output: &OutputFiles,
    entry: &LedgerEntry,
    n_rows: usize,
    bytes_left: &mut usize,
) -> Vec<Shown> {
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
    if n_answers != positions.len() || n_answers == 0 {
        return Vec::new();
    }
    let Ok(Some(reader)) = plan.table.reader(&span.object) else { return Vec::new() };
    let every = (n_answers / n_rows.max(1)).max(1);
    let mut shown = Vec::new();
    let rows = answers.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
    for ((batch, row), position) in rows.zip(positions).step_by(every).take(n_rows) {
        let Some(mut one) = answered(batch, row) else { continue };
        let columns = Some(plan.read_columns.as_slice());
        let range = position..position + 1;
        let source = reader.read(span.row_group, std::slice::from_ref(&range), columns, 1);
        let source = source.ok().and_then(|mut batches| Some(batches.next()?.ok()?.rows));
        if let Some(source) = source.filter(|source| source.num_rows() == 1) {
            add_source(plan, &source, &mut one, bytes_left);
        }
        shown.push(one);
    }
    shown
}

fn rejected_rows(output: &OutputFiles, entry: &LedgerEntry) -> HashSet<u64> {
    let mut rows = HashSet::new();
    for batch in entry.rejects_file.iter().flat_map(|file| read(output, file)) {
        rows.extend(row_numbers(&batch).into_iter().flat_map(|column| column.values()).copied());
    }
    rows
}

/// Reads what a row was answered with; none for one that was rejected, or has an embedding.
fn answered(batch: &RecordBatch, row: usize) -> Option<Shown> {
    let answer = text_cell(batch.column_by_name(ANSWER_COLUMN)?.as_ref(), row)?;
    let mut shown = Shown { answer: shorten(answer), ..Shown::default() };
    let schema = batch.schema();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let name = field.name();
        if name == ANSWER_COLUMN || name.starts_with(RESERVED_PREFIX) || column.is_null(row) {
            continue;
        }
        let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default());
        if let Ok(formatter) = formatter {
            shown.columns.push((name.clone(), shorten(&formatter.value(row).to_string())));
        }
    }
    let logprobs = batch.column_by_name("legenda_logprob_mean");
    let logprobs = logprobs.and_then(|column| column.as_primitive_opt::<Float32Type>());
    shown.logprob = logprobs.filter(|column| column.is_valid(row)).map(|column| column.value(row));
    let reason = batch.column_by_name("legenda_finish_reason");
    let reason = reason.and_then(|column| text_cell(column.as_ref(), row));
    let odd = [
        ("cut off", reason == Some("length")),
        ("repeats itself", repeats(answer)),
        ("empty", answer.trim().is_empty()),
    ];
    shown.flags = odd.iter().filter(|(_, is)| *is).map(|(flag, _)| (*flag).to_owned()).collect();
    Some(shown)
}

/// Adds what a row was asked of.
fn add_source(plan: &RunPlan, row: &RecordBatch, shown: &mut Shown, bytes_left: &mut usize) {
    let columns = &plan.job.source.columns;
    let column = |name: &Option<String>| row.column_by_name(name.as_deref()?).cloned();
    if let Some(text) = column(&columns.text) {
        shown.asked = text_cell(text.as_ref(), 0).map(shorten);
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
