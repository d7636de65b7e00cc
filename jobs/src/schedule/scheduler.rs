//! The scheduler: decides when each job runs. Every call receives the current time, and every decision is
//! recorded in the [history](super::history), so that a restart at any point loses nothing.

mod actions;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use legenda_schemas::{
    cron::{CronPattern, TimeZone},
    job::{CatchUp, Hooks, Job, Schedule},
};
use serde_json::json;

pub(crate) use self::actions::ActionError;
use super::{
    effects::{Delivery, DeliveryResult, Effects, Ended, ProcessEnd, Start},
    history::{self, History, HistoryError, RunUpdate},
    log,
    record::{AttemptId, DeliveryState, ProcessId, Run, RunId, Second, State},
    slots::{self, SlotDecision},
    verdict::{StopReason, verdict},
};

/// The maximum number of slots recorded per tick; the rest follows with the next tick.
const SLOTS_MAX: usize = 5000;

/// The time that a process of an earlier service has to exit: twice its grace period.
const ORPHAN_SECONDS: u64 = 60;

/// A job file.
#[derive(Clone, Debug)]
pub(crate) struct JobFile {
    /// The job, or the error in the file.
    pub(crate) job: Result<Box<Job>, String>,
    /// The modification time of the file.
    pub(crate) changed: Second,
}

#[derive(Debug)]
struct JobEntry {
    job: Result<Box<Job>, String>,
    /// The time up to which slots are recorded.
    seen: Second,
    next: Option<Second>,
}

/// A job, as the page shows it.
#[derive(Clone, Debug)]
pub(crate) struct JobView {
    pub(crate) name: String,
    /// The error in the job file.
    pub(crate) problem: Option<String>,
    /// The job, if its file is valid.
    pub(crate) job: Option<Box<Job>>,
    pub(crate) next: Option<Second>,
    pub(crate) output: Option<String>,
}

impl JobView {
    /// Returns the schedule of the job.
    pub(crate) fn schedule(&self) -> Option<&Schedule> {
        self.job.as_ref()?.schedule.as_ref()
    }
}

/// A running attempt that this service started.
#[derive(Debug)]
struct ActiveAttempt {
    run: Run,
    job: Box<Job>,
    started: DateTime<Utc>,
    stop_reason: Option<StopReason>,
}

/// A process that an earlier service left running.
#[derive(Debug)]
struct Orphan {
    run: RunId,
    job: String,
    attempt: AttemptId,
    process: Option<ProcessId>,
    /// The time to kill the process, or to assume that it is gone if it is unknown.
    deadline: Second,
}

/// The scheduler.
#[derive(Debug)]
pub(crate) struct Scheduler<E> {
    /// The folder of the job files.
    dir: PathBuf,
    history: History,
    /// The side effects.
    pub(crate) effects: E,
    jobs: BTreeMap<String, JobEntry>,
    active: BTreeMap<AttemptId, ActiveAttempt>,
    orphans: Vec<Orphan>,
    /// Runs with a delivery in progress.
    delivering: BTreeSet<RunId>,
    /// The maximum number of concurrent processes.
    parallel: usize,
    is_draining: bool,
}

impl<E: Effects> Scheduler<E> {
    /// Creates a scheduler that continues from the history, with the current job files.
    pub(crate) fn new(
        dir: &Path,
        history: History,
        effects: E,
        parallel: usize,
        files: Vec<(String, JobFile)>,
        now: DateTime<Utc>,
    ) -> Result<Self, HistoryError> {
        let deadline = Second::from_instant(now).plus(ORPHAN_SECONDS);
        let orphan = |unfinished: history::UnfinishedAttempt| Orphan {
            run: unfinished.run,
            job: unfinished.job,
            attempt: unfinished.attempt,
            process: unfinished.process,
            deadline,
        };
        let orphans = history.unfinished_attempts()?.into_iter().map(orphan).collect();
        let mut this = Self {
            dir: dir.to_owned(),
            history,
            effects,
            jobs: BTreeMap::new(),
            active: BTreeMap::new(),
            orphans,
            delivering: BTreeSet::new(),
            parallel,
            is_draining: false,
        };
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        this.history.retain_schedules(&names)?;
        for (name, file) in files {
            this.load(name, file, now)?;
        }
        for run in this.history.pending_deliveries()? {
            this.repeat_delivery(&run)?;
        }
        Ok(this)
    }

