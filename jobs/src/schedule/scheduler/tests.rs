//! The scheduler with a clock and processes that are played.

mod week;

use std::{cell::RefCell, path::Path, rc::Rc};

use chrono::{DateTime, TimeDelta, Utc};
use legenda_schemas::job::{Job, Schedule};

use super::{ActionError, JobFile, Scheduler};
use crate::schedule::{
    history::History,
    outside::{Ended, Outside, ProcessEnd, Start, Tell, Told},
    record::{Cause, ProcessName, Run, RunId, Second, State, Telling, TryId},
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

/// Reads a schedule with a pattern, and whatever else.
pub(crate) fn schedule(cron: &str) -> Schedule {
    *job(&format!("cron = \"{cron}\"")).schedule.map(Box::new).unwrap()
}

fn job(schedule: &str) -> Box<Job> {
    Box::new(Job::parse(&format!("{JOB}\n[schedule]\n{schedule}"), &[]).unwrap())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Notes what the scheduler does.
#[derive(Debug, Default)]
struct Notes {
    started: Vec<(TryId, RunId)>,
    stopped: Vec<TryId>,
    killed: Vec<u32>,
    told: Vec<Tell>,
    alive: Vec<u32>,
    refuses: bool,
}

#[derive(Clone, Debug, Default)]
struct Fake(Rc<RefCell<Notes>>);

impl Outside for Fake {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessName> {
        let mut notes = self.0.borrow_mut();
        if notes.refuses {
            return Err(std::io::Error::other("no more processes"));
        }
        notes.started.push((start.at, start.run.id));
        let pid = u32::try_from(start.at).unwrap();
        notes.alive.push(pid);
        Ok(ProcessName { pid, began: 1 })
    }

    fn stop(&mut self, at: TryId) {
        self.0.borrow_mut().stopped.push(at);
    }

    fn is_alive(&mut self, process: ProcessName) -> bool {
        self.0.borrow().alive.contains(&process.pid)
    }

    fn kill(&mut self, process: ProcessName) {
        let mut notes = self.0.borrow_mut();
        notes.killed.push(process.pid);
        notes.alive.retain(|pid| *pid != process.pid);
    }

    fn tell(&mut self, telling: Tell) {
        self.0.borrow_mut().told.push(telling);
    }
}

/// A scheduler, its notes and its clock.
struct Play {
    dir: tempfile::TempDir,
    scheduler: Scheduler<Fake>,
    notes: Rc<RefCell<Notes>>,
    now: DateTime<Utc>,
}

const NAME: &str = "job.toml";

fn file(job: Result<Box<Job>, String>, changed: DateTime<Utc>) -> JobFile {
    JobFile { job, changed: Second::of(changed) }
}

fn open(
    dir: &Path,
    fake: Fake,
    files: Vec<(String, JobFile)>,
    now: DateTime<Utc>,
) -> Scheduler<Fake> {
    let history = History::open(&dir.join("history.db")).unwrap();
    history.hurry();
    Scheduler::new(dir, history, fake, 2, files, now).unwrap()
}

impl Play {
    fn new(schedule: &str, now: &str) -> Self {
        let (dir, now, fake) = (tempfile::tempdir().unwrap(), at(now), Fake::default());
        let notes = Rc::clone(&fake.0);
        let files = vec![(NAME.to_owned(), file(Ok(job(schedule)), now))];
        let scheduler = open(dir.path(), fake, files, now);
        Self { dir, scheduler, notes, now }
    }

    /// Lets a new service take over `seconds` later, with the job as it is now.
    fn restart(&mut self, schedule: &str, changed: &str, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
        let files = vec![(NAME.to_owned(), file(Ok(job(schedule)), at(changed)))];
        self.scheduler = open(self.dir.path(), Fake(Rc::clone(&self.notes)), files, self.now);
    }

    fn wait(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
        self.scheduler.tick(self.now).unwrap();
    }

    /// Ends the process that was started last.
    fn end(&mut self, code: i32) {
        let (at, _) = *self.notes.borrow().started.last().unwrap();
        self.notes.borrow_mut().alive.clear();
        let log = format!("something\nerror: it ended with {code}\nhint: none");
        let ended = Ended { at, end: ProcessEnd::Code(code), report: None, log, may_pass: false };
        self.scheduler.ended(ended, self.now).unwrap();
    }

    fn n_started(&self) -> usize {
        self.notes.borrow().started.len()
    }

    /// Returns the runs, the oldest first.
    fn runs(&self) -> Vec<Run> {
        let mut runs = self.scheduler.history.newest(None, 1000).unwrap();
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
fn a_slot_runs_once_and_only_when_it_comes() {
    let mut play = Play::new("cron = \"0 * * * *\"", "2026-01-01T09:59:58Z");
    play.wait(1);
    assert_eq!(play.n_started(), 0, "it is not due yet, and no slot before the first look counts");
    play.wait(1);
    assert_eq!(play.n_started(), 1);
    play.wait(1);
    play.end(0);
    play.wait(1);
    assert_eq!(play.n_started(), 1);
    assert_eq!(play.states(), pairs(&[("10:00", "done")]));
}

#[test]
fn exit_codes_decide_how_a_run_goes_on() {
    for (code, expected, is_tried_again) in [
        (0, State::Done, false),
        (1, State::Waiting, true),
        (2, State::Failed, false),
        (3, State::Failed, false),
        (4, State::Waiting, true),
        (130, State::Waiting, true),
    ] {
        let mut play = Play::new("cron = \"@hourly\"\nretries = 1", "2026-01-01T09:59:59Z");
        play.wait(1);
        play.end(code);
        assert_eq!(play.last().state, expected, "{code}");
        if code != 0 {
            let message = play.last().message;
            assert!(message.contains(&format!("it ended with {code}")), "{message}");
        }
        play.wait(59);
        assert_eq!(play.n_started(), 1, "{code}: the first wait is a minute");
        play.wait(1);
        assert_eq!(play.n_started(), if is_tried_again { 2 } else { 1 }, "{code}");
        if is_tried_again {
            play.end(code);
            assert_eq!(play.last().state, State::Failed, "{code}: no try is left");
            assert_eq!((play.last().failures, play.last().n_tries), (2, 2));
        }
    }
}

#[test]
fn a_process_that_cannot_start_is_tried_again() {
    let mut play = Play::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    play.notes.borrow_mut().refuses = true;
    play.wait(1);
    let run = play.last();
    assert_eq!((run.state, run.failures), (State::Waiting, 1));
    assert!(run.message.contains("no more processes"), "{}", run.message);
    play.notes.borrow_mut().refuses = false;
    play.wait(60);
    assert_eq!(play.n_started(), 1);
}

#[test]
fn slots_that_come_during_a_run_wait_are_skipped_or_overlap() {
    for (catch_up, expected) in [
        ("all", pairs(&[("10:00", "done"), ("11:00", "running"), ("12:00", "waiting")])),
        ("last", pairs(&[("10:00", "done"), ("11:00", "skipped"), ("12:00", "running")])),
        ("none", pairs(&[("10:00", "done"), ("11:00", "skipped"), ("12:00", "skipped")])),
    ] {
        let schedule = format!("cron = \"@hourly\"\ncatch_up = \"{catch_up}\"");
        let mut play = Play::new(&schedule, "2026-01-01T09:59:59Z");
        play.wait(1);
        play.wait(3600);
        play.wait(3600);
        assert_eq!(play.n_started(), 1, "{catch_up}: no run beside another");
        play.end(0);
        play.wait(1);
        assert_eq!(play.states(), expected, "{catch_up}");
    }
}

#[test]
fn slots_of_a_time_without_service_are_caught_up_with() {
    for (catch_up, expected) in [
        ("all", pairs(&[("10:00", "running"), ("11:00", "waiting"), ("12:00", "waiting")])),
        ("last", pairs(&[("10:00", "skipped"), ("11:00", "skipped"), ("12:00", "running")])),
        ("none", pairs(&[("10:00", "skipped"), ("11:00", "skipped"), ("12:00", "skipped")])),
    ] {
        let schedule = format!("cron = \"@hourly\"\ncatch_up = \"{catch_up}\"");
        let mut play = Play::new(&schedule, "2026-01-01T09:30:00Z");
        play.wait(1);
        play.restart(&schedule, "2026-01-01T09:00:00Z", 3 * 3600 - 1);
        play.wait(1);
        assert_eq!(play.states(), expected, "{catch_up}");
        play.restart(&schedule, "2026-01-01T09:00:00Z", 2);
        play.wait(1);
        assert_eq!(play.runs().len(), 3, "{catch_up}: nothing is doubled");
    }
}

#[test]
fn a_run_that_a_restart_cut_off_goes_on_as_the_same_slot_once_its_process_is_gone() {
    let mut play = Play::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    play.wait(1);
    play.restart("cron = \"@hourly\"", "2026-01-01T09:00:00Z", 5);
    play.wait(1);
    assert_eq!(play.n_started(), 1, "its process is still there");
    play.notes.borrow_mut().alive.clear();
    play.wait(1);
    assert_eq!(play.n_started(), 2);
    play.end(0);
    let run = play.last();
    assert_eq!((run.state, run.failures, run.n_tries), (State::Done, 0, 2));
    assert_eq!(play.runs().len(), 1);
}

#[test]
fn a_process_of_an_earlier_service_that_does_not_end_is_killed() {
    let mut play = Play::new("cron = \"@hourly\"", "2026-01-01T09:59:59Z");
    play.wait(1);
    play.restart("cron = \"@hourly\"", "2026-01-01T09:00:00Z", 5);
    play.wait(59);
    assert!(play.notes.borrow().killed.is_empty());
    play.wait(1);
    assert_eq!(play.notes.borrow().killed.len(), 1);
    play.wait(1);
    assert_eq!(play.n_started(), 2);
}

#[test]
fn an_unset_timeout_never_comes_and_a_set_one_stops() {
    let mut play =
        Play::new("cron = \"@daily\"\ntimeout = \"10m\"\nretries = 0", "2026-01-01T23:59:59Z");
    play.wait(1);
    play.wait(599);
    assert!(play.notes.borrow().stopped.is_empty());
    play.wait(1);
    play.wait(1);
    assert_eq!(play.notes.borrow().stopped.len(), 1, "it is asked once");
    play.end(130);
    assert_eq!(play.last().state, State::Failed);
    assert!(play.last().message.contains("schedule.timeout"));
    let mut patient = Play::new("cron = \"@daily\"", "2026-01-01T23:59:59Z");
    patient.wait(1);
    patient.wait(80_000);
    assert!(patient.notes.borrow().stopped.is_empty());
}

#[test]
fn a_new_pattern_counts_from_when_the_file_changed() {
    let mut play = Play::new("cron = \"0 * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:59:00Z");
    play.wait(1);
    // Down from 09:59 to 13:00; at 11:30 somebody wrote another pattern.
    play.restart(
        "cron = \"45 * * * *\"\ncatch_up = \"all\"",
        "2026-01-01T11:30:00Z",
        3 * 3600 + 60,
    );
    play.wait(1);
    let slots: Vec<String> = play.states().into_iter().map(|(slot, _)| slot).collect();
    assert_eq!(slots, ["10:00", "11:00", "11:45", "12:45"]);
}

#[test]
fn a_broken_file_waits_to_be_mended_and_a_lost_one_does_not() {
    let mut play = Play::new("cron = \"@hourly\"\ncatch_up = \"all\"", "2026-01-01T09:30:00Z");
    let broken = file(Err("no job".to_owned()), play.now);
    play.scheduler.load(NAME.to_owned(), broken, play.now).unwrap();
    play.wait(2 * 3600);
    assert!(play.runs().is_empty());
    let refused = play.scheduler.start(NAME, play.now);
    assert!(matches!(refused, Err(ActionError::Broken { .. })));
    let mended = file(Ok(job("cron = \"@hourly\"\ncatch_up = \"all\"")), play.now);
    play.scheduler.load(NAME.to_owned(), mended, play.now).unwrap();
    play.wait(1);
    assert_eq!(play.states(), pairs(&[("10:00", "running"), ("11:00", "waiting")]));
    play.scheduler.drop_job(NAME, play.now).unwrap();
    play.end(0);
    play.wait(1);
    assert_eq!(play.states(), pairs(&[("10:00", "done"), ("11:00", "skipped")]));
    assert!(matches!(play.scheduler.start(NAME, play.now), Err(ActionError::NoJob(_))));
}

#[test]
fn runs_are_started_stopped_and_tried_again_by_hand() {
    let mut play = Play::new("cron = \"@daily\"", "2026-01-01T09:30:00Z");
    let id = play.scheduler.start(NAME, play.now).unwrap();
    assert_eq!(
        play.scheduler.start(NAME, play.now).unwrap(),
        id,
        "a second click is the same start"
    );
    assert_eq!((play.n_started(), play.last().cause), (1, Cause::Hand));
    play.wait(5);
    play.scheduler.stop(id, play.now).unwrap();
    assert_eq!(play.notes.borrow().stopped.len(), 1);
    play.end(130);
    assert_eq!(play.last().state, State::Stopped);
    assert!(matches!(play.scheduler.stop(id, play.now), Err(ActionError::State { .. })));
    play.scheduler.retry(id, play.now).unwrap();
    assert_eq!((play.n_started(), play.last().state), (2, State::Running));
    play.end(0);
    assert!(matches!(play.scheduler.retry(id, play.now), Err(ActionError::State { .. })));
    assert!(matches!(play.scheduler.retry(99, play.now), Err(ActionError::NoRun(99))));
    assert_eq!(play.runs().len(), 1);
}

#[test]
fn draining_begins_nothing_and_loses_nothing() {
    let mut play = Play::new("cron = \"* * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:59:59Z");
    play.wait(1);
    play.scheduler.drain();
    assert_eq!(play.notes.borrow().stopped.len(), 1);
    play.wait(60);
    assert_eq!(play.n_started(), 1);
    assert!(!play.scheduler.is_idle());
    assert!(matches!(play.scheduler.start(NAME, play.now), Err(ActionError::Ending)));
    play.end(130);
    assert!(play.scheduler.is_idle());
    let first = play.runs().remove(0);
    assert_eq!((first.state, first.failures), (State::Waiting, 0), "it is nobody's failure");
    play.restart("cron = \"* * * * *\"\ncatch_up = \"all\"", "2026-01-01T09:00:00Z", 60);
    play.wait(1);
    assert_eq!(play.states()[0], ("10:00".to_owned(), "running"), "the same slot goes on first");
}

#[test]
fn hooks_are_told_when_a_run_is_over_for_good_and_again_after_a_crash_before_that() {
    let schedule = "cron = \"@hourly\"\nretries = 1\n[[hooks.on_failure]]\ncommand = [\"x\"]";
    let mut play = Play::new(schedule, "2026-01-01T09:59:59Z");
    play.wait(1);
    play.end(4);
    assert!(play.notes.borrow().told.is_empty(), "it is tried again");
    play.wait(60);
    play.end(4);
    let told = play.notes.borrow().told.clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].message["event"], "failure");
    assert_eq!(told[0].message["slot"], "2026-01-01T10:00:00Z");
    assert_eq!(told[0].message["tries"], 2);
    assert_eq!(told[0].message["message"], "it ended with 4");
    assert!(!play.scheduler.is_idle(), "the service waits for its hooks");
    play.restart(schedule, "2026-01-01T09:00:00Z", 5);
    assert_eq!(play.notes.borrow().told.len(), 2);
    let run = play.last().id;
    play.scheduler.told(&Told { run, problem: String::new() }).unwrap();
    assert_eq!(play.last().telling, Telling::Told);
    play.restart(schedule, "2026-01-01T09:00:00Z", 5);
    assert_eq!(play.notes.borrow().told.len(), 2);
}

#[test]
fn jobs_share_the_places_and_none_has_two() {
    let now = at("2026-01-01T09:59:59Z");
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let names = ["a.toml", "b.toml", "c.toml"];
    let files = names.map(|name| (name.to_owned(), file(Ok(job("cron = \"@hourly\"")), now)));
    let mut scheduler = open(dir.path(), fake.clone(), files.to_vec(), now);
    scheduler.tick(now + TimeDelta::seconds(1)).unwrap();
    assert_eq!(fake.0.borrow().started.len(), 2);
    let (at, _) = fake.0.borrow().started[0];
    let ended =
        Ended { at, end: ProcessEnd::Code(0), report: None, log: String::new(), may_pass: false };
    scheduler.ended(ended, now).unwrap();
    scheduler.tick(now + TimeDelta::seconds(2)).unwrap();
    assert_eq!(fake.0.borrow().started.len(), 3);
}

#[test]
fn no_job_waits_for_ever_behind_others() {
    let mut now = at("2026-01-01T09:59:59Z");
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let every_second = "cron = \"* * * * * *\"\ncatch_up = \"last\"";
    let names = ["a.toml", "b.toml", "c.toml"];
    let files = names.map(|name| (name.to_owned(), file(Ok(job(every_second)), now)));
    let history = History::open(&dir.path().join("history.db")).unwrap();
    history.hurry();
    let mut scheduler =
        Scheduler::new(dir.path(), history, fake.clone(), 1, files.to_vec(), now).unwrap();
    // One place, and runs that are longer than the time between slots.
    for _ in 0..9 {
        now += TimeDelta::seconds(3);
        scheduler.tick(now).unwrap();
        let (at, _) = *fake.0.borrow().started.last().unwrap();
        let end = ProcessEnd::Code(0);
        let ended = Ended { at, end, report: None, log: String::new(), may_pass: false };
        scheduler.ended(ended, now).unwrap();
    }
    let runs = scheduler.history.newest(None, 1000).unwrap();
    for name in names {
        let n_done = runs.iter().filter(|run| run.job == name && run.state == State::Done).count();
        assert_eq!(n_done, 3, "{name}");
    }
}
