//! The plan of a sample, and what its run predicts.

use std::{io, sync::Arc, time::Instant};

use arrow::{array::RecordBatch, compute::concat_batches};
use legenda_schemas::{job::RejectsMode, ledger::LedgerEntry, span::Span, units::ErrorBudget};
use tempfile::TempDir;

use super::{
    interval::{Block, batches, rest, rest_of_kind},
    sample,
};
use crate::{
    base::store::Folder,
    output::ledger::{OutputFiles, Rows},
    run::{
        metrics::{Progress, RunReport},
        plan::RunPlan,
        prediction::{Estimate, Prediction, SettledRow, SettledRows, as_f64},
        run::QUEUED_BYTES_MAX,
    },
};

/// The plan of a sample of another plan, with the facts needed for extrapolation.
#[derive(Debug)]
pub struct SamplePlan {
    /// The plan to run.
    pub plan: Arc<RunPlan>,
    /// The temporary output folder, removed on drop.
    _dir: TempDir,
    /// The number of rows of each span of the whole.
    span_rows: Vec<u64>,
    rows: u64,
    /// The average bytes of a source row.
    row_bytes: u64,
}

impl SamplePlan {
    /// Creates a plan of about `n_rows` rows of `plan`, which must have no completed rows, with a temporary
    /// output folder.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be created.
    pub fn new(plan: RunPlan, n_rows: u64) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("legenda-plan-").tempdir()?;
        // A subfolder, because the output's other files are beside it.
        let folder = Folder::at("sample", dir.path());
        let folder = folder.map_err(io::Error::other)?;
        let spans = sample::choose(&plan, n_rows);
        let span_rows = plan.ledger.spans.iter().map(|span| plan.n_rows_of(span)).collect();
        let rows = plan.n_rows();
        let groups = || plan.table.files.iter().flat_map(|file| &file.row_groups);
        let n_groups_rows: u64 = groups().map(|group| group.n_rows as u64).sum();
        let row_bytes = groups().map(|group| group.bytes).sum::<u64>() / n_groups_rows.max(1);
        let mut plan = plan.with_spans(spans, folder);
        // A sample says little about duplicates, so count each row as computed.
        plan.job.reuse.within_run = false;
        let plan = Arc::new(plan);
        Ok(Self { plan, _dir: dir, span_rows, rows, row_bytes })
    }

    /// Predicts the cost of the whole from the `report` of the sample run, which started at `start` and
    /// settled the rows in `progress`, on a model with `slots` slots.
    #[must_use]
    pub fn predict(
        &self,
        report: &RunReport,
        progress: &Progress,
        start: Instant,
        slots: usize,
    ) -> Prediction {
        let settled = progress.settled.as_ref().map(SettledRows::rows);
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
        // Rejected rows have no tokens, and their number is uncertain too.
        let answers = Estimate {
            low: rest_rows - rejects.high,
            value: rest_rows - rejects.value,
            high: rest_rows - rejects.low,
        };
        let tokens = |of: &dyn Fn(&SettledRow) -> u64| {
            let known: u64 = settled.iter().map(of).sum();
            let answered = blocks(&|row| (!row.is_rejected).then(|| of(row)));
            rest(&answered, answers.value).scaled_to(answers).plus(as_f64(known))
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

    /// Extrapolates the file sizes of the sample.
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

    /// Predicts the size of reject files from those of the sample if `more` rows are rejected in addition.
    fn reject_bytes(
        &self,
        files: &OutputFiles,
        entries: &[LedgerEntry],
        more: Estimate,
    ) -> Estimate {
        if self.plan.job.output.rejects == RejectsMode::Inline {
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
            // Rejects contain their original rows: assume average ones.
            let row_bytes = as_f64(self.row_bytes);
            return Estimate {
                low: 0.0,
                value: more.value * row_bytes,
                high: more.high * row_bytes,
            };
        }
        // The overhead of a file: the sizes of all, minus that of all rows in one.
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
        // Few rejects say little about the size of others, which may be small or average.
        let least = blocks.iter().map(|block| block.value / block.rows).fold(f64::MAX, f64::min);
        let wide = rest(&blocks, more.value).scaled_to(more);
        let wide = wide.widened(least * more.low, as_f64(self.row_bytes) * more.high);
        wide.plus(known + overhead * n_files)
    }

    /// Predicts the size of all parts from those of the sample.
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
        // The marginal size of a row, and the factor by which it falls when the rows double.
        let slope = (all.1 - half.1) / (all.0 - half.0);
        let slope_before = (half.1 - quarter.1) / (half.0 - quarter.0);
        let falling = (slope / slope_before.max(1e-9)).clamp(0.25, 1.0);
        let span_rows = as_f64(self.span_rows.iter().copied().max().unwrap_or(0));
        let doublings = (span_rows / all.0).log2().max(0.0);
        let slope_far = slope * falling.powf(doublings);
        // The first rows of a span cost as much as those of the sample.
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

/// The minimum relative uncertainty of extrapolated file sizes. Chosen after two runs whose sizes were 5 and
/// 7 % outside narrower intervals; on other tables, 7 of 12 intervals contained the truth, so this is not a
/// confidence level.
const PACKING: f64 = 0.1;

/// Memory outside all reservations: allocator, threads, buffers.
const UNCOUNTED_BYTES: u64 = 64 << 20;

impl RunPlan {
    /// Returns the plan with other spans of the same table and another output, without an error budget and
    /// without sidecars.
    fn with_spans(mut self, spans: Vec<Span>, output: Folder) -> Self {
        self.ledger.spans = spans;
        self.output = output;
        self.job.output.sidecars = None;
        self.job.limits.error_budget = Some(ErrorBudget::Percent(100.0));
        self
    }
}