    /// Loads a new or changed job file.
    pub(crate) fn load(
        &mut self,
        name: String,
        file: JobFile,
        now: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let now = Second::from_instant(now);
        let mut seen = now;
        match &file.job {
            Err(_) => {
                // Its slots are recorded once the file is valid, as if the service had been down.
                if let Some((_, earlier)) = self.history.seen(&name)? {
                    seen = earlier;
                }
            }
            Ok(job) => match &job.schedule {
                None => self.history.remove_schedule(&name, now)?,
                Some(schedule) => match self.history.seen(&name)? {
                    Some((key, earlier)) if key == history::schedule_key(schedule) => {
                        seen = earlier;
                    }
                    Some((key, earlier)) => {
                        // Until the file changed, the old pattern applied.
                        seen = file.changed.clamp(earlier, now.max(earlier));
                        if let Some(old) = with_pattern(schedule, &key) {
                            let mut from = earlier;
                            loop {
                                let recorded = self.record_slots(&name, &old, from, seen, now)?;
                                if recorded == from {
                                    break;
                                }
                                from = recorded;
                            }
                        }
                        self.history.record_slots(&name, schedule, seen, &[])?;
                    }
                    None => self.history.record_slots(&name, schedule, now, &[])?,
                },
            },
        }
        let next = file.job.as_ref().ok().and_then(|job| slots::next(job.schedule.as_ref()?, seen));
        self.jobs.insert(name, JobEntry { job: file.job, seen, next });
        Ok(())
    }

    /// Removes a job whose file was deleted.
    pub(crate) fn remove(&mut self, name: &str, now: DateTime<Utc>) -> Result<(), HistoryError> {
        self.jobs.remove(name);
        self.history.remove_schedule(name, Second::from_instant(now))
    }

    /// Does everything that is due.
    pub(crate) fn tick(&mut self, now: DateTime<Utc>) -> Result<(), HistoryError> {
        let second = Second::from_instant(now);
        self.record_due_slots(second)?;
        self.reap_orphans(second)?;
        for (attempt, active) in &mut self.active {
            let timeout = active.job.schedule.as_ref().and_then(|schedule| schedule.timeout);
            let deadline = slots::deadline(active.started, timeout);
            if active.stop_reason.is_none() && deadline.is_some_and(|deadline| deadline <= now) {
                active.stop_reason = Some(StopReason::Timeout);
                self.effects.stop(*attempt);
            }
        }
        self.start_due(now)
    }

    fn record_due_slots(&mut self, now: Second) -> Result<(), HistoryError> {
        let due = |(name, entry): (&String, &JobEntry)| {
            entry.next.is_some_and(|next| next <= now).then(|| name.clone())
        };
        let names: Vec<String> = self.jobs.iter().filter_map(due).collect();
        for name in names {
            let Some(JobEntry { job: Ok(job), seen, .. }) = self.jobs.get(&name) else { continue };
            let Some(schedule) = job.schedule.clone() else { continue };
            let seen = self.record_slots(&name, &schedule, *seen, now, now)?;
            if let Some(entry) = self.jobs.get_mut(&name) {
                entry.seen = seen;
                entry.next = slots::next(&schedule, seen);
            }
        }
        Ok(())
    }

    /// Records the slots after `seen` up to `until`; returns the time up to which they are recorded.
    fn record_slots(
        &mut self,
        name: &str,
        schedule: &Schedule,
        seen: Second,
        until: Second,
        now: Second,
    ) -> Result<Second, HistoryError> {
        let slots: Vec<Second> = slots::between(schedule, seen, until).take(SLOTS_MAX).collect();
        let Some(last) = slots.last().copied() else { return Ok(seen) };
        let is_busy = self.history.has_unfinished_run(name)?;
        let decisions = slots::decide(schedule.catch_up, &slots, now, is_busy);
        if schedule.catch_up == CatchUp::Last {
            self.history.skip_waiting(name, now, SlotDecision::Superseded.reason())?;
        }
        let row = |(&slot, decision): (&Second, SlotDecision)| {
            let runs = decision == SlotDecision::Run;
            let state = if runs { State::Waiting } else { State::Skipped };
            (slot, slots::due(name, slot, schedule.jitter), state, decision.reason())
        };
        let rows: Vec<_> = slots.iter().zip(decisions).map(row).collect();
        let n_skipped = rows.iter().filter(|(_, _, state, _)| *state == State::Skipped).count();
        log::skipped(name, n_skipped, last);
        self.history.record_slots(name, schedule, last, &rows)?;
        Ok(last)
    }

