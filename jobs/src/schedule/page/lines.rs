//! Jobs, runs and attempts as the templates show them.

use legenda_schemas::{
    cron::TimeZone,
    units::{Period, counted, grouped},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    about::{JobAbout, catch_up},
    statistics::{new_rows, rounded},
};
use crate::schedule::{
    board::{Board, RunProgress},
    record::{Attempt, Cause, DeliveryState, Run, Second, State},
    scheduler::JobView,
};

/// The width of a run in a strip, with the gap after it.
const STRIP_STEP: usize = 9;

/// The results of a job.
#[derive(Debug, Default)]
pub(super) struct JobResults {
    /// The state of the last run that succeeded or failed.
    pub(super) last_result: Option<State>,
    /// The end of the last successful run.
    pub(super) last_success: Option<Second>,
    /// The latest runs, newest first.
    pub(super) recent: Vec<Run>,
}

/// An instant, for a `time` element.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Time {
    text: String,
    utc: Second,
}

impl Time {
    fn new(zone: TimeZone, at: Second) -> Self {
        Self { text: zone.format_short(at.instant()), utc: at }
    }
}

/// The schedule of a job.
#[derive(Debug, Serialize)]
struct ScheduleLine {
    text: String,
    cron: String,
    /// The time zone, if it is not that of the page.
    zone: Option<String>,
}

/// A job on a page.
#[derive(Debug, Serialize)]
pub(super) struct JobLine {
    name: String,
    problem: Option<String>,
    about: Option<JobAbout>,
    schedule: Option<ScheduleLine>,
    catch_up: Option<&'static str>,
    next: Option<Time>,
    next_in: Option<String>,
    output: Option<String>,
    last: Option<RunLine>,
    last_success: Option<Time>,
    success_age: Option<String>,
    strip: Option<Strip>,
}

/// A chart of the recent runs of a job, oldest first.
#[derive(Debug, Serialize)]
struct Strip {
    label: String,
    width: usize,
    runs: Vec<StripRun>,
}

#[derive(Debug, Serialize)]
struct StripRun {
    state: State,
    x: usize,
    height: u32,
    title: String,
}

/// A run on a page.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RunLine {
    id: i64,
    job: String,
    slot: Time,
    is_manual: bool,
    state: State,
    n_attempts: u32,
    duration: Option<String>,
    due: Option<Time>,
    message: String,
    hooks: Option<&'static str>,
    new_rows: Option<String>,
    rejects: Option<String>,
    progress: Option<ProgressLine>,
    can_stop: bool,
    can_retry: bool,
}

#[derive(Clone, Debug, Serialize)]
struct ProgressLine {
    value: u64,
    max: u64,
    rows_done: String,
    rows_planned: String,
    rate: String,
    remaining: Option<String>,
}

/// An attempt on the page of its run.
#[derive(Debug, Serialize)]
pub(super) struct AttemptLine {
    id: i64,
    started: Time,
    duration: Option<String>,
    outcome: String,
    log: String,
}

/// What every line of a page shares.
pub(super) struct Lines<'a> {
    pub(super) board: &'a Board,
    /// The time zone of the page.
    pub(super) zone: TimeZone,
    pub(super) now: Second,
}

