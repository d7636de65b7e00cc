//! A week with a change of the clocks, played in seconds: services crash between any two steps, stay
//! away for minutes or hours, are ended in order; processes fail, are killed, outlive their service for
//! a while. Every slot is there once, and no process is started for one that was done.

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
    history::History,
    outside::{Ended, Outside, ProcessEnd, Start, Tell, Told},
    record::{Cause, ProcessName, Run, RunId, Second, State, Telling, TryId},
    scheduler::{JobFile, Scheduler},
};

const HOOK: &str = "[[hooks.on_success]]\ncommand = [\"true\"]";

/// The jobs: their name, their schedule, and how long a run takes at least and at most, in seconds.
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
    name: ProcessName,
    at: TryId,
    slot: (String, Second),
    ends: DateTime<Utc>,
    end: ProcessEnd,
    service: u32,
}

/// Everything outside the service: it goes on when that dies.
struct World {
    now: DateTime<Utc>,
    random: u64,
    processes: Vec<Process>,
    hooks: Vec<(DateTime<Utc>, RunId)>,
    n_told: BTreeMap<RunId, u32>,
    /// Slots whose success a service has heard of.
    settled: BTreeSet<(String, Second)>,
    service: u32,
    n_started: u32,
    n_cut: u32,
    is_calm: bool,
}

impl World {
    /// Draws a number below `below` (xorshift64*, Vigna 2016, arXiv:1402.6246).
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

    /// The service is gone: what it started hears of it, and ends within its grace.
    fn cut_off(&mut self) {
        self.service += 1;
        self.hooks.clear();
        let now = self.now;
        for n in 0..self.processes.len() {
            let ends = now + self.seconds(0, 30);
            let process = &mut self.processes[n];
            if process.ends > ends {
                (process.ends, process.end) = (ends, ProcessEnd::Code(130));
                self.n_cut += 1;
            }
        }
    }
}

struct Played(Rc<RefCell<World>>);

/// Ends the service here and now.
fn crash() -> ! {
    // Unlike `panic!` it prints nothing.
    resume_unwind(Box::new("crash"))
}

impl Outside for Played {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessName> {
        let mut world = self.0.borrow_mut();
        if world.crashes() {
            crash();
        }
        let slot = (start.run.job.clone(), start.run.slot);
        assert!(!world.settled.contains(&slot), "{slot:?} was done");
        let beside = world.processes.iter().find(|process| process.slot.0 == slot.0);
        assert!(beside.is_none(), "{slot:?} runs beside {:?}", beside.map(|process| &process.slot));
        world.n_started += 1;
        let (_, _, least, most) = JOBS.iter().find(|job| job.0 == slot.0).unwrap();
        let ends = world.now + world.seconds(*least, *most);
        let end = match world.draw(20) {
            0 => ProcessEnd::Code(4),
            1 => ProcessEnd::Code(1),
            2 => ProcessEnd::Killed,
            _ => ProcessEnd::Code(0),
        };
        // Numbers of processes come again.
        let pid = world.n_started % 50;
        let name = ProcessName { pid, began: u64::from(world.n_started) };
        let service = world.service;
        world.processes.push(Process { name, at: start.at, slot, ends, end, service });
        if world.crashes() {
            crash();
        }
        Ok(name)
    }

    fn stop(&mut self, at: TryId) {
        let mut world = self.0.borrow_mut();
        let ends = world.now + world.seconds(0, 30);
        let process = world.processes.iter_mut().find(|process| process.at == at).unwrap();
        if process.ends > ends {
            (process.ends, process.end) = (ends, ProcessEnd::Code(130));
        }
    }

    fn is_alive(&mut self, process: ProcessName) -> bool {
        self.0.borrow().processes.iter().any(|there| there.name == process)
    }

    fn kill(&mut self, _: ProcessName) {
        panic!("every process ends within its grace");
    }

    fn tell(&mut self, telling: Tell) {
        let mut world = self.0.borrow_mut();
        if world.crashes() {
            crash();
        }
        assert_eq!(telling.message["event"], "success");
        *world.n_told.entry(telling.run).or_default() += 1;
        let ends = world.now + world.seconds(0, 20);
        world.hooks.push((ends, telling.run));
    }
}

type Shared = Rc<RefCell<World>>;

fn open(dir: &Path, world: &Shared) -> Scheduler<Played> {
    let history = History::open(&dir.join("history.db")).unwrap();
    history.hurry();
    let file = |(name, schedule, ..): (&str, &str, i64, i64)| {
        let text = format!("{JOB}\n[schedule]\n{schedule}\n{HOOK}");
        let job = Box::new(Job::parse(&text, &[]).unwrap());
        (name.to_owned(), JobFile { job: Ok(job), changed: Second(0) })
    };
    let files = JOBS.map(file).to_vec();
    let now = world.borrow().now;
    let played = Played(Rc::clone(world));
    Scheduler::new(dir, history, played, 3, files, now).unwrap()
}