    /// Ends orphaned attempts whose process is gone, so that their runs wait again.
    fn reap_orphans(&mut self, now: Second) -> Result<(), HistoryError> {
        let mut remaining = Vec::new();
        for orphan in std::mem::take(&mut self.orphans) {
            let is_alive = match orphan.process {
                Some(process) => self.effects.is_alive(process),
                None => now < orphan.deadline,
            };
            if is_alive {
                if let Some(process) = orphan.process
                    && now >= orphan.deadline
                {
                    self.effects.kill(process);
                }
                remaining.push(orphan);
                continue;
            }
            let failures = self.history.run(orphan.run)?.map_or(0, |run| run.failures);
            let update = RunUpdate {
                state: State::Waiting,
                due: now,
                failures,
                message: "resumes after a restart of the service",
                report: None,
                delivery: DeliveryState::NoHooks,
            };
            let outcome = "cut off: the service ended";
            self.history.end_attempt(orphan.attempt, now, outcome, "", &update)?;
            log::resumed(&orphan.job, orphan.run);
        }
        self.orphans = remaining;
        Ok(())
    }

    fn start_due(&mut self, now: DateTime<Utc>) -> Result<(), HistoryError> {
        if self.is_draining || self.active.len() + self.orphans.len() >= self.parallel {
            return Ok(());
        }
        for run in self.history.due_runs(Second::from_instant(now))? {
            if self.active.len() + self.orphans.len() >= self.parallel {
                break;
            }
            if self.is_running(&run.job) {
                continue;
            }
            match self.jobs.get(&run.job) {
                None => {
                    let message = "the job file was deleted";
                    log::ended_without_process(&run.job, run.id, State::Skipped, message);
                    let now = Second::from_instant(now);
                    self.history.set_state(run.id, now, State::Skipped, message)?;
                }
                // It waits until the file is valid.
                Some(JobEntry { job: Err(_), .. }) => {}
                Some(JobEntry { job: Ok(job), .. }) => {
                    let job = job.clone();
                    self.start_attempt(run, job, now)?;
                }
            }
        }
        Ok(())
    }

    fn is_running(&self, job: &str) -> bool {
        self.active.values().any(|active| active.run.job == job)
            || self.orphans.iter().any(|orphan| orphan.job == job)
    }

    fn start_attempt(
        &mut self,
        run: Run,
        job: Box<Job>,
        now: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let attempt = self.history.begin_attempt(run.id, Second::from_instant(now))?;
        log::started(&run);
        let process = self.effects.start(&Start { attempt, run: &run });
        self.active.insert(attempt, ActiveAttempt { run, job, started: now, stop_reason: None });
        match process {
            Ok(process) => self.history.record_process(attempt, process),
            Err(error) => {
                let log = format!("error: failed to start the process of the run: {error}");
                let end = ProcessEnd::Killed;
                let ended = Ended { attempt, end, report: None, log, is_transient: true };
                self.end_attempt(ended, now)
            }
        }
    }

    /// Ends an attempt whose process ended.
    pub(crate) fn end_attempt(
        &mut self,
        ended: Ended,
        now: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let Some(active) = self.active.remove(&ended.attempt) else { return Ok(()) };
        let ActiveAttempt { run, job, started, stop_reason } = active;
        let verdict = verdict(&ended, stop_reason, run.failures, job.schedule.as_ref());
        log::ended(&run, &ended, &verdict, (now - started).as_seconds_f64());
        let now = Second::from_instant(now);
        let hooks = hooks_for(&job.hooks, verdict.state);
        let report = ended.report.as_ref().map(ToString::to_string);
        let update = RunUpdate {
            state: verdict.state,
            due: now.plus(verdict.wait_seconds),
            failures: verdict.failures,
            message: &verdict.message,
            report: report.as_deref(),
            delivery: match hooks.is_empty() {
                true => DeliveryState::NoHooks,
                false => DeliveryState::Pending,
            },
        };
        let outcome = ended.end.text();
        self.history.end_attempt(ended.attempt, now, &outcome, &ended.log, &update)?;
        if !hooks.is_empty()
            && let Some(run) = self.history.run(run.id)?
        {
            self.deliver(&run, &job);
        }
        Ok(())
    }

