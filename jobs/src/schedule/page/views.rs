//! The HTML of the pages. Every value is escaped, because file names and process output are untrusted.

use legenda_schemas::{cron::TimeZone, units::Period};
use minijinja::{Environment, value::Serde};
use serde::Serialize;
use serde_json::{Value, json};

use crate::schedule::{
    board::{Board, RunProgress},
    clock,
    record::{Attempt, Cause, DeliveryState, Run, Second, State},
    scheduler::JobView,
};

/// The number of runs on a page.
pub(super) const RUNS_SHOWN: usize = 100;

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

/// The pages.
#[derive(Debug)]
pub(super) struct Views {
    templates: Environment<'static>,
}

/// A job on a page.
#[derive(Debug, Serialize)]
struct JobLine {
    name: String,
    problem: Option<String>,
    schedule: Option<String>,
    catch_up: Option<&'static str>,
    next: Option<String>,
    next_in: Option<String>,
    output: Option<String>,
    last: Option<RunLine>,
}

/// A run on a page.
#[derive(Clone, Debug, Serialize)]
struct RunLine {
    id: i64,
    job: String,
    slot: String,
    is_manual: bool,
    state: State,
    n_attempts: u32,
    duration: Option<String>,
    due: Option<String>,
    message: String,
    hooks: Option<&'static str>,
    rows_in: Option<u64>,
    answers: Option<u64>,
    rejects: Option<u64>,
    progress: Option<ProgressLine>,
    can_stop: bool,
    can_retry: bool,
}

#[derive(Clone, Debug, Serialize)]
struct ProgressLine {
    rows_done: u64,
    rows_planned: u64,
    rate: String,
    remaining: Option<String>,
}

#[derive(Debug, Serialize)]
struct AttemptLine {
    started: String,
    duration: Option<String>,
    outcome: String,
    log: String,
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
        runs: &[Run],
        viewer: Viewer,
    ) -> Result<String, minijinja::Error> {
        let jobs = board.jobs();
        let lines = run_lines(board, &jobs, runs);
        let jobs: Vec<JobLine> = jobs.iter().map(|job| job_line(job, &lines, viewer)).collect();
        self.render("overview.html", json!({ "jobs": jobs, "runs": lines, "shown": RUNS_SHOWN }))
    }

    /// Renders a job and its latest runs; `None` if neither exists.
    pub(super) fn job(
        &self,
        board: &Board,
        name: &str,
        runs: &[Run],
        viewer: Viewer,
    ) -> Result<Option<String>, minijinja::Error> {
        let jobs = board.jobs();
        let lines = run_lines(board, &jobs, runs);
        let job = jobs.iter().find(|job| job.name == name);
        let job = job.map(|job| job_line(job, &lines, viewer));
        if job.is_none() && runs.is_empty() {
            return Ok(None);
        }
        let values = json!({
            "name": name,
            "job": job,
            "runs": lines,
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
        let zone = job_time_zone(&jobs, &run.job);
        let output = jobs.iter().find(|job| job.name == run.job).and_then(|job| job.output.clone());
        let line = run_line(board, zone, run);
        let report: Option<Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let attempt_line = |attempt: &Attempt| AttemptLine {
            started: zone.format(attempt.started.instant()),
            duration: attempt.ended.map(|ended| duration(attempt.started, ended)),
            outcome: attempt.outcome.clone().unwrap_or_else(|| "running".to_owned()),
            log: attempt.log.clone(),
        };
        let attempts: Vec<AttemptLine> = attempts.iter().map(attempt_line).collect();
        let values = json!({
            "run": line,
            "attempts": attempts,
            "report": report,
            "output": output,
            "has_report": has_report,
        });
        self.render("run.html", values)
    }
}

fn job_time_zone(jobs: &[JobView], name: &str) -> TimeZone {
    let job = jobs.iter().find(|job| job.name == name);
    let schedule = job.and_then(|job| job.schedule.as_ref());
    schedule.map_or_else(TimeZone::default, |schedule| schedule.time_zone)
}

fn run_lines(board: &Board, jobs: &[JobView], runs: &[Run]) -> Vec<RunLine> {
    runs.iter().map(|run| run_line(board, job_time_zone(jobs, &run.job), run)).collect()
}

fn job_line(job: &JobView, runs: &[RunLine], viewer: Viewer) -> JobLine {
    let zone = job.schedule.as_ref().map(|schedule| schedule.time_zone).unwrap_or_default();
    let now = Second::from_instant(clock::now());
    JobLine {
        name: job.name.clone(),
        problem: job.problem.as_ref().map(|problem| match viewer {
            Viewer::Anyone => INVALID.to_owned(),
            Viewer::TokenHolder => problem.clone(),
        }),
        schedule: job.schedule.as_ref().map(|schedule| format!("{} {zone}", schedule.cron)),
        catch_up: job.schedule.as_ref().map(|schedule| schedule.catch_up.as_str()),
        next: job.next.map(|next| zone.format(next.instant())),
        next_in: job.next.map(|next| duration(now, next)),
        output: job.output.clone(),
        last: runs.iter().find(|run| run.job == job.name).cloned(),
    }
}

fn run_line(board: &Board, zone: TimeZone, run: &Run) -> RunLine {
    let report: Option<Value> =
        run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
    let number = |key: &str| report.as_ref()?.get(key)?.as_u64();
    let rejects = report.as_ref().and_then(|report| report.get("rejects")?.as_object());
    let progress = board.progress().get(&run.id).filter(|_| run.state == State::Running).cloned();
    RunLine {
        id: run.id,
        job: run.job.clone(),
        slot: zone.format(run.slot.instant()),
        is_manual: run.cause == Cause::Manual,
        state: run.state,
        n_attempts: run.n_attempts,
        duration: run.started.zip(run.ended).map(|(started, ended)| duration(started, ended)),
        due: (run.state == State::Waiting).then(|| zone.format(run.due.instant())),
        message: run.message.clone(),
        hooks: match run.delivery {
            DeliveryState::NoHooks => None,
            DeliveryState::Pending => Some("running"),
            DeliveryState::Delivered => Some("succeeded"),
            DeliveryState::Failed => Some("failed"),
        },
        rows_in: number("rows_in"),
        answers: number("answers"),
        rejects: rejects.map(|codes| codes.values().filter_map(Value::as_u64).sum()),
        progress: progress.map(progress_line),
        can_stop: !run.state.is_end(),
        can_retry: matches!(run.state, State::Failed | State::Stopped | State::Skipped),
    }
}

fn progress_line(progress: RunProgress) -> ProgressLine {
    let remaining = progress.seconds_left.filter(|seconds| (0.0..1e9).contains(seconds));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in 0..1e9 just above"
    )]
    let remaining = remaining.map(|seconds| Period(seconds as u64).to_string());
    ProgressLine {
        rows_done: progress.rows_done,
        rows_planned: progress.rows_planned,
        rate: format!("{:.1}", progress.rows_per_second),
        remaining,
    }
}

fn duration(from: Second, to: Second) -> String {
    Period(u64::try_from(to.0 - from.0).unwrap_or(0)).to_string()
}
