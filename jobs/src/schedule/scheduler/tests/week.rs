//! A simulated week with a change of daylight saving time. Services crash between any two steps, are down
//! for minutes or hours, or shut down gracefully. Processes fail, are killed, or outlive their service.
//! Every slot is recorded once, and no finished slot is started again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    rc::Rc,
};

use chrono::{DateTime, TimeDelta, Utc};
use legenda_schemas::job::Job;

use super::{JOB, at};
use crate::schedule::{
    effects::{Delivery, DeliveryResult, Effects, Ended, ProcessEnd, Start},
    history::History,
    record::{AttemptId, Cause, DeliveryState, ProcessId, Run, RunId, Second, State},
    scheduler::{JobFile, Scheduler},
};

const HOOK: &str = "[[hooks.on_success]]\ncommand = [\"true\"]";

/// The jobs: name, schedule, and the minimum and maximum duration of a run in seconds.
const JOBS: [(&str, &str, i64, i64); 4] = [
    (
        "all.toml",
        "cron = \"*/10 * * * *\"\ntime_zone = \"Europe/Berlin\"\ncatch_up = \"all\"\njitter = \"2m\"\n\
         retries = 1000\nbackoff = \"20s\"\nbackoff_max = \"1m\"",
        20,
        600,
    ),
    (
        "nightly.toml",
        "cron = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"\ncatch_up = \"all\"\nretries = 1000",
        600,
        7200,
    ),
    ("last.toml", "cron = \"@hourly\"\nretries = 1000\nbackoff_max = \"2m\"", 60, 5000),
    ("none.toml", "cron = \"*/15 * * * *\"\ncatch_up = \"none\"\nretries = 1000", 30, 1200),
];

struct Process {
    id: ProcessId,
    attempt: AttemptId,
    slot: (String, Second),
    ends: DateTime<Utc>,
    end: ProcessEnd,
    service: u32,
}

/// Everything outside the service; it survives a crash of the service.
struct World {
    now: DateTime<Utc>,
    random: u64,
    processes: Vec<Process>,
    hooks: Vec<(DateTime<Utc>, RunId)>,
    n_deliveries: BTreeMap<RunId, u32>,
    /// Slots whose success was reported to a service.
    done: BTreeSet<(String, Second)>,
    service: u32,
    n_started: u32,
    n_interrupted: u32,
    is_calm: bool,
}

impl World {
    /// Returns a random number below `below` (xorshift64*, Vigna 2016, arXiv:1402.6246).
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }

    fn seconds(&mut self, from: i64, to: i64) -> TimeDelta {
        let draw = self.draw(u64::try_from(to - from + 1).unwrap());
        TimeDelta::seconds(from + i64::try_from(draw).unwrap())
    }

    fn crashes(&mut self) -> bool {
        !self.is_calm && self.draw(100) == 0
    }

    /// Ends the service: its processes notice and exit within their grace period.
    fn end_service(&mut self) {
        self.service += 1;
        self.hooks.clear();
        let now = self.now;
        for n in 0..self.processes.len() {
            let ends = now + self.seconds(0, 30);
            let process = &mut self.processes[n];
            if process.ends > ends {
                (process.ends, process.end) = (ends, ProcessEnd::Code(130));
                self.n_interrupted += 1;
            }
        }
    }
}

struct SimulatedEffects(Rc<RefCell<World>>);

/// Crashes the service.
fn crash() -> ! {
    // Unlike `panic!`, this prints nothing.
    resume_unwind(Box::new("crash"))
}

impl Effects for SimulatedEffects {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessId> {
        let mut world = self.0.borrow_mut();
        if world.crashes() {
            crash();
        }
        let slot = (start.run.job.clone(), start.run.slot);
        assert!(!world.done.contains(&slot), "{slot:?} was done");
        let other = world.processes.iter().find(|process| process.slot.0 == slot.0);
        assert!(other.is_none(), "{slot:?} overlaps {:?}", other.map(|process| &process.slot));
        world.n_started += 1;
        let (_, _, min, max) = JOBS.iter().find(|job| job.0 == slot.0).unwrap();
        let ends = world.now + world.seconds(*min, *max);
        let end = match world.draw(20) {
            0 => ProcessEnd::Code(4),
            1 => ProcessEnd::Code(1),
            2 => ProcessEnd::Killed,
            _ => ProcessEnd::Code(0),
        };
        // Process ids are reused.
        let pid = world.n_started % 50;
        let id = ProcessId { pid, start_time: u64::from(world.n_started) };
        let service = world.service;
        world.processes.push(Process { id, attempt: start.attempt, slot, ends, end, service });
        if world.crashes() {
            crash();
        }
        Ok(id)
    }

