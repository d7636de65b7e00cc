//! Tests of the scheduler with simulated time and processes.

mod week;

use std::{cell::RefCell, path::Path, rc::Rc};

use chrono::{DateTime, TimeDelta, Utc};
use legenda_schemas::job::{Job, Schedule};

use super::{ActionError, JobFile, Scheduler};
use crate::schedule::{
    effects::{Delivery, DeliveryResult, Effects, Ended, ProcessEnd, Start},
    history::History,
    record::{AttemptId, Cause, DeliveryState, ProcessId, Run, RunId, Second, State},
};

/// A job without a schedule.
pub(crate) const JOB: &str = r#"
version = 1
[task]
kind = "caption"
[source]
paths = ["pictures.parquet"]
columns = { image = "image" }
[output]
path = "out"
"#;

/// Parses a schedule with the pattern `cron`.
pub(crate) fn schedule(cron: &str) -> Schedule {
    *job(&format!("cron = \"{cron}\"")).schedule.map(Box::new).unwrap()
}

fn job(schedule: &str) -> Box<Job> {
    Box::new(Job::parse(&format!("{JOB}\n[schedule]\n{schedule}"), &[]).unwrap())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The recorded side effects of a scheduler.
#[derive(Debug, Default)]
struct Calls {
    started: Vec<(AttemptId, RunId)>,
    stopped: Vec<AttemptId>,
    killed: Vec<u32>,
    deliveries: Vec<Delivery>,
    alive: Vec<u32>,
    start_fails: bool,
}

#[derive(Clone, Debug, Default)]
struct FakeEffects(Rc<RefCell<Calls>>);

impl Effects for FakeEffects {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessId> {
        let mut calls = self.0.borrow_mut();
        if calls.start_fails {
            return Err(std::io::Error::other("no more processes"));
        }
        calls.started.push((start.attempt, start.run.id));
        let pid = u32::try_from(start.attempt).unwrap();
        calls.alive.push(pid);
        Ok(ProcessId { pid, start_time: 1 })
    }

    fn stop(&mut self, attempt: AttemptId) {
        self.0.borrow_mut().stopped.push(attempt);
    }

    fn is_alive(&mut self, process: ProcessId) -> bool {
        self.0.borrow().alive.contains(&process.pid)
    }

    fn kill(&mut self, process: ProcessId) {
        let mut calls = self.0.borrow_mut();
        calls.killed.push(process.pid);
        calls.alive.retain(|pid| *pid != process.pid);
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.0.borrow_mut().deliveries.push(delivery);
    }
}

/// A simulation: a scheduler, its recorded side effects and its clock.
struct Simulation {
    dir: tempfile::TempDir,
    scheduler: Scheduler<FakeEffects>,
    calls: Rc<RefCell<Calls>>,
    now: DateTime<Utc>,
}

const NAME: &str = "job.toml";

fn file(job: Result<Box<Job>, String>, changed: DateTime<Utc>) -> JobFile {
    JobFile { job, changed: Second::from_instant(changed) }
}

fn open(
    dir: &Path,
    effects: FakeEffects,
    files: Vec<(String, JobFile)>,
    now: DateTime<Utc>,
) -> Scheduler<FakeEffects> {
    let history = History::open(&dir.join("history.db")).unwrap();
    history.disable_sync();
    Scheduler::new(dir, history, effects, 2, files, now).unwrap()
}

impl Simulation {
    fn new(schedule: &str, now: &str) -> Self {
        let (dir, now) = (tempfile::tempdir().unwrap(), at(now));
        let effects = FakeEffects::default();
        let calls = Rc::clone(&effects.0);
        let files = vec![(NAME.to_owned(), file(Ok(job(schedule)), now))];
        let scheduler = open(dir.path(), effects, files, now);
        Self { dir, scheduler, calls, now }
    }

    /// Replaces the service `seconds` later, with a new version of the job.
    fn restart(&mut self, schedule: &str, changed: &str, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
        let files = vec![(NAME.to_owned(), file(Ok(job(schedule)), at(changed)))];
        self.scheduler =
            open(self.dir.path(), FakeEffects(Rc::clone(&self.calls)), files, self.now);
    }

    fn wait(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
        self.scheduler.tick(self.now).unwrap();
    }

    /// Ends the last started process.
    fn end(&mut self, code: i32) {
        let (attempt, _) = *self.calls.borrow().started.last().unwrap();
        self.calls.borrow_mut().alive.clear();
        let log = format!("something\nerror: it ended with {code}\nhint: none");
        let end = ProcessEnd::Code(code);
        let ended = Ended { attempt, end, report: None, log, is_transient: false };
        self.scheduler.end_attempt(ended, self.now).unwrap();
    }

    fn n_started(&self) -> usize {
        self.calls.borrow().started.len()
    }

    /// Returns the runs, oldest first.
    fn runs(&self) -> Vec<Run> {
        let mut runs = self.scheduler.history.latest_runs(None, 1000).unwrap();
        runs.reverse();
        runs
    }

    fn states(&self) -> Vec<(String, &'static str)> {
        let line = |run: &Run| (run.slot.instant().format("%H:%M").to_string(), run.state.as_str());
        self.runs().iter().map(line).collect()
    }

    fn last(&self) -> Run {
        self.runs().pop().unwrap()
    }
}

fn pairs(expected: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    expected.iter().map(|(slot, state)| ((*slot).to_owned(), *state)).collect()
}

#[test]
fn a_slot_runs_once_when_it_is_due() {
    let mut sim = Simulation::new("cron = \"0 * * * *\"", "2026-01-01T09:59:58Z");
    sim.wait(1);
    assert_eq!(
        sim.n_started(),
        0,
        "it is not due yet, and slots before the first start do not count"
    );
    sim.wait(1);
    assert_eq!(sim.n_started(), 1);
    sim.wait(1);
    sim.end(0);
    sim.wait(1);
    assert_eq!(sim.n_started(), 1);
    assert_eq!(sim.states(), pairs(&[("10:00", "done")]));
}

#[test]
fn exit_codes_determine_the_next_state() {
    for (code, expected, is_retried) in [
        (0, State::Done, false),
        (1, State::Waiting, true),
        (2, State::Failed, false),
        (3, State::Failed, false),
        (4, State::Waiting, true),
        (130, State::Waiting, true),
    ] {
        let mut sim = Simulation::new("cron = \"@hourly\"\nretries = 1", "2026-01-01T09:59:59Z");
        sim.wait(1);
        sim.end(code);
        assert_eq!(sim.last().state, expected, "{code}");
        if code != 0 {
            let message = sim.last().message;
            assert!(message.contains(&format!("it ended with {code}")), "{message}");
        }
        sim.wait(59);
        assert_eq!(sim.n_started(), 1, "{code}: the first delay is one minute");
        sim.wait(1);
        assert_eq!(sim.n_started(), if is_retried { 2 } else { 1 }, "{code}");
        if is_retried {
            sim.end(code);
            assert_eq!(sim.last().state, State::Failed, "{code}: no attempt is left");
            assert_eq!((sim.last().failures, sim.last().n_attempts), (2, 2));
        }
    }
}

#[test]
fn a_process_that_fails_to_start_is_retried() {
    let mut sim = Simulation::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    sim.calls.borrow_mut().start_fails = true;
    sim.wait(1);
    let run = sim.last();
    assert_eq!((run.state, run.failures), (State::Waiting, 1));
    assert!(run.message.contains("no more processes"), "{}", run.message);
    sim.calls.borrow_mut().start_fails = false;
    sim.wait(60);
    assert_eq!(sim.n_started(), 1);
}

#[test]
fn slots_during_a_run_wait_or_are_skipped() {
    for (catch_up, expected) in [
        ("all", pairs(&[("10:00", "done"), ("11:00", "running"), ("12:00", "waiting")])),
        ("last", pairs(&[("10:00", "done"), ("11:00", "skipped"), ("12:00", "running")])),
        ("none", pairs(&[("10:00", "done"), ("11:00", "skipped"), ("12:00", "skipped")])),
    ] {
        let schedule = format!("cron = \"@hourly\"\ncatch_up = \"{catch_up}\"");
        let mut sim = Simulation::new(&schedule, "2026-01-01T09:59:59Z");
        sim.wait(1);
        sim.wait(3600);
        sim.wait(3600);
        assert_eq!(sim.n_started(), 1, "{catch_up}: runs of a job never overlap");
        sim.end(0);
        sim.wait(1);
        assert_eq!(sim.states(), expected, "{catch_up}");
    }
}

#[test]
fn slots_during_downtime_follow_catch_up() {
    for (catch_up, expected) in [
        ("all", pairs(&[("10:00", "running"), ("11:00", "waiting"), ("12:00", "waiting")])),
        ("last", pairs(&[("10:00", "skipped"), ("11:00", "skipped"), ("12:00", "running")])),
        ("none", pairs(&[("10:00", "skipped"), ("11:00", "skipped"), ("12:00", "skipped")])),
    ] {
        let schedule = format!("cron = \"@hourly\"\ncatch_up = \"{catch_up}\"");
        let mut sim = Simulation::new(&schedule, "2026-01-01T09:30:00Z");
        sim.wait(1);
        sim.restart(&schedule, "2026-01-01T09:00:00Z", 3 * 3600 - 1);
        sim.wait(1);
        assert_eq!(sim.states(), expected, "{catch_up}");
        sim.restart(&schedule, "2026-01-01T09:00:00Z", 2);
        sim.wait(1);
        assert_eq!(sim.runs().len(), 3, "{catch_up}: no duplicates");
    }
}

#[test]
fn an_interrupted_run_resumes_as_the_same_slot_after_its_process_ends() {
    let mut sim = Simulation::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    sim.wait(1);
    sim.restart("cron = \"@hourly\"", "2026-01-01T09:00:00Z", 5);
    sim.wait(1);
    assert_eq!(sim.n_started(), 1, "its process is still alive");
    sim.calls.borrow_mut().alive.clear();
    sim.wait(1);
    assert_eq!(sim.n_started(), 2);
    sim.end(0);
    let run = sim.last();
    assert_eq!((run.state, run.failures, run.n_attempts), (State::Done, 0, 2));
    assert_eq!(sim.runs().len(), 1);
}

#[test]
fn an_orphan_that_does_not_exit_is_killed() {
    let mut sim = Simulation::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    sim.wait(1);
    sim.restart("cron = \"@hourly\"", "2026-01-01T09:00:00Z", 5);
    sim.wait(59);
    assert!(sim.calls.borrow().killed.is_empty());
    sim.wait(1);
    assert_eq!(sim.calls.borrow().killed.len(), 1);
    sim.wait(1);
    assert_eq!(sim.n_started(), 2);
}

#[test]
fn only_a_run_with_a_timeout_is_stopped() {
    let mut sim = Simulation::new(
        "cron = \"@daily\"\ntimeout = \"10m\"\nretries = 0",
        "2026-01-01T23:59:59Z",
    );
    sim.wait(1);
    sim.wait(599);
    assert!(sim.calls.borrow().stopped.is_empty());
    sim.wait(1);
    sim.wait(1);
    assert_eq!(sim.calls.borrow().stopped.len(), 1, "it is stopped once");
    sim.end(130);
    assert_eq!(sim.last().state, State::Failed);
    assert!(sim.last().message.contains("schedule.timeout"));
    let mut unlimited = Simulation::new("cron = \"@daily\"", "2026-01-01T23:59:59Z");
    unlimited.wait(1);
    unlimited.wait(80_000);
    assert!(unlimited.calls.borrow().stopped.is_empty());
}

#[test]
fn a_new_pattern_applies_from_the_file_change() {
    let mut sim =
        Simulation::new("cron = \"0 * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:59:00Z");
    sim.wait(1);
    // The service is down from 09:59 to 13:00; the pattern changes at 11:30.
    sim.restart("cron = \"45 * * * *\"\ncatch_up = \"all\"", "2026-01-01T11:30:00Z", 3 * 3600 + 60);
    sim.wait(1);
    let slots: Vec<String> = sim.states().into_iter().map(|(slot, _)| slot).collect();
    assert_eq!(slots, ["10:00", "11:00", "11:45", "12:45"]);
}

#[test]
fn an_invalid_file_waits_and_a_deleted_file_does_not() {
    let mut sim = Simulation::new("cron = \"@hourly\"\ncatch_up = \"all\"", "2026-01-01T09:30:00Z");
    let invalid = file(Err("invalid".to_owned()), sim.now);
    sim.scheduler.load(NAME.to_owned(), invalid, sim.now).unwrap();
    sim.wait(2 * 3600);
    assert!(sim.runs().is_empty());
    let refused = sim.scheduler.start(NAME, sim.now);
    assert!(matches!(refused, Err(ActionError::InvalidJob { .. })));
    let fixed = file(Ok(job("cron = \"@hourly\"\ncatch_up = \"all\"")), sim.now);
    sim.scheduler.load(NAME.to_owned(), fixed, sim.now).unwrap();
    sim.wait(1);
    assert_eq!(sim.states(), pairs(&[("10:00", "running"), ("11:00", "waiting")]));
    sim.scheduler.remove(NAME, sim.now).unwrap();
    sim.end(0);
    sim.wait(1);
    assert_eq!(sim.states(), pairs(&[("10:00", "done"), ("11:00", "skipped")]));
    assert!(matches!(sim.scheduler.start(NAME, sim.now), Err(ActionError::NoJob(_))));
}

#[test]
fn runs_are_started_stopped_and_retried_manually() {
    let mut sim = Simulation::new("cron = \"@daily\"", "2026-01-01T09:30:00Z");
    let id = sim.scheduler.start(NAME, sim.now).unwrap();
    assert_eq!(
        sim.scheduler.start(NAME, sim.now).unwrap(),
        id,
        "a second click does not start another run"
    );
    assert_eq!((sim.n_started(), sim.last().cause), (1, Cause::Manual));
    sim.wait(5);
    sim.scheduler.stop(id, sim.now).unwrap();
    assert_eq!(sim.calls.borrow().stopped.len(), 1);
    sim.end(130);
    assert_eq!(sim.last().state, State::Stopped);
    assert!(matches!(sim.scheduler.stop(id, sim.now), Err(ActionError::State { .. })));
    sim.scheduler.retry(id, sim.now).unwrap();
    assert_eq!((sim.n_started(), sim.last().state), (2, State::Running));
    sim.end(0);
    assert!(matches!(sim.scheduler.retry(id, sim.now), Err(ActionError::State { .. })));
    assert!(matches!(sim.scheduler.retry(99, sim.now), Err(ActionError::NoRun(99))));
    assert_eq!(sim.runs().len(), 1);
}

#[test]
fn draining_starts_nothing_and_loses_nothing() {
    let mut sim =
        Simulation::new("cron = \"* * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:59:59Z");
    sim.wait(1);
    sim.scheduler.drain();
    assert_eq!(sim.calls.borrow().stopped.len(), 1);
    sim.wait(60);
    assert_eq!(sim.n_started(), 1);
    assert!(!sim.scheduler.is_idle());
    assert!(matches!(sim.scheduler.start(NAME, sim.now), Err(ActionError::ShuttingDown)));
    sim.end(130);
    assert!(sim.scheduler.is_idle());
    let first = sim.runs().remove(0);
    assert_eq!((first.state, first.failures), (State::Waiting, 0), "a shutdown is not a failure");
    sim.restart("cron = \"* * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:00:00Z", 60);
    sim.wait(1);
    assert_eq!(sim.states()[0], ("10:00".to_owned(), "running"), "the same slot resumes first");
}

#[test]
fn hooks_run_at_the_final_state_and_again_after_a_restart() {
    let schedule = "cron = \"@hourly\"\nretries = 1\n[[hooks.on_failure]]\ncommand = [\"x\"]";
    let mut sim = Simulation::new(schedule, "2026-01-01T09:59:59Z");
    sim.wait(1);
    sim.end(4);
    assert!(sim.calls.borrow().deliveries.is_empty(), "it will be retried");
    sim.wait(60);
    sim.end(4);
    let deliveries = sim.calls.borrow().deliveries.clone();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].message["event"], "failure");
    assert_eq!(deliveries[0].message["slot"], "2026-01-01T10:00:00Z");
    assert_eq!(deliveries[0].message["tries"], 2);
    assert_eq!(deliveries[0].message["message"], "it ended with 4");
    assert!(!sim.scheduler.is_idle(), "the service waits for its hooks");
    sim.restart(schedule, "2026-01-01T09:00:00Z", 5);
    assert_eq!(sim.calls.borrow().deliveries.len(), 2);
    let run = sim.last().id;
    sim.scheduler.end_delivery(&DeliveryResult { run, problem: String::new() }).unwrap();
    assert_eq!(sim.last().delivery, DeliveryState::Delivered);
    sim.restart(schedule, "2026-01-01T09:00:00Z", 5);
    assert_eq!(sim.calls.borrow().deliveries.len(), 2);
}

