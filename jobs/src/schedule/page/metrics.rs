//! Prometheus metrics (text format 0.0.4).

use std::{collections::BTreeMap, fmt::Write};

use crate::schedule::{
    board::Board,
    history::{History, HistoryError},
    record::State,
};

/// A metric: name, kind, help, and one value per set of labels.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Metric {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, values: Vec::new() }
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, escape(value))).collect();
        self.values.push((labels, value));
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self { name, kind, help, values } = self;
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (labels, value) in values {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            if labels.is_empty() {
                writeln!(text, "{name} {value}")?;
            } else {
                writeln!(text, "{name}{{{}}} {value}", labels.join(","))?;
            }
        }
        Ok(())
    }
}

/// Escapes a label value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Returns the metrics of the service.
#[expect(clippy::cast_precision_loss, reason = "Prometheus values are floats")]
pub(super) fn text(board: &Board, history: &History) -> Result<String, HistoryError> {
    let gauge = |name, help| Metric::new(name, "gauge", help);
    let mut build = gauge("legenda_build_info", "The version of the program.");
    build.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut broken = gauge("legenda_schedule_job_broken", "1 if the job file is invalid, else 0.");
    let mut next =
        gauge("legenda_schedule_next_timestamp_seconds", "Time of the next slot of a job.");
    let mut runs = gauge(
        "legenda_schedule_runs",
        "Runs in the history by state; the oldest runs of a job are removed.",
    );
    let mut succeeded =
        gauge("legenda_schedule_last_run_success", "1 if the last finished run succeeded, else 0.");
    let mut ended = gauge(
        "legenda_schedule_last_success_timestamp_seconds",
        "Time of the end of the last successful run.",
    );
    let mut rows = gauge("legenda_schedule_run_rows", "Rows of a running run.");
    let mut faults = Metric::new(
        "legenda_schedule_faults_total",
        "counter",
        "Failures of the service itself since its start.",
    );
    faults.add(&[], board.n_faults() as f64);

    let counts: BTreeMap<_, _> = history.counts()?;
    let mut names: Vec<String> = counts.keys().map(|(job, _)| job.clone()).collect();
    for job in board.jobs() {
        broken.add(&[("job", &job.name)], if job.problem.is_some() { 1.0 } else { 0.0 });
        if let Some(second) = job.next {
            next.add(&[("job", &job.name)], second.0 as f64);
        }
        names.push(job.name);
    }
    names.sort();
    names.dedup();
    for job in &names {
        for state in State::ALL {
            let count = counts.get(&(job.clone(), state)).copied().unwrap_or(0);
            runs.add(&[("job", job), ("state", state.as_str())], count as f64);
        }
        if let Some(state) = history.last_result(job)? {
            succeeded.add(&[("job", job)], if state == State::Done { 1.0 } else { 0.0 });
        }
        if let Some(second) = history.last_success(job)? {
            ended.add(&[("job", job)], second.0 as f64);
        }
    }
    for (run, progress) in board.progress() {
        let Some(run) = history.run(run)? else { continue };
        for (kind, n) in [
            ("planned", progress.rows_planned),
            ("done", progress.rows_done),
            ("rejected", progress.rejects),
        ] {
            rows.add(&[("job", &run.job), ("kind", kind)], n as f64);
        }
    }
    let mut text = String::new();
    for metric in [build, broken, next, runs, succeeded, ended, rows, faults] {
        metric.write(&mut text).expect("writing to a string cannot fail");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::Metric;

    #[test]
    fn labels_are_escaped() {
        let mut metric = Metric::new("x", "gauge", "An x.");
        metric.add(&[("job", "a\"b\\c\nd")], 1.5);
        let mut text = String::new();
        metric.write(&mut text).unwrap();
        assert_eq!(text, "# HELP x An x.\n# TYPE x gauge\nx{job=\"a\\\"b\\\\c\\nd\"} 1.5\n");
    }
}