impl Lines<'_> {
    /// Returns a job; `problem` is what the viewer may see of the error in its file.
    pub(super) fn job(
        &self,
        job: &JobView,
        results: &JobResults,
        problem: Option<String>,
    ) -> JobLine {
        let schedule = job.schedule();
        let zone = |zone: TimeZone| (zone != self.zone).then(|| zone.to_string());
        JobLine {
            name: job.name.clone(),
            problem,
            about: job.job.as_deref().map(JobAbout::new),
            schedule: schedule.map(|schedule| ScheduleLine {
                text: schedule.cron.describe(),
                cron: schedule.cron.to_string(),
                zone: zone(schedule.time_zone),
            }),
            catch_up: schedule.map(|schedule| catch_up(schedule.catch_up)),
            next: job.next.map(|next| Time::new(self.zone, next)),
            next_in: job.next.map(|next| about(self.now, next)),
            output: job.output.clone(),
            last: results.recent.first().map(|run| self.run(run)),
            last_success: results.last_success.map(|at| Time::new(self.zone, at)),
            success_age: results.last_success.map(|at| about(at, self.now)),
            strip: self.strip(&results.recent),
        }
    }

    fn strip(&self, recent: &[Run]) -> Option<Strip> {
        let runs: Vec<StripRun> = recent
            .iter()
            .rev()
            .enumerate()
            .map(|(idx, run)| StripRun {
                state: run.state,
                x: idx * STRIP_STEP,
                // Not only by colour.
                height: match run.state {
                    State::Failed => 20,
                    State::Running => 16,
                    State::Done => 12,
                    State::Stopped => 9,
                    State::Waiting => 6,
                    State::Skipped => 3,
                },
                title: format!(
                    "run {}, {}: {}",
                    run.id,
                    self.zone.format(run.slot.instant()),
                    run.state.as_str()
                ),
            })
            .collect();
        let counts = State::ALL.into_iter().filter_map(|state| {
            let n = recent.iter().filter(|run| run.state == state).count();
            (n > 0).then(|| format!("{n} {}", state.as_str()))
        });
        let counts: Vec<String> = counts.collect();
        let n_runs = counted(runs.len() as u64, "run");
        (!runs.is_empty()).then(|| Strip {
            label: format!("last {n_runs}: {}", counts.join(", ")),
            width: runs.len() * STRIP_STEP,
            runs,
        })
    }

    /// Returns a run.
    pub(super) fn run(&self, run: &Run) -> RunLine {
        let report: Option<Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let rejects = report.as_ref().and_then(|report| report.get("rejects")?.as_object());
        let progress = self.board.progress().remove(&run.id);
        RunLine {
            id: run.id,
            job: run.job.clone(),
            slot: Time::new(self.zone, run.slot),
            is_manual: run.cause == Cause::Manual,
            state: run.state,
            n_attempts: run.n_attempts,
            duration: run.started.zip(run.ended).map(|(started, ended)| duration(started, ended)),
            due: (run.state == State::Waiting).then(|| Time::new(self.zone, run.due)),
            message: run.message.clone(),
            hooks: match run.delivery {
                DeliveryState::NoHooks => None,
                DeliveryState::Pending => Some("running"),
                DeliveryState::Delivered => Some("succeeded"),
                DeliveryState::Failed => Some("failed"),
            },
            new_rows: report.as_ref().and_then(new_rows).map(grouped),
            rejects: rejects
                .map(|codes| grouped(codes.values().filter_map(Value::as_u64).sum::<u64>())),
            progress: progress.filter(|_| run.state == State::Running).map(progress_line),
            can_stop: !run.state.is_end(),
            can_retry: matches!(run.state, State::Failed | State::Stopped | State::Skipped),
        }
    }

    /// Returns an attempt.
    pub(super) fn attempt(&self, attempt: &Attempt) -> AttemptLine {
        AttemptLine {
            id: attempt.id,
            started: Time::new(self.zone, attempt.started),
            duration: attempt.ended.map(|ended| duration(attempt.started, ended)),
            outcome: attempt.outcome.clone().unwrap_or_else(|| "running".to_owned()),
            log: attempt.log.clone(),
        }
    }
}

fn progress_line(progress: RunProgress) -> ProgressLine {
    let remaining = progress.seconds_left.filter(|seconds| (0.0..1e9).contains(seconds));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in 0..1e9 just above"
    )]
    let remaining = remaining.map(|seconds| Period(coarse(seconds as u64)).to_string());
    ProgressLine {
        value: progress.rows_done,
        max: progress.rows_planned,
        rows_done: grouped(progress.rows_done),
        rows_planned: grouped(progress.rows_planned),
        rate: rounded(progress.rows_per_second),
        remaining,
    }
}

fn duration(from: Second, to: Second) -> String {
    Period(u64::try_from(to.0 - from.0).unwrap_or(0)).to_string()
}

/// Formats a duration with its two largest units at most.
fn about(from: Second, to: Second) -> String {
    Period(coarse(u64::try_from(to.0 - from.0).unwrap_or(0))).to_string()
}

/// Rounds seconds down to minutes from 10 minutes on, and to hours from a day on.
fn coarse(seconds: u64) -> u64 {
    let unit = match seconds {
        0..600 => 1,
        600..86_400 => 60,
        _ => 3600,
    };
    seconds - seconds % unit
}