#[test]
fn jobs_share_the_capacity() {
    let now = at("2026-01-01T09:59:59Z");
    let dir = tempfile::tempdir().unwrap();
    let effects = FakeEffects::default();
    let names = ["a.toml", "b.toml", "c.toml"];
    let files = names.map(|name| (name.to_owned(), file(Ok(job("cron = \"@hourly\"")), now)));
    let mut scheduler = open(dir.path(), effects.clone(), files.to_vec(), now);
    scheduler.tick(now + TimeDelta::seconds(1)).unwrap();
    assert_eq!(effects.0.borrow().started.len(), 2);
    let (attempt, _) = effects.0.borrow().started[0];
    let end = ProcessEnd::Code(0);
    let ended = Ended { attempt, end, report: None, log: String::new(), is_transient: false };
    scheduler.end_attempt(ended, now).unwrap();
    scheduler.tick(now + TimeDelta::seconds(2)).unwrap();
    assert_eq!(effects.0.borrow().started.len(), 3);
}

#[test]
fn no_job_starves() {
    let mut now = at("2026-01-01T09:59:59Z");
    let dir = tempfile::tempdir().unwrap();
    let effects = FakeEffects::default();
    let every_second = "cron = \"* * * * * *\"\ncatch_up = \"last\"";
    let names = ["a.toml", "b.toml", "c.toml"];
    let files = names.map(|name| (name.to_owned(), file(Ok(job(every_second)), now)));
    let history = History::open(&dir.path().join("history.db")).unwrap();
    history.disable_sync();
    let mut scheduler =
        Scheduler::new(dir.path(), history, effects.clone(), 1, files.to_vec(), now).unwrap();
    // Capacity for one run, and runs longer than the interval between slots.
    for _ in 0..9 {
        now += TimeDelta::seconds(3);
        scheduler.tick(now).unwrap();
        let (attempt, _) = *effects.0.borrow().started.last().unwrap();
        let end = ProcessEnd::Code(0);
        let ended = Ended { attempt, end, report: None, log: String::new(), is_transient: false };
        scheduler.end_attempt(ended, now).unwrap();
    }
    let runs = scheduler.history.latest_runs(None, 1000).unwrap();
    for name in names {
        let n_done = runs.iter().filter(|run| run.job == name && run.state == State::Done).count();
        assert_eq!(n_done, 3, "{name}");
    }
}
