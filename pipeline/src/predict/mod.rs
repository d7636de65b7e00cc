//! What a run will take, told by a sample of it that is really run, and what it took in the end.
//!
//! The sample is some rows of the job, run by the same stages on the same model into a folder that is
//! thrown away. How the whole follows:
//!
//! - *Time*: that of the sample, which has beginning and end of the run in it once, and for each row more
//!   the pace of the sample's middle, when all slots were full ([`estimate`]: batch means).
//! - *Tokens, rejects*: those of the sample, and for the rows that it lacks a cluster sample's.
//! - *Bytes of the output*: parts of few rows pack worse than those of many, so answers of the sample are
//!   written together, whole and halves of them, and what a row more takes is followed to the size of a span.
//! - *Peak memory*: no row can tell it of others. It is at least what the sample took, and most likely that
//!   and what queues will hold; rows larger than any of the sample take more, up to `limits.memory`.

mod estimate;
mod sample;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arrow::{array::RecordBatch, compute::concat_batches};
use legenda_schemas::{
    job::RejectsPlace,
    ledger::LedgerEntry,
    span::{Fingerprint, Span},
    units::{ByteSize, ErrorBudget},
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::estimate::{Block, batches, rest, rest_of_kind};
use crate::{
    ledger::{OutputFiles, Rows},
    metrics::{Ending, Progress, RunReport},
    plan::RunPlan,
    run::QUEUED_BYTES_MAX,
    store::{Folder, WriteError, json},
};

pub use self::estimate::{CONFIDENCE, Estimate};

/// Where the prediction of an output lies in it.
const PREDICTION: &str = "_legenda/prediction.json";

/// What a run is predicted to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The job that it is about.
    pub fingerprint: Fingerprint,
    /// Rows of the job.
    pub rows: u64,
    /// Rows that were tried.
    pub sampled: u64,
    /// Seconds that these took.
    pub sample_seconds: f64,
    /// How long the run takes, in seconds, without loading the model.
    pub seconds: Estimate,
    /// The most memory that the process holds, in bytes.
    pub peak_memory_bytes: Option<Estimate>,
    /// Tokens of the prompts.
    pub tokens_prompt: Estimate,
    /// Tokens generated.
    pub tokens_generated: Estimate,
    /// Bytes of parts and rejects.
    pub output_bytes: Estimate,
    /// Rows rejected.
    pub rejects: Estimate,
    /// Rows of the sample that were rejected, by code.
    pub sample_rejects: BTreeMap<String, u64>,
}

/// A number that was predicted, and what it came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Beside {
    /// What it is of.
    pub what: &'static str,
    /// What was predicted, for a person.
    pub predicted: String,
    /// The interval.
    pub interval: String,
    /// What it was.
    pub truth: String,
    /// Whether that lies within the interval.
    pub is_within: bool,
}

/// A row that was settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettledRow {
    pub(crate) at: Instant,
    pub(crate) span_idx: usize,
    pub(crate) is_rejected: bool,
    pub(crate) tokens_prompt: u64,
    pub(crate) tokens_generated: u64,
}

/// The rows of a run as they are settled, for who wants them.
#[derive(Debug, Default)]
pub struct SettledRows(Mutex<Vec<SettledRow>>);

impl SettledRows {
    pub(crate) fn note(&self, row: SettledRow) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

/// A plan of some rows of another, and what is to be known of that.
#[derive(Debug)]
pub struct SamplePlan {
    /// What is run.
    pub plan: Arc<RunPlan>,
    /// Where its answers go, until this is dropped.
    _dir: TempDir,
    /// Rows of each span of the whole.
    span_rows: Vec<u64>,
    rows: u64,
    /// Bytes of a row of the source, about.
    row_bytes: u64,
}

impl SamplePlan {
    /// Makes a plan of about `n_rows` rows of `plan`, of which nothing may be done, whose output is a
    /// temporary folder.
    ///
    /// # Errors
    ///
    /// The system's, where there can be no such folder.
    pub fn new(plan: RunPlan, n_rows: u64) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("legenda-plan-").tempdir()?;
        // Not the folder itself: the output's other files lie beside it.
        let folder = Folder::at("sample", dir.path());
        let folder = folder.map_err(io::Error::other)?;
        let spans = sample::choose(&plan, n_rows);
        let span_rows = plan.ledger.spans.iter().map(|span| plan.n_rows_of(span)).collect();
        let rows = plan.n_rows();
        let groups = || plan.table.files.iter().flat_map(|file| &file.row_groups);
        let n_groups_rows: u64 = groups().map(|group| group.n_rows as u64).sum();
        let row_bytes = groups().map(|group| group.bytes).sum::<u64>() / n_groups_rows.max(1);
        let mut plan = plan.with_spans(spans, folder);
        // Few rows say nothing of how many are equal, so each is counted as if it were computed.
        plan.job.reuse.within_run = false;
        let plan = Arc::new(plan);
        Ok(Self { plan, _dir: dir, span_rows, rows, row_bytes })
    }

