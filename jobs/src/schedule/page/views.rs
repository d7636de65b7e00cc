//! The HTML of the pages. Every value is escaped, because file names and process output are untrusted.

use std::collections::{BTreeMap, BTreeSet};

use legenda_schemas::{
    cron::TimeZone,
    units::{counted, counted_as},
};
use minijinja::{Environment, value::Serde};
use serde_json::{Value, json};

use super::{
    lines::{AttemptLine, JobLine, JobResults, Lines, RunLine},
    statistics::statistics,
};
use crate::schedule::{
    board::Board,
    clock,
    record::{Attempt, Run, Second, State},
    scheduler::JobView,
};

/// The number of runs on a page.
pub(super) const RUNS_SHOWN: usize = 100;

/// The number of recent runs of a job in a strip.
pub(super) const STRIP_RUNS: usize = 20;

/// The replacement for the error in a job file, which may quote secrets from the file.
const INVALID: &str = "invalid job file: see the service log, or enter the token to show the error";

/// The viewer of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Viewer {
    /// Anyone who can reach the address.
    Anyone,
    /// A user with the token.
    TokenHolder,
}

/// An error, as its page shows it.
pub(super) struct ErrorView<'a> {
    pub(super) text: &'a str,
    /// The path of the request.
    pub(super) path: &'a str,
    /// Whether the token was missing or wrong, so that the same request may succeed with another one.
    pub(super) is_refused: bool,
}

/// The pages.
#[derive(Debug)]
pub(super) struct Views {
    templates: Environment<'static>,
}

impl Views {
    pub(super) fn new() -> Self {
        let mut templates = Environment::new();
        for (name, text) in [
            ("base.html", include_str!("base.html")),
            ("runs.html", include_str!("runs.html")),
            ("overview.html", include_str!("overview.html")),
            ("job.html", include_str!("job.html")),
            ("run.html", include_str!("run.html")),
            ("error.html", include_str!("error.html")),
        ] {
            templates.add_template(name, text).expect("the built-in templates are valid");
        }
        Self { templates }
    }

    fn render(&self, name: &str, values: Value) -> Result<String, minijinja::Error> {
        self.templates.get_template(name)?.render(minijinja::Value::from(Serde(values)))
    }

    /// Renders all jobs and the latest runs.
    pub(super) fn overview(
        &self,
        board: &Board,
        results: &BTreeMap<String, JobResults>,
        runs: &[Run],
        viewer: Viewer,
    ) -> Result<String, minijinja::Error> {
        let jobs = board.jobs();
        let lines = lines(board, &jobs);
        let none = JobResults::default();
        let results_of = |job: &JobView| results.get(&job.name).unwrap_or(&none);
        let is_failing = |job: &&JobView| {
            job.problem.is_some() || results_of(job).last_result == Some(State::Failed)
        };
        let failing: Vec<&str> =
            jobs.iter().filter(is_failing).map(|job| job.name.as_str()).collect();
        let n_jobs = counted(jobs.len() as u64, "job");
        let summary = match (failing.len(), jobs.len()) {
            (0, 1) => "The job is well.".to_owned(),
            (0, _) => format!("All {n_jobs} are well."),
            (1, _) => format!("1 of {n_jobs} is failing:"),
            (n, _) => format!("{n} of {n_jobs} are failing:"),
        };
        let n_in = |state: State| runs.iter().filter(|run| run.state == state).count() as u64;
        let activity: Vec<String> = [State::Running, State::Waiting]
            .into_iter()
            .filter(|state| n_in(*state) > 0)
            .map(|state| {
                format!("{} {}", counted_as(n_in(state), "run is", "runs are"), state.as_str())
            })
            .collect();
        let activity = (!activity.is_empty()).then(|| format!("{}.", activity.join(", ")));
        let job_lines: Vec<JobLine> = jobs
            .iter()
            .map(|job| lines.job(job, results_of(job), problem_for(job, viewer)))
            .collect();
        self.render(
            "overview.html",
            json!({
                "source": "/",
                "zone": lines.zone.to_string(),
                "summary": summary,
                "failing": failing,
                "activity": activity,
                "jobs": job_lines,
                "runs": run_lines(&lines, runs),
                "shown": RUNS_SHOWN,
            }),
        )
    }