    fn stop(&mut self, attempt: AttemptId) {
        let mut world = self.0.borrow_mut();
        let ends = world.now + world.seconds(0, 30);
        let process = world.processes.iter_mut().find(|process| process.attempt == attempt);
        let process = process.unwrap();
        if process.ends > ends {
            (process.ends, process.end) = (ends, ProcessEnd::Code(130));
        }
    }

    fn is_alive(&mut self, process: ProcessId) -> bool {
        self.0.borrow().processes.iter().any(|running| running.id == process)
    }

    fn kill(&mut self, _: ProcessId) {
        panic!("every process exits within its grace period");
    }

    fn deliver(&mut self, delivery: Delivery) {
        let mut world = self.0.borrow_mut();
        if world.crashes() {
            crash();
        }
        assert_eq!(delivery.message["event"], "success");
        *world.n_deliveries.entry(delivery.run).or_default() += 1;
        let ends = world.now + world.seconds(0, 20);
        world.hooks.push((ends, delivery.run));
    }
}

type SharedWorld = Rc<RefCell<World>>;

fn open(dir: &Path, world: &SharedWorld) -> Scheduler<SimulatedEffects> {
    let history = History::open(&dir.join("history.db")).unwrap();
    history.disable_sync();
    let file = |(name, schedule, ..): (&str, &str, i64, i64)| {
        let text = format!("{JOB}\n[schedule]\n{schedule}\n{HOOK}");
        let job = Box::new(Job::parse(&text, &[]).unwrap());
        (name.to_owned(), JobFile { job: Ok(job), changed: Second(0) })
    };
    let files = JOBS.map(file).to_vec();
    let now = world.borrow().now;
    let effects = SimulatedEffects(Rc::clone(world));
    Scheduler::new(dir, history, effects, 3, files, now).unwrap()
}

/// Ends the processes and hooks that are due.
fn end_due(scheduler: &mut Scheduler<SimulatedEffects>, world: &SharedWorld) {
    let now = world.borrow().now;
    let is_due = |process: &mut Process| process.ends <= now;
    let ended: Vec<Process> = world.borrow_mut().processes.extract_if(.., is_due).collect();
    for process in ended {
        // Ends of processes of an earlier service are not reported.
        if process.service != world.borrow().service {
            continue;
        }
        if process.end == ProcessEnd::Code(0) {
            world.borrow_mut().done.insert(process.slot);
        }
        let ended = Ended {
            attempt: process.attempt,
            end: process.end,
            report: None,
            log: String::new(),
            is_transient: false,
        };
        scheduler.end_attempt(ended, now).unwrap();
    }
    let delivered: Vec<_> = world.borrow_mut().hooks.extract_if(.., |hook| hook.0 <= now).collect();
    for (_, run) in delivered {
        scheduler.end_delivery(&DeliveryResult { run, problem: String::new() }).unwrap();
    }
}

/// Simulates until `until`; returns the number of services.
fn simulate(dir: &Path, world: &SharedWorld, until: DateTime<Utc>) -> u32 {
    let mut n_services = 0;
    while world.borrow().now < until {
        n_services += 1;
        // It may crash during startup, too.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut scheduler = open(dir, world);
            serve(&mut scheduler, world, until);
        }));
        if let Err(cause) = result
            && cause.downcast_ref::<&str>() != Some(&"crash")
        {
            resume_unwind(cause);
        }
        let mut world = world.borrow_mut();
        world.end_service();
        // It is down for seconds, minutes or hours.
        let max = [5, 300, 10_000][usize::try_from(world.draw(3)).unwrap()];
        let downtime = world.seconds(0, max);
        world.now += downtime;
    }
    n_services
}

