//! What the pages say. Every value is escaped, because names of files and what processes complain of
//! are anybody's text.

use legenda_schemas::{cron::TimeZone, units::Period};
use minijinja::{Environment, value::Serde};
use serde::Serialize;
use serde_json::{Value, json};

use crate::schedule::{
    board::{Board, RunProgress},
    clock,
    record::{Cause, Run, Second, State, Telling, Try},
    scheduler::JobView,
};

/// How many runs a page shows.
pub(super) const RUNS_SHOWN: usize = 100;

/// What stands in the place of what is wrong with a job file, which may quote secrets in it.
const INVALID: &str =
    "invalid job file: the error is in the log of the service, and here with the token";

/// Who looks at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Viewer {
    /// Whoever can reach the address.
    Anyone,
    /// Somebody who has the token.
    TokenHolder,
}

/// The pages.
#[derive(Debug)]
pub(super) struct Views {
    templates: Environment<'static>,
}

/// A job, as a page shows it.
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

/// A run, as a page shows it.
#[derive(Clone, Debug, Serialize)]
struct RunLine {
    id: i64,
    job: String,
    slot: String,
    by_hand: bool,
    state: State,
    n_tries: u32,
    took: Option<String>,
    due: Option<String>,
    message: String,
    hooks: Option<Telling>,
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
    left: Option<String>,
}

#[derive(Debug, Serialize)]
struct TryLine {
    started: String,
    took: Option<String>,
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
            templates.add_template(name, text).expect("the templates are part of the program");
        }
        Self { templates }
    }

    fn render(&self, name: &str, values: Value) -> Result<String, minijinja::Error> {
        self.templates.get_template(name)?.render(minijinja::Value::from(Serde(values)))
    }

    /// Shows every job, and the last runs.
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

    /// Shows a job and its last runs; none when neither is known.
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
            "is_whole": viewer == Viewer::TokenHolder,
        });
        self.render("job.html", values).map(Some)
    }

    /// Shows a run and its tries.
    pub(super) fn run(
        &self,
        board: &Board,
        run: &Run,
        tries: &[Try],
        has_report: bool,
    ) -> Result<String, minijinja::Error> {
        let jobs = board.jobs();
        let zone = zone_of(&jobs, &run.job);
        let output = jobs.iter().find(|job| job.name == run.job).and_then(|job| job.output.clone());
        let line = run_line(board, zone, run);
        let report: Option<Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let try_line = |at: &Try| TryLine {
            started: zone.show(at.started.instant()),
            took: at.ended.map(|ended| took(at.started, ended)),
            outcome: at.outcome.clone().unwrap_or_else(|| "at work".to_owned()),
            log: at.log.clone(),
        };
        let tries: Vec<TryLine> = tries.iter().map(try_line).collect();
        let values = json!({
            "run": line,
            "tries": tries,
            "report": report,
            "output": output,
            "has_report": has_report,
        });
        self.render("run.html", values)
    }
}

fn zone_of(jobs: &[JobView], name: &str) -> TimeZone {
    let job = jobs.iter().find(|job| job.name == name);
    let schedule = job.and_then(|job| job.schedule.as_ref());
    schedule.map_or_else(TimeZone::default, |schedule| schedule.time_zone)
}

fn run_lines(board: &Board, jobs: &[JobView], runs: &[Run]) -> Vec<RunLine> {
    runs.iter().map(|run| run_line(board, zone_of(jobs, &run.job), run)).collect()
}

fn job_line(job: &JobView, runs: &[RunLine], viewer: Viewer) -> JobLine {
    let zone = job.schedule.as_ref().map(|schedule| schedule.time_zone).unwrap_or_default();
    let now = Second::of(clock::now());
    JobLine {
        name: job.name.clone(),
        problem: job.problem.as_ref().map(|problem| match viewer {
            Viewer::Anyone => INVALID.to_owned(),
            Viewer::TokenHolder => problem.clone(),
        }),
        schedule: job.schedule.as_ref().map(|schedule| format!("{} {zone}", schedule.cron)),
        catch_up: job.schedule.as_ref().map(|schedule| schedule.catch_up.as_str()),
        next: job.next.map(|next| zone.show(next.instant())),
        next_in: job.next.map(|next| took(now, next)),
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
        slot: zone.show(run.slot.instant()),
        by_hand: run.cause == Cause::Hand,
        state: run.state,
        n_tries: run.n_tries,
        took: run.started.zip(run.ended).map(|(started, ended)| took(started, ended)),
        due: (run.state == State::Waiting).then(|| zone.show(run.due.instant())),
        message: run.message.clone(),
        hooks: (run.telling != Telling::Nobody).then_some(run.telling),
        rows_in: number("rows_in"),
        answers: number("answers"),
        rejects: rejects.map(|codes| codes.values().filter_map(Value::as_u64).sum()),
        progress: progress.map(progress_line),
        can_stop: !run.state.is_end(),
        can_retry: matches!(run.state, State::Failed | State::Stopped | State::Skipped),
    }
}

fn progress_line(progress: RunProgress) -> ProgressLine {
    let left = progress.seconds_left.filter(|seconds| (0.0..1e9).contains(seconds));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in 0..1e9 just above"
    )]
    let left = left.map(|seconds| Period(seconds as u64).to_string());
    ProgressLine {
        rows_done: progress.rows_done,
        rows_planned: progress.rows_planned,
        rate: format!("{:.1}", progress.rows_per_second),
        left,
    }
}

fn took(from: Second, to: Second) -> String {
    Period(u64::try_from(to.0 - from.0).unwrap_or(0)).to_string()
}
