//! The final summary of a run, and a preview of its answers as a table.

use legenda_pipeline::{
    RunPlan, RunReport, excerpt::shortened, preview::Preview, source::Skipped, store::is_url,
};
use legenda_schemas::units::{ByteSize, counted, counted_as};

use crate::opening;

/// Returns the lines of the final summary.
#[expect(clippy::cast_precision_loss, reason = "rates are approximate")]
pub(crate) fn lines(report: &RunReport, plan: &RunPlan) -> Vec<String> {
    let rejects = report.n_rejects();
    let rows_run =
        report.rows_retried.unwrap_or(report.rows_in.saturating_sub(report.rows_resumed));
    let seconds = report.seconds.max(1e-3);
    let mut lines = vec![
        format!("rows_in {} == answers {} + rejects {rejects}", report.rows_in, report.answers),
        format!(
            "{} in {:.1} s: {:.1} rows/s, {}",
            counted(rows_run, "row"),
            report.seconds,
            rows_run as f64 / seconds,
            match &plan.embedding {
                Some(_) => format!("model {:.1} s", report.encode_seconds),
                None => format!(
                    "{:.0} tokens/s (encoders {:.1} s, decoder {:.1} s)",
                    report.tokens_generated as f64 / seconds,
                    report.encode_seconds,
                    report.generate_seconds,
                ),
            },
        ),
    ];
    if report.rows_resumed > 0 && report.rows_retried.is_none() {
        let rows = counted_as(report.rows_resumed, "row was", "rows were");
        lines.push(format!("{rows} committed by earlier runs, {rows_run} by this one"));
    }
    if report.rows_reused > 0 {
        let rows = counted_as(report.rows_reused, "row was", "rows were");
        lines.push(format!("{rows} answered from `reuse.store`"));
    }
    if report.rows_repeated > 0 {
        let rows = counted_as(report.rows_repeated, "duplicate row was", "duplicate rows were");
        lines.push(format!("{rows} answered once"));
    }
    if report.spans_superseded > 0 {
        let spans = counted_as(report.spans_superseded as u64, "span was", "spans were");
        lines.push(format!("{spans} removed because the input changed or was deleted"));
    }
    lines.extend(skipped(&report.skipped));
    for (code, rows) in &report.rejects {
        lines.push(format!("rejected {rows}: {code}"));
    }
    if let Some(note) = &report.device_note {
        lines.push(format!("device {}: {note}", report.device));
    }
    if let Some(peak) = report.peak_memory_bytes {
        let limit = ByteSize(report.memory_limit_bytes);
        lines.push(format!("peak memory {} of the {limit} allowed", ByteSize(peak)));
    }
    lines.push(format!(
        "read {} of the source for rows, {} for planning",
        ByteSize(report.bytes_read),
        ByteSize(report.bytes_planned)
    ));
    if report.store_retries > 0 {
        lines.push(counted_as(
            report.store_retries,
            "store call was retried",
            "store calls were retried",
        ));
    }
    for one in report.prediction_checks() {
        let verdict = if one.is_within { "within" } else { "outside" };
        lines.push(format!(
            "predicted {}: {} ({}), was {}: {verdict}",
            one.what, one.predicted, one.interval, one.truth
        ));
    }
    lines
}

/// Returns lines about where the results are and what can be done with them.
pub(crate) fn places(report: &RunReport, plan: &RunPlan, opens: bool) -> Vec<String> {
    let output = plan.output.path_of("");
    let mut lines = vec![format!("report in {}", plan.output.path_of("_legenda/report.html"))];
    lines.push(format!("answers in {output}"));
    if opens && report.answers > 0 && !is_url(&output) {
        let is_partitioned = plan.job.output.partition_by.is_some();
        lines.extend(opening::folder(plan.job.output.format, &output, is_partitioned));
    }
    if report.n_rejects() > 0 {
        lines.push(format!("rejects in {}", plan.output.path_of("rejects")));
        lines.push(format!("retry rejects: legenda retry {}", opening::shell_word(&output)));
    }
    lines
}

/// Returns the number of rows of a plan; with a query, also the number of rows it selects from.
pub(crate) fn rows(plan: &RunPlan) -> String {
    match plan.rows_of_query() {
        Some(total) => format!("{} of {}", plan.n_rows(), counted(total, "row")),
        None => counted(plan.n_rows(), "row"),
    }
}

/// Returns lines about skipped source files: their counts, and the files that could not be read.
pub(crate) fn skipped(skipped: &Skipped) -> Vec<String> {
    let counts = (!skipped.is_empty()).then(|| skipped.to_string());
    let faults = skipped.faults().map(|fault| format!("  {fault}"));
    counts.into_iter().chain(faults).collect()
}

/// The maximum number of characters shown of a cell.
const CELL_CHARS_MAX: usize = 48;

/// Returns the previewed rows as aligned columns under a header.
pub(crate) fn table(preview: &Preview) -> Vec<String> {
    let cells: Vec<Vec<String>> = std::iter::once(&preview.header)
        .chain(&preview.rows)
        .map(|row| row.iter().map(|cell| shorten(cell)).collect())
        .collect();
    let width = |column: usize| {
        cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..preview.header.len()).map(width).collect();
    let line = |row: &Vec<String>| -> String {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  ");
    let mut lines = vec![String::new()];
    lines.extend(cells.iter().map(line));
    lines.insert(2, rule);
    lines
}

fn shorten(cell: &str) -> String {
    let cell = cell.replace(['\n', '\r', '\t'], " ");
    shortened(&cell, CELL_CHARS_MAX).into_owned()
}