    /// Returns what the whole will take, by the `report` of the sample's run, which began at `start` and
    /// settled the rows of `progress`, on a model of `slots` slots.
    #[must_use]
    pub fn predict(
        &self,
        report: &RunReport,
        progress: &Progress,
        start: Instant,
        slots: usize,
    ) -> Prediction {
        let settled = progress
            .settled
            .as_ref()
            .map(|settled| settled.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let settled = settled.unwrap_or_default();
        let sampled = settled.len() as u64;
        let rest_rows = as_f64(self.rows.saturating_sub(sampled));
        let blocks = |of: &dyn Fn(&SettledRow) -> Option<u64>| -> Vec<Block> {
            let mut blocks = vec![Block::default(); self.plan.ledger.spans.len()];
            for row in &settled {
                if let (Some(block), Some(value)) = (blocks.get_mut(row.span_idx), of(row)) {
                    block.rows += 1.0;
                    block.value += as_f64(value);
                }
            }
            blocks.retain(|block| block.rows > 0.0);
            blocks
        };
        let rejects = rest_of_kind(&blocks(&|row| Some(row.is_rejected.into())), rest_rows);
        // Rejected rows have no tokens, and how many there are is in doubt too.
        let answers = Estimate {
            low: rest_rows - rejects.high,
            value: rest_rows - rejects.value,
            high: rest_rows - rejects.low,
        };
        let tokens = |of: &dyn Fn(&SettledRow) -> u64| {
            let known: u64 = settled.iter().map(of).sum();
            let answered = blocks(&|row| (!row.is_rejected).then(|| of(row)));
            rest(&answered, answers.value).of(answers).plus(as_f64(known))
        };
        let mut instants: Vec<f64> =
            settled.iter().map(|row| row.at.duration_since(start).as_secs_f64()).collect();
        instants.sort_by(f64::total_cmp);
        let seconds = rest(&batches(&instants, slots), rest_rows).plus(report.seconds);
        Prediction {
            fingerprint: self.plan.ledger.fingerprint.clone(),
            rows: self.rows,
            sampled,
            sample_seconds: report.seconds,
            seconds,
            peak_memory_bytes: report.peak_memory_bytes.map(|peak| {
                let queued = QUEUED_BYTES_MAX
                    .min(self.rows.saturating_sub(sampled).saturating_mul(self.row_bytes));
                let high = if rest_rows > 0.0 { QUEUED_BYTES_MAX + UNCOUNTED_BYTES } else { 0 };
                let (low, most) = (as_f64(peak), as_f64(report.memory_limit_bytes.max(peak)));
                let value = as_f64(peak + queued).min(most);
                Estimate { low, value, high: as_f64(peak + high).min(most) }
            }),
            tokens_prompt: tokens(&|row| row.tokens_prompt),
            tokens_generated: tokens(&|row| row.tokens_generated),
            output_bytes: self.output_bytes(rest_rows, rejects),
            rejects: rejects.plus(as_f64(report.n_rejects())),
            sample_rejects: report.rejects.clone(),
        }
    }

    /// Follows what the files of the sample take to those of the whole.
    fn output_bytes(&self, rest_rows: f64, rejects: Estimate) -> Estimate {
        let files = OutputFiles::new(self.plan.output.clone(), self.plan.job.output.format);
        let mut entries = files.read_entries().unwrap_or_default();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        let bytes_of = |name: &str| files.folder.read(name).ok().flatten().unwrap_or_default();
        let parts: Vec<(f64, RecordBatch)> = entries
            .iter()
            .flat_map(|entry| entry.parts.iter().map(move |part| (entry, part)))
            .filter_map(|(entry, part)| {
                let bytes = bytes_of(&part.name);
                let rows = files.decode(part, bytes.clone()).ok()?;
                let rows = concat_batches(&rows.first()?.schema(), &rows).ok()?;
                Some((as_f64(bytes.len() as u64) / as_f64(entry.rows_in.max(1)), rows))
            })
            .collect();
        let answers = self.answer_bytes(&parts, rest_rows);
        let all = answers.plus_each(self.reject_bytes(&files, &entries, rejects));
        all.widened(all.value * (1.0 - PACKING), all.value * (1.0 + PACKING))
    }

    /// Returns the bytes of the files of rejects, by those of the sample, where `more` are rejected beside
    /// them.
    fn reject_bytes(
        &self,
        files: &OutputFiles,
        entries: &[LedgerEntry],
        more: Estimate,
    ) -> Estimate {
        if self.plan.job.output.rejects == RejectsPlace::Inline {
            return Estimate::known(0.0);
        }
        let seen: Vec<(f64, f64, RecordBatch)> = entries
            .iter()
            .filter_map(|entry| {
                let file = entry.rejects_file.as_ref()?;
                let bytes = files.folder.read(&file.name).ok().flatten()?;
                let size = as_f64(bytes.len() as u64);
                let rows = files.decode(file, bytes).ok()?;
                let rows = concat_batches(&rows.first()?.schema(), &rows).ok()?;
                Some((as_f64(file.rows), size, rows))
            })
            .collect();
        if seen.is_empty() {
            // Rejects hold their original rows: usual ones, as far as is known.
            let row_bytes = as_f64(self.row_bytes);
            return Estimate {
                low: 0.0,
                value: more.value * row_bytes,
                high: more.high * row_bytes,
            };
        }
        // What a file takes beside its rows: the sizes of all, less that of all in one.
        let sizes: f64 = seen.iter().map(|(_, size, _)| size).sum();
        let together = concat_batches(&seen[0].2.schema(), seen.iter().map(|(.., rows)| rows));
        let together = together.and_then(|rows| Rows::new(self.plan.job.output.format, &rows));
        let together = together.map_or(sizes, |rows| as_f64(rows.bytes.len() as u64));
        let overhead = (sizes - together) / (as_f64(seen.len() as u64) - 1.0).max(1.0);
        let blocks: Vec<Block> = seen
            .iter()
            .map(|(rows, size, _)| Block { rows: *rows, value: (size - overhead).max(0.0) })
            .collect();
        let known: f64 = blocks.iter().map(|block| block.value).sum();
        let known_rows: f64 = blocks.iter().map(|block| block.rows).sum();
        let n_spans = as_f64(self.span_rows.iter().filter(|rows| **rows > 0).count() as u64);
        let n_files = n_spans.min(more.value + known_rows);
        // Few rejects tell little of the size of others, which may be the smallest of them or usual rows.
        let least = blocks.iter().map(|block| block.value / block.rows).fold(f64::MAX, f64::min);
        let wide = rest(&blocks, more.value).of(more);
        let wide = wide.widened(least * more.low, as_f64(self.row_bytes) * more.high);
        wide.plus(known + overhead * n_files)
    }

    /// Returns the bytes of all parts, by those of the sample.
    fn answer_bytes(&self, parts: &[(f64, RecordBatch)], rest_rows: f64) -> Estimate {
        let size = |of: &[(f64, RecordBatch)]| {
            let rows: Vec<&RecordBatch> = of.iter().map(|(_, rows)| rows).collect();
            let first = rows.first()?;
            let together = concat_batches(&first.schema(), rows.iter().copied()).ok()?;
            let written = Rows::new(self.plan.job.output.format, &together).ok()?;
            let n_rows = as_f64(together.num_rows() as u64);
            Some((n_rows, as_f64(written.bytes.len() as u64)))
        };
        let every = |step: usize| {
            let some: Vec<(f64, RecordBatch)> = parts.iter().step_by(step).cloned().collect();
            size(&some)
        };
        let (Some(all), Some(half), Some(quarter)) = (every(1), every(2), every(4)) else {
            return Estimate::known(0.0);
        };
        if all.0 <= half.0 || half.0 <= quarter.0 {
            return Estimate::known(all.1);
        }
        // What a row more takes, and by which factor that falls where there are twice as many.
        let slope = (all.1 - half.1) / (all.0 - half.0);
        let slope_before = (half.1 - quarter.1) / (half.0 - quarter.0);
        let falling = (slope / slope_before.max(1e-9)).clamp(0.25, 1.0);
        let span_rows = as_f64(self.span_rows.iter().copied().max().unwrap_or(0));
        let doublings = (span_rows / all.0).log2().max(0.0);
        let slope_far = slope * falling.powf(doublings);
        // Of a span's rows the first cost as those of the sample do.
        let n_spans = as_f64(self.span_rows.iter().filter(|rows| **rows > 0).count() as u64);
        let overhead = (half.1 - slope * half.0).max(0.0);
        let rows = as_f64(self.rows) * all.0 / (as_f64(self.rows) - rest_rows).max(1.0);
        let of = |slope: f64| overhead * n_spans + slope * rows;
        let (near, far) = (of(slope), of(slope_far));
        let blocks: Vec<Block> = parts
            .iter()
            .map(|(per_row, rows)| {
                let n_rows = as_f64(rows.num_rows() as u64);
                Block { rows: n_rows, value: per_row * n_rows }
            })
            .collect();
        let spread = rest(&blocks, rest_rows);
        let share = |part: f64| if spread.value > 0.0 { part / spread.value } else { 0.0 };
        Estimate {
            low: far * (1.0 - share(spread.value - spread.low)),
            value: f64::midpoint(near, far),
            high: near * (1.0 + share(spread.high - spread.value)),
        }
    }
}

/// How far the sizes of files may be from what smaller ones tell, at least. Chosen after two runs whose sizes
/// lay 5 and 7 % beside narrower intervals; on tables that it was not chosen by, 7 intervals of 12 held the
/// truth, so it is no confidence.
const PACKING: f64 = 0.1;

/// What no reservation counts: allocator, threads, buffers.
const UNCOUNTED_BYTES: u64 = 64 << 20;

impl RunPlan {
    /// Returns the plan with other spans of the same table and another output, in which rejects end nothing
    /// and nothing is written beside the source.
    fn with_spans(mut self, spans: Vec<Span>, output: Folder) -> Self {
        self.ledger.spans = spans;
        self.output = output;
        self.job.output.sidecars = None;
        self.job.limits.error_budget = Some(ErrorBudget::Percent(100.0));
        self
    }
}

impl Prediction {
    /// Puts the prediction into an output, for its next run: no file of a run is touched, and what writes
    /// there need not wait.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn save(&self, output: &Folder) -> Result<(), WriteError> {
        output.make_dirs(&["_legenda"], false)?;
        let path = || output.path_of(PREDICTION);
        let json = json(self).map_err(|problem| WriteError::new(path(), problem))?;
        output.replace(PREDICTION, json)
    }

