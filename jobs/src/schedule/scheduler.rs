//! Decides what runs when. It is given the time with every call, and keeps what it decides in the
//! [history](super::history), so that the service may end at any instant and another goes on.

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

use super::{
    history::{self, History, HistoryError, Settled},
    log,
    outside::{Ended, Outside, ProcessEnd, Start, Tell, Told},
    record::{ProcessName, Run, RunId, Second, State, Telling, TryId},
    slots::{self, Fate},
    verdict::{Stopped, verdict},
};

/// The most slots that are entered at a time; the rest follows with the next tick.
const SLOTS_MAX: usize = 5000;

/// How long a process that a service before this one left may take to end: its grace and as much
/// again.
const ORPHAN_SECONDS: u64 = 60;

/// What is known of a job file.
#[derive(Clone, Debug)]
pub(crate) struct JobFile {
    /// The job, or why it is none.
    pub(crate) job: Result<Box<Job>, String>,
    /// When the file was changed.
    pub(crate) changed: Second,
}

#[derive(Debug)]
struct Known {
    job: Result<Box<Job>, String>,
    /// Slots up to this second are entered.
    seen: Second,
    next: Option<Second>,
}

/// A job, for those who look.
#[derive(Clone, Debug)]
pub(crate) struct JobView {
    pub(crate) name: String,
    /// Why the file is no job.
    pub(crate) problem: Option<String>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) next: Option<Second>,
    pub(crate) output: Option<String>,
}

/// A try whose process this service started.
#[derive(Debug)]
struct Active {
    run: Run,
    job: Box<Job>,
    started: DateTime<Utc>,
    stopped: Option<Stopped>,
}

/// A process that a service before this one left.
#[derive(Debug)]
struct Orphan {
    run: RunId,
    job: String,
    at: TryId,
    process: Option<ProcessName>,
    /// Killed then, or, where it is unknown, taken for gone.
    until: Second,
}