fn serve(scheduler: &mut Scheduler<SimulatedEffects>, world: &SharedWorld, until: DateTime<Utc>) {
    let (mut is_draining, ends) = (false, world.borrow().now);
    let ends = ends + world.borrow_mut().seconds(0, 12_000);
    loop {
        end_due(scheduler, world);
        let now = world.borrow().now;
        scheduler.tick(now).unwrap();
        if now >= until || (is_draining && scheduler.is_idle()) {
            return;
        }
        let mut random = world.borrow_mut();
        let step = random.seconds(1, 20);
        let must_end = now >= ends && !random.is_calm;
        let is_graceful = random.draw(2) == 0;
        random.now += step;
        drop(random);
        match must_end {
            true if is_graceful && !is_draining => {
                is_draining = true;
                scheduler.drain();
            }
            true if !is_draining => crash(),
            _ => {}
        }
    }
}

/// Returns the slots of a job after `from` up to `to`, derived from the daylight saving rules of Berlin and
/// not from the code under test.
fn expected(job: &str, from: i64, to: i64) -> Vec<i64> {
    let every =
        |seconds: i64| (from..=to).filter(move |second| second % seconds == 0 && *second > from);
    match job {
        "all.toml" => every(600).collect(),
        "last.toml" => every(3600).collect(),
        "none.toml" => every(900).collect(),
        // 02:30 in winter, 03:00 on the night without a 02:30, 02:30 in summer.
        _ => [
            "2026-03-27T01:30:00Z",
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
            "2026-03-31T00:30:00Z",
            "2026-04-01T00:30:00Z",
            "2026-04-02T00:30:00Z",
        ]
        .map(|slot| at(slot).timestamp())
        .to_vec(),
    }
}

fn simulate_week(seed: u64) {
    let (start, end) = (at("2026-03-26T12:00:00Z"), at("2026-04-02T12:00:00Z"));
    let dir = tempfile::tempdir().unwrap();
    let world = Rc::new(RefCell::new(World {
        now: start,
        random: seed,
        processes: Vec::new(),
        hooks: Vec::new(),
        n_deliveries: BTreeMap::new(),
        done: BTreeSet::new(),
        service: 0,
        n_started: 0,
        n_interrupted: 0,
        is_calm: false,
    }));
    let n_services = simulate(dir.path(), &world, end);
    // The last service runs undisturbed and finishes the rest; its own slots do not count.
    world.borrow_mut().is_calm = true;
    simulate(dir.path(), &world, end + TimeDelta::days(3));

    let history = History::open(&dir.path().join("history.db")).unwrap();
    for (job, ..) in JOBS {
        let runs: Vec<Run> = history.latest_runs(Some(job), usize::MAX).unwrap();
        let runs: Vec<&Run> =
            runs.iter().filter(|run| run.slot <= Second::from_instant(end)).collect();
        let mut slots: Vec<i64> = runs.iter().map(|run| run.slot.0).collect();
        slots.sort_unstable();
        assert_eq!(slots, expected(job, start.timestamp(), end.timestamp()), "{job}, seed {seed}");
        for run in &runs {
            let is_done = run.state == State::Done;
            let may_skip = ["last.toml", "none.toml"].contains(&job);
            assert!(is_done || (may_skip && run.state == State::Skipped), "seed {seed}: {run:?}");
            let world = world.borrow();
            assert_eq!(is_done, world.done.contains(&(run.job.clone(), run.slot)), "{run:?}");
            if is_done {
                assert_eq!(run.delivery, DeliveryState::Delivered, "seed {seed}: {run:?}");
                assert!(world.n_deliveries[&run.id] >= 1);
            }
            assert_eq!(run.cause, Cause::Schedule);
        }
        let n_done = runs.iter().filter(|run| run.state == State::Done).count();
        assert!(n_done * 4 > runs.len(), "{job}: {n_done} of {} done", runs.len());
    }
    let world = world.borrow();
    // The simulation had enough disturbances.
    let n_interrupted = world.n_interrupted;
    assert!(n_services > 40 && n_interrupted > 20, "{n_services} services, {n_interrupted} runs");
}

#[test]
fn every_slot_of_a_week_with_restarts_is_recorded_once() {
    for seed in [1, 2026, 0x5eed] {
        simulate_week(seed);
    }
}