    /// Reads the prediction of an output, if it has one of this job.
    pub(crate) fn read(output: &Folder, fingerprint: &Fingerprint) -> Option<Self> {
        let bytes = output.read(PREDICTION).ok().flatten()?;
        let found: Self = serde_json::from_slice(&bytes).ok()?;
        (found.fingerprint == *fingerprint).then_some(found)
    }

    /// Returns every number that is known.
    fn numbers(&self) -> Vec<Number> {
        let number = |what, estimate, shown| Number { what, estimate, shown };
        let count: fn(f64) -> String = |value| format!("{value:.0}");
        [
            Some(number("seconds", self.seconds, |value| format!("{value:.1}"))),
            self.peak_memory_bytes.map(|peak| number("peak memory", peak, shown_bytes)),
            Some(number("prompt tokens", self.tokens_prompt, count)),
            Some(number("generated tokens", self.tokens_generated, count)),
            Some(number("output bytes", self.output_bytes, shown_bytes)),
            Some(number("rejects", self.rejects, count)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns every number for a person: its name, its value, its interval.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String, String)> {
        let line = |number: Number| (number.what, number.value(), number.interval());
        self.numbers().into_iter().map(line).collect()
    }
}

/// A number of a prediction, and how it is written.
struct Number {
    what: &'static str,
    estimate: Estimate,
    shown: fn(f64) -> String,
}

impl Number {
    fn value(&self) -> String {
        (self.shown)(self.estimate.value)
    }

    fn interval(&self) -> String {
        format!("{} to {}", (self.shown)(self.estimate.low), (self.shown)(self.estimate.high))
    }
}

impl RunReport {
    /// Sets what was predicted beside what it came to; nothing where this run did not do all of it.
    #[must_use]
    pub fn beside(&self) -> Vec<Beside> {
        let is_whole = self.ending == Ending::Complete
            && self.rows_resumed == 0
            && self.rows_retried.is_none();
        let prediction = self.prediction.as_ref().filter(|it| is_whole && it.rows == self.rows_in);
        let Some(prediction) = prediction else { return Vec::new() };
        let truth = |what: &str| match what {
            "seconds" => Some(self.seconds),
            "peak memory" => self.peak_memory_bytes.map(as_f64),
            "prompt tokens" => Some(as_f64(self.tokens_prompt + self.tokens_prompt_spared)),
            "generated tokens" => {
                Some(as_f64(self.tokens_generated + self.tokens_generated_spared))
            }
            "output bytes" => Some(as_f64(self.output_bytes)),
            _ => Some(as_f64(self.n_rejects())),
        };
        let beside = |number: Number| {
            let truth = truth(number.what)?;
            Some(Beside {
                what: number.what,
                predicted: number.value(),
                interval: number.interval(),
                truth: (number.shown)(truth),
                is_within: number.estimate.holds(truth),
            })
        };
        prediction.numbers().into_iter().filter_map(beside).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a prediction need not be exact")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of a prediction are positive, and need not be exact"
)]
fn shown_bytes(value: f64) -> String {
    ByteSize(value.round().max(0.0) as u64).to_string()
}