    /// Records the result of a delivery.
    pub(crate) fn end_delivery(&mut self, result: &DeliveryResult) -> Result<(), HistoryError> {
        self.delivering.remove(&result.run);
        let delivery = match result.problem.is_empty() {
            true => DeliveryState::Delivered,
            false => DeliveryState::Failed,
        };
        self.history.record_delivery(result.run, delivery, &result.problem)
    }

    /// Repeats a delivery that a restart interrupted.
    fn repeat_delivery(&mut self, run: &Run) -> Result<(), HistoryError> {
        let Some(JobEntry { job: Ok(job), .. }) = self.jobs.get(&run.job) else {
            let problem = "failed to run the hooks: the job file was deleted or is invalid";
            return self.history.record_delivery(run.id, DeliveryState::Failed, problem);
        };
        let job = job.clone();
        self.deliver(run, &job);
        Ok(())
    }

    fn deliver(&mut self, run: &Run, job: &Job) {
        let message = self.message(run, job);
        let hooks = hooks_for(&job.hooks, run.state).to_vec();
        self.delivering.insert(run.id);
        self.effects.deliver(Delivery { run: run.id, hooks, dir: self.dir.clone(), message });
    }

    /// Returns the message for hooks.
    fn message(&self, run: &Run, job: &Job) -> serde_json::Value {
        let report: Option<serde_json::Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        json!({
            "event": if run.state == State::Done { "success" } else { "failure" },
            "job": run.job,
            "run": run.id,
            "slot": run.slot,
            "cause": run.cause,
            "tries": run.n_attempts,
            "started": run.started,
            "ended": run.ended,
            "message": run.message,
            "output": output_path(&self.dir, job),
            "report": report,
        })
    }

    /// Starts nothing more, and stops the running processes; their runs resume after a restart.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        for (attempt, active) in &mut self.active {
            active.stop_reason.get_or_insert(StopReason::Shutdown);
            self.effects.stop(*attempt);
        }
    }

    /// Returns whether no process is running and no delivery is in progress.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.delivering.is_empty()
    }

    /// Returns the running runs that this service started.
    pub(crate) fn running(&self) -> impl Iterator<Item = RunId> {
        self.active.values().map(|active| active.run.id)
    }

    /// Returns the jobs, as the page shows them.
    pub(crate) fn jobs(&self) -> Vec<JobView> {
        let view = |(name, entry): (&String, &JobEntry)| JobView {
            name: name.clone(),
            problem: entry.job.as_ref().err().cloned(),
            job: entry.job.as_ref().ok().cloned(),
            next: entry.job.is_ok().then_some(entry.next).flatten(),
            output: entry.job.as_ref().ok().map(|job| output_path(&self.dir, job)),
        };
        self.jobs.iter().map(view).collect()
    }
}

fn hooks_for(hooks: &Hooks, state: State) -> &[legenda_schemas::job::Hook] {
    match state {
        State::Done => &hooks.on_success,
        State::Failed => &hooks.on_failure,
        _ => &[],
    }
}

/// Returns the path or URL of the output of a job.
fn output_path(dir: &Path, job: &Job) -> String {
    if legenda_pipeline::store::is_url(&job.output.path) {
        return job.output.path.clone();
    }
    dir.join(&job.output.path).display().to_string()
}

/// Returns `schedule` with the pattern and time zone of a history key.
fn with_pattern(schedule: &Schedule, key: &str) -> Option<Schedule> {
    let (cron, zone) = key.rsplit_once(' ')?;
    let (cron, time_zone): (CronPattern, TimeZone) = (cron.parse().ok()?, zone.parse().ok()?);
    Some(Schedule { cron, time_zone, ..schedule.clone() })
}

#[cfg(test)]
pub(crate) mod tests;