/// Lets the processes and hooks end whose time it is.
fn deliver(scheduler: &mut Scheduler<Played>, world: &Shared) {
    let now = world.borrow().now;
    let over = |process: &mut Process| process.ends <= now;
    let ended: Vec<Process> = world.borrow_mut().processes.extract_if(.., over).collect();
    for process in ended {
        // Of those of an earlier service nobody hears.
        if process.service != world.borrow().service {
            continue;
        }
        if process.end == ProcessEnd::Code(0) {
            world.borrow_mut().settled.insert(process.slot);
        }
        let ended = Ended {
            at: process.at,
            end: process.end,
            report: None,
            log: String::new(),
            may_pass: false,
        };
        scheduler.ended(ended, now).unwrap();
    }
    let told: Vec<_> = world.borrow_mut().hooks.extract_if(.., |hook| hook.0 <= now).collect();
    for (_, run) in told {
        scheduler.told(&Told { run, problem: String::new() }).unwrap();
    }
}

/// Plays until `until`; returns how many services there were.
fn play(dir: &Path, world: &Shared, until: DateTime<Utc>) -> u32 {
    let mut n_services = 0;
    while world.borrow().now < until {
        n_services += 1;
        // A crash may come while it begins, too.
        let served = catch_unwind(AssertUnwindSafe(|| {
            let mut scheduler = open(dir, world);
            serve(&mut scheduler, world, until);
        }));
        if let Err(cause) = served
            && cause.downcast_ref::<&str>() != Some(&"crash")
        {
            resume_unwind(cause);
        }
        let mut world = world.borrow_mut();
        world.cut_off();
        // It is away for seconds, minutes or hours.
        let most = [5, 300, 10_000][usize::try_from(world.draw(3)).unwrap()];
        let away = world.seconds(0, most);
        world.now += away;
    }
    n_services
}

fn serve(scheduler: &mut Scheduler<Played>, world: &Shared, until: DateTime<Utc>) {
    let (mut drains, ends) = (false, world.borrow().now);
    let ends = ends + world.borrow_mut().seconds(0, 12_000);
    loop {
        deliver(scheduler, world);
        let now = world.borrow().now;
        scheduler.tick(now).unwrap();
        if now >= until || (drains && scheduler.is_idle()) {
            return;
        }
        let mut random = world.borrow_mut();
        let step = random.seconds(1, 20);
        let is_over = now >= ends && !random.is_calm;
        let in_order = random.draw(2) == 0;
        random.now += step;
        drop(random);
        match is_over {
            true if in_order && !drains => {
                drains = true;
                scheduler.drain();
            }
            true if !drains => crash(),
            _ => {}
        }
    }
}

/// The slots of a job that lie after `from` and up to `to`, from what the clocks of Berlin do that week
/// and not from the code under test.
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

fn play_a_week(seed: u64) {
    let (start, end) = (at("2026-03-26T12:00:00Z"), at("2026-04-02T12:00:00Z"));
    let dir = tempfile::tempdir().unwrap();
    let world = Rc::new(RefCell::new(World {
        now: start,
        random: seed,
        processes: Vec::new(),
        hooks: Vec::new(),
        n_told: BTreeMap::new(),
        settled: BTreeSet::new(),
        service: 0,
        n_started: 0,
        n_cut: 0,
        is_calm: false,
    }));
    let n_services = play(dir.path(), &world, end);
    // Nothing disturbs the last service, which does what is left; no slot of that time counts.
    world.borrow_mut().is_calm = true;
    play(dir.path(), &world, end + TimeDelta::days(3));

    let history = History::open(&dir.path().join("history.db")).unwrap();
    for (job, ..) in JOBS {
        let runs: Vec<Run> = history.newest(Some(job), usize::MAX).unwrap();
        let runs: Vec<&Run> = runs.iter().filter(|run| run.slot <= Second::of(end)).collect();
        let mut slots: Vec<i64> = runs.iter().map(|run| run.slot.0).collect();
        slots.sort_unstable();
        assert_eq!(slots, expected(job, start.timestamp(), end.timestamp()), "{job}, seed {seed}");
        for run in &runs {
            let is_done = run.state == State::Done;
            let may_skip = ["last.toml", "none.toml"].contains(&job);
            assert!(is_done || (may_skip && run.state == State::Skipped), "seed {seed}: {run:?}");
            let world = world.borrow();
            assert_eq!(is_done, world.settled.contains(&(run.job.clone(), run.slot)), "{run:?}");
            if is_done {
                assert_eq!(run.telling, Telling::Told, "seed {seed}: {run:?}");
                assert!(world.n_told[&run.id] >= 1);
            }
            assert_eq!(run.cause, Cause::Schedule);
        }
        let n_done = runs.iter().filter(|run| run.state == State::Done).count();
        assert!(n_done * 4 > runs.len(), "{job}: {n_done} of {} were done", runs.len());
    }
    let world = world.borrow();
    // The week was not a calm one.
    assert!(n_services > 40 && world.n_cut > 20, "{n_services} services, {} cut", world.n_cut);
}

#[test]
fn every_slot_of_a_week_with_restarts_is_there_once() {
    for seed in [1, 2026, 0x5eed] {
        play_a_week(seed);
    }
}