    /// Renders a job and its latest runs; `None` if neither exists. `source` is the path of the page.
    pub(super) fn job(
        &self,
        board: &Board,
        (name, source): (&str, &str),
        results: &JobResults,
        runs: &[Run],
        viewer: Viewer,
    ) -> Result<Option<String>, minijinja::Error> {
        let jobs = board.jobs();
        let lines = lines(board, &jobs);
        let job = jobs.iter().find(|job| job.name == name);
        let job = job.map(|job| lines.job(job, results, problem_for(job, viewer)));
        if job.is_none() && runs.is_empty() {
            return Ok(None);
        }
        let values = json!({
            "source": source,
            "zone": lines.zone.to_string(),
            "name": name,
            "job": job,
            "runs": run_lines(&lines, runs),
            "shown": RUNS_SHOWN,
            "shows_error": viewer == Viewer::TokenHolder,
        });
        self.render("job.html", values).map(Some)
    }

    /// Renders a run and its attempts.
    pub(super) fn run(
        &self,
        board: &Board,
        run: &Run,
        attempts: &[Attempt],
        has_report: bool,
    ) -> Result<String, minijinja::Error> {
        let jobs = board.jobs();
        let lines = lines(board, &jobs);
        let output = jobs.iter().find(|job| job.name == run.job).and_then(|job| job.output.clone());
        let report: Option<Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let attempts: Vec<AttemptLine> =
            attempts.iter().map(|attempt| lines.attempt(attempt)).collect();
        let progress = board.progress().remove(&run.id).filter(|_| run.state == State::Running);
        let values = json!({
            "source": format!("/runs/{}", run.id),
            "zone": lines.zone.to_string(),
            "run": lines.run(run),
            "attempts": attempts,
            "latest": progress.map(|progress| progress.latest),
            "statistics": report.as_ref().map(statistics),
            "output": output,
            "has_report": has_report,
        });
        self.render("run.html", values)
    }

    /// Renders an error, with a way back.
    pub(super) fn error(&self, error: &ErrorView<'_>) -> Result<String, minijinja::Error> {
        let ErrorView { text, path, is_refused } = error;
        let mut parts = path.trim_start_matches('/').split('/');
        let back = match (parts.next(), parts.next(), parts.next()) {
            (Some("jobs"), Some(job), Some(_)) => {
                Some(json!({ "href": format!("/jobs/{job}"), "name": "the job" }))
            }
            (Some("runs"), Some(run), Some(_)) => {
                Some(json!({ "href": format!("/runs/{run}"), "name": format!("run {run}") }))
            }
            _ => None,
        };
        let values = json!({ "text": text, "path": path, "is_refused": is_refused, "back": back });
        self.render("error.html", values)
    }
}

fn lines<'a>(board: &'a Board, jobs: &[JobView]) -> Lines<'a> {
    Lines { board, zone: page_zone(jobs), now: Second::from_instant(clock::now()) }
}

/// Returns the time zone of all jobs if they share one, else UTC.
fn page_zone(jobs: &[JobView]) -> TimeZone {
    let schedules = jobs.iter().filter_map(JobView::schedule);
    let names: BTreeSet<String> =
        schedules.clone().map(|schedule| schedule.time_zone.to_string()).collect();
    let mut zones = schedules.map(|schedule| schedule.time_zone);
    zones.next().filter(|_| names.len() == 1).unwrap_or_default()
}

fn run_lines(lines: &Lines<'_>, runs: &[Run]) -> Vec<RunLine> {
    runs.iter().map(|run| lines.run(run)).collect()
}

/// Returns the error in a job file, as far as the viewer may see it.
fn problem_for(job: &JobView, viewer: Viewer) -> Option<String> {
    let problem = job.problem.as_ref()?;
    Some(match viewer {
        Viewer::Anyone => INVALID.to_owned(),
        Viewer::TokenHolder => problem.clone(),
    })
}