/// Why something cannot be done that somebody asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// No such job.
    #[error("there is no job file `{0}`")]
    NoJob(String),
    /// The file is no job.
    #[error("`{job}` cannot run until it is mended: {problem}")]
    Broken {
        /// The job.
        job: String,
        /// What is wrong.
        problem: String,
    },
    /// No such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// It cannot be done to a run in that state.
    #[error("run {run} is {state}: it cannot be {wanted}")]
    State {
        /// The run.
        run: RunId,
        /// Where it stands.
        state: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The service is about to end.
    #[error("the service is ending")]
    Ending,
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Decides what runs when.
#[derive(Debug)]
pub(crate) struct Scheduler<O> {
    /// The folder of the job files.
    dir: PathBuf,
    history: History,
    /// What it acts through.
    pub(crate) outside: O,
    jobs: BTreeMap<String, Known>,
    active: BTreeMap<TryId, Active>,
    orphans: Vec<Orphan>,
    /// Runs whose hooks are being told.
    telling: BTreeSet<RunId>,
    /// How many processes may be at work together.
    parallel: usize,
    is_draining: bool,
}

impl<O: Outside> Scheduler<O> {
    /// Takes up what the history says a service before this one left, with the job files as they are
    /// now.
    pub(crate) fn new(
        dir: &Path,
        history: History,
        outside: O,
        parallel: usize,
        files: Vec<(String, JobFile)>,
        now: DateTime<Utc>,
    ) -> Result<Self, HistoryError> {
        let until = Second::of(now).plus(ORPHAN_SECONDS);
        let orphan = |left: history::Unfinished| Orphan {
            run: left.run,
            job: left.job,
            at: left.at,
            process: left.process,
            until,
        };
        let orphans = history.unfinished()?.into_iter().map(orphan).collect();
        let mut this = Self {
            dir: dir.to_owned(),
            history,
            outside,
            jobs: BTreeMap::new(),
            active: BTreeMap::new(),
            orphans,
            telling: BTreeSet::new(),
            parallel,
            is_draining: false,
        };
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        this.history.forget_others(&names)?;
        for (name, file) in files {
            this.load(name, file, now)?;
        }
        for run in this.history.untold()? {
            this.tell(&run)?;
        }
        Ok(this)
    }

    /// Takes a job file that is new or has changed.
    pub(crate) fn load(
        &mut self,
        name: String,
        file: JobFile,
        now: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let now = Second::of(now);
        let mut seen = now;
        match &file.job {
            Err(_) => {
                // Its slots are entered once it is mended, as if the service had been down.
                if let Some((_, earlier)) = self.history.seen(&name)? {
                    seen = earlier;
                }
            }
            Ok(job) => match &job.schedule {
                None => self.history.forget_schedule(&name, now)?,
                Some(schedule) => match self.history.seen(&name)? {
                    Some((key, earlier)) if key == history::key(schedule) => seen = earlier,
                    Some((key, earlier)) => {
                        // Until the file changed, the slots were those of the old pattern.
                        seen = file.changed.clamp(earlier, now.max(earlier));
                        if let Some(old) = with_pattern(schedule, &key) {
                            let mut from = earlier;
                            loop {
                                let entered = self.enter(&name, &old, from, seen, now)?;
                                if entered == from {
                                    break;
                                }
                                from = entered;
                            }
                        }
                        self.history.enter(&name, schedule, seen, &[])?;
                    }
                    None => self.history.enter(&name, schedule, now, &[])?,
                },
            },
        }
        let next = file.job.as_ref().ok().and_then(|job| slots::next(job.schedule.as_ref()?, seen));
        self.jobs.insert(name, Known { job: file.job, seen, next });
        Ok(())
    }

    /// Drops a job whose file is gone.
    pub(crate) fn drop_job(&mut self, name: &str, now: DateTime<Utc>) -> Result<(), HistoryError> {
        self.jobs.remove(name);
        self.history.forget_schedule(name, Second::of(now))
    }

    /// Does all that is due.
    pub(crate) fn tick(&mut self, now: DateTime<Utc>) -> Result<(), HistoryError> {
        let second = Second::of(now);
        self.enter_slots(second)?;
        self.look_after_orphans(second)?;
        for (at, active) in &mut self.active {
            let timeout = active.job.schedule.as_ref().and_then(|schedule| schedule.timeout);
            let deadline = slots::deadline(active.started, timeout);
            if active.stopped.is_none() && deadline.is_some_and(|deadline| deadline <= now) {
                active.stopped = Some(Stopped::Timeout);
                self.outside.stop(*at);
            }
        }
        self.start_due(now)
    }

    fn enter_slots(&mut self, now: Second) -> Result<(), HistoryError> {
        let due = |(name, known): (&String, &Known)| {
            known.next.is_some_and(|next| next <= now).then(|| name.clone())
        };
        let names: Vec<String> = self.jobs.iter().filter_map(due).collect();
        for name in names {
            let Some(Known { job: Ok(job), seen, .. }) = self.jobs.get(&name) else { continue };
            let Some(schedule) = job.schedule.clone() else { continue };
            let seen = self.enter(&name, &schedule, *seen, now, now)?;
            if let Some(known) = self.jobs.get_mut(&name) {
                known.seen = seen;
                known.next = slots::next(&schedule, seen);
            }
        }
        Ok(())
    }

    /// Enters the slots after `seen` up to `until`; returns up to when that was done.
    fn enter(
        &mut self,
        name: &str,
        schedule: &Schedule,
        seen: Second,
        until: Second,
        now: Second,
    ) -> Result<Second, HistoryError> {
        let slots: Vec<Second> = slots::between(schedule, seen, until).take(SLOTS_MAX).collect();
        let Some(last) = slots.last().copied() else { return Ok(seen) };
        let is_busy = self.history.is_busy(name)?;
        let fates = slots::fates(schedule.catch_up, &slots, now, is_busy);
        if schedule.catch_up == CatchUp::Last {
            self.history.skip_waiting(name, now, Fate::Superseded.reason())?;
        }
        let row = |(&slot, fate): (&Second, Fate)| {
            let state = if fate == Fate::Waits { State::Waiting } else { State::Skipped };
            (slot, slots::due(name, slot, schedule.jitter), state, fate.reason())
        };
        let rows: Vec<_> = slots.iter().zip(fates).map(row).collect();
        let n_skipped = rows.iter().filter(|(_, _, state, _)| *state == State::Skipped).count();
        log::skipped(name, n_skipped, last);
        self.history.enter(name, schedule, last, &rows)?;
        Ok(last)
    }

    /// Lets runs wait again whose process is gone since the last service.
    fn look_after_orphans(&mut self, now: Second) -> Result<(), HistoryError> {
        let mut left = Vec::new();
        for orphan in std::mem::take(&mut self.orphans) {
            let is_there = match orphan.process {
                Some(process) => self.outside.is_alive(process),
                None => now < orphan.until,
            };
            if is_there {
                if let Some(process) = orphan.process
                    && now >= orphan.until
                {
                    self.outside.kill(process);
                }
                left.push(orphan);
                continue;
            }
            let failures = self.history.run(orphan.run)?.map_or(0, |run| run.failures);
            let settled = Settled {
                state: State::Waiting,
                due: now,
                failures,
                message: "goes on after a restart of the service",
                report: None,
                telling: Telling::Nobody,
            };
            self.history.end_try(orphan.at, now, "cut off: the service ended", "", &settled)?;
            log::taken_up(&orphan.job, orphan.run);
        }
        self.orphans = left;
        Ok(())
    }

    fn start_due(&mut self, now: DateTime<Utc>) -> Result<(), HistoryError> {
        if self.is_draining || self.active.len() + self.orphans.len() >= self.parallel {
            return Ok(());
        }
        for run in self.history.due(Second::of(now))? {
            if self.active.len() + self.orphans.len() >= self.parallel {
                break;
            }
            if self.is_at_work(&run.job) {
                continue;
            }
            match self.jobs.get(&run.job) {
                None => {
                    let message = "its job file is gone";
                    log::settled(&run.job, run.id, State::Skipped, message);
                    self.history.settle(run.id, Second::of(now), State::Skipped, message)?;
                }
                // It waits until the file is mended.
                Some(Known { job: Err(_), .. }) => {}
                Some(Known { job: Ok(job), .. }) => {
                    let job = job.clone();
                    self.start_try(run, job, now)?;
                }
            }
        }
        Ok(())
    }

    fn is_at_work(&self, job: &str) -> bool {
        self.active.values().any(|active| active.run.job == job)
            || self.orphans.iter().any(|orphan| orphan.job == job)
    }

    fn start_try(
        &mut self,
        run: Run,
        job: Box<Job>,
        now: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let at = self.history.begin_try(run.id, Second::of(now))?;
        log::started(&run);
        let process = self.outside.start(&Start { at, run: &run });
        self.active.insert(at, Active { run, job, started: now, stopped: None });
        match process {
            Ok(process) => self.history.name_process(at, process),
            Err(error) => {
                let log = format!("error: failed to start the process of the run: {error}");
                let end = ProcessEnd::Killed;
                self.ended(Ended { at, end, report: None, log, may_pass: true }, now)
            }
        }
    }

    /// Settles a try whose process ended.
    pub(crate) fn ended(&mut self, ended: Ended, now: DateTime<Utc>) -> Result<(), HistoryError> {
        let Some(Active { run, job, started, stopped }) = self.active.remove(&ended.at) else {
            return Ok(());
        };
        let verdict = verdict(&ended, stopped, run.failures, job.schedule.as_ref());
        log::ended(&run, &ended, &verdict, (now - started).as_seconds_f64());
        let now = Second::of(now);
        let hooks = hooks_of(&job.hooks, verdict.state);
        let report = ended.report.as_ref().map(ToString::to_string);
        let settled = Settled {
            state: verdict.state,
            due: now.plus(verdict.wait_seconds),
            failures: verdict.failures,
            message: &verdict.message,
            report: report.as_deref(),
            telling: if hooks.is_empty() { Telling::Nobody } else { Telling::Pending },
        };
        self.history.end_try(ended.at, now, &ended.end.text(), &ended.log, &settled)?;
        if !hooks.is_empty()
            && let Some(run) = self.history.run(run.id)?
        {
            self.tell_hooks(&run, &job);
        }
        Ok(())
    }

    /// Writes down how telling hooks went.
    pub(crate) fn told(&mut self, told: &Told) -> Result<(), HistoryError> {
        self.telling.remove(&told.run);
        let telling = if told.problem.is_empty() { Telling::Told } else { Telling::Failed };
        self.history.tell(told.run, telling, &told.problem)
    }

    /// Tells the hooks of a run that ended before a restart.
    fn tell(&mut self, run: &Run) -> Result<(), HistoryError> {
        let Some(Known { job: Ok(job), .. }) = self.jobs.get(&run.job) else {
            let problem = "The hooks were not told: the job file was gone or broken.";
            return self.history.tell(run.id, Telling::Failed, problem);
        };
        let job = job.clone();
        self.tell_hooks(run, &job);
        Ok(())
    }

    fn tell_hooks(&mut self, run: &Run, job: &Job) {
        let message = self.message(run, job);
        let hooks = hooks_of(&job.hooks, run.state).to_vec();
        self.telling.insert(run.id);
        self.outside.tell(Tell { run: run.id, hooks, dir: self.dir.clone(), message });
    }

    /// Returns what hooks are told.
    fn message(&self, run: &Run, job: &Job) -> serde_json::Value {
        let report: Option<serde_json::Value> =
            run.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        json!({
            "event": if run.state == State::Done { "success" } else { "failure" },
            "job": run.job,
            "run": run.id,
            "slot": run.slot,
            "cause": run.cause,
            "tries": run.n_tries,
            "started": run.started,
            "ended": run.ended,
            "message": run.message,
            "output": output_path(&self.dir, job),
            "report": report,
        })
    }

    /// Starts a job now, by hand.
    pub(crate) fn start(&mut self, job: &str, now: DateTime<Utc>) -> Result<RunId, ActionError> {
        if self.is_draining {
            return Err(ActionError::Ending);
        }
        match self.jobs.get(job) {
            None => return Err(ActionError::NoJob(job.to_owned())),
            Some(Known { job: Err(problem), .. }) => {
                let (job, problem) = (job.to_owned(), problem.clone());
                return Err(ActionError::Broken { job, problem });
            }
            Some(Known { job: Ok(_), .. }) => {}
        }
        let run = self.history.enter_by_hand(job, Second::of(now))?;
        self.start_due(now)?;
        Ok(run)
    }

    /// Stops a run that waits or is at work.
    pub(crate) fn stop(&mut self, id: RunId, now: DateTime<Utc>) -> Result<(), ActionError> {
        let run = self.history.run(id)?.ok_or(ActionError::NoRun(id))?;
        if let Some((at, active)) = self.active.iter_mut().find(|(_, active)| active.run.id == id) {
            active.stopped = Some(Stopped::Person);
            self.outside.stop(*at);
            return Ok(());
        }
        if run.state != State::Waiting {
            let state = run.state.as_str();
            return Err(ActionError::State { run: id, state, wanted: "stopped" });
        }
        let message = "stopped by hand";
        log::settled(&run.job, id, State::Stopped, message);
        Ok(self.history.settle(id, Second::of(now), State::Stopped, message)?)
    }

    /// Lets a run that failed, was stopped or was skipped run again, as the same slot.
    pub(crate) fn retry(&mut self, id: RunId, now: DateTime<Utc>) -> Result<(), ActionError> {
        if self.is_draining {
            return Err(ActionError::Ending);
        }
        let run = self.history.run(id)?.ok_or(ActionError::NoRun(id))?;
        if !run.state.is_end() || run.state == State::Done {
            let state = run.state.as_str();
            return Err(ActionError::State { run: id, state, wanted: "tried again" });
        }
        self.history.settle(id, Second::of(now), State::Waiting, "tried again by hand")?;
        Ok(self.start_due(now)?)
    }

    /// Begins nothing more, and asks the processes at work to end; their runs go on after a restart.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        for (at, active) in &mut self.active {
            active.stopped.get_or_insert(Stopped::Service);
            self.outside.stop(*at);
        }
    }

    /// Returns whether no process of this service is at work, and no hook is being told.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.telling.is_empty()
    }

    /// Returns the runs whose processes this service started.
    pub(crate) fn at_work(&self) -> impl Iterator<Item = RunId> {
        self.active.values().map(|active| active.run.id)
    }

    /// Returns the jobs, for those who look.
    pub(crate) fn jobs(&self) -> Vec<JobView> {
        let view = |(name, known): (&String, &Known)| JobView {
            name: name.clone(),
            problem: known.job.as_ref().err().cloned(),
            schedule: known.job.as_ref().ok().and_then(|job| job.schedule.clone()),
            next: known.job.is_ok().then_some(known.next).flatten(),
            output: known.job.as_ref().ok().map(|job| output_path(&self.dir, job)),
        };
        self.jobs.iter().map(view).collect()
    }
}

fn hooks_of(hooks: &Hooks, state: State) -> &[legenda_schemas::job::Hook] {
    match state {
        State::Done => &hooks.on_success,
        State::Failed => &hooks.on_failure,
        _ => &[],
    }
}

/// Returns where the output of a job lies: a path or a URL.
fn output_path(dir: &Path, job: &Job) -> String {
    if legenda_pipeline::store::is_url(&job.output.path) {
        return job.output.path.clone();
    }
    dir.join(&job.output.path).display().to_string()
}

/// Returns `schedule` with the pattern that the history keeps.
fn with_pattern(schedule: &Schedule, key: &str) -> Option<Schedule> {
    let (cron, zone) = key.rsplit_once(' ')?;
    let (cron, time_zone): (CronPattern, TimeZone) = (cron.parse().ok()?, zone.parse().ok()?);
    Some(Schedule { cron, time_zone, ..schedule.clone() })
}

#[cfg(test)]
pub(crate) mod tests;
