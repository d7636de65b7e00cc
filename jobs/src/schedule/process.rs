//! Runs as child processes of this program: `legenda run JOB --progress json`. A crash of a run never
//! takes the service down, and a run never outlives the service for long: it stops when its standard
//! input, a pipe that the service holds, comes to its end.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

use super::{
    board::{Board, RunProgress},
    hooks::Teller,
    outside::{Ended, Outside, ProcessEnd, Start, Tell},
    record::{ProcessName, RunId, TryId},
    reports::Reports,
    service::Event,
};

/// How long a run that is asked to stop may finish the rows at work.
const GRACE: Duration = Duration::from_secs(30);

/// How much longer it may take to end before it is killed.
const GRACE_AFTER: Duration = Duration::from_secs(5);

/// How often a process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The lines, and the bytes of a line, that are kept of what a process says.
const LOG_LINES_MAX: usize = 100;
const LINE_BYTES_MAX: u64 = 1 << 20;

/// How runs are started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// This program.
    pub(crate) binary: PathBuf,
    /// The folder of the job files.
    pub(crate) dir: PathBuf,
    /// Where the pages about runs go.
    pub(crate) reports: Reports,
    /// Whether runs may fetch nothing.
    pub(crate) offline: bool,
    /// An environment variable that runs are not given: it holds the page's token.
    pub(crate) secret_env: Option<String>,
}

/// The processes of runs, and the hooks.
pub(crate) struct Processes {
    launch: Launch,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    teller: Teller,
    reins: HashMap<TryId, Reins>,
    system: Option<System>,
}

/// What stops a process.
#[derive(Clone, Debug)]
struct Reins {
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    is_stopped: Arc<AtomicBool>,
    is_abandoned: Arc<AtomicBool>,
}

impl Processes {
    /// Returns hands that start runs by `launch`; what comes back goes to `events`.
    pub(crate) fn new(
        launch: Launch,
        events: mpsc::Sender<Event>,
        board: Arc<Board>,
        teller: Teller,
    ) -> Self {
        // Without it no process of an earlier service is recognised, and its time is waited for.
        let system = System::new().ok();
        Self { launch, events, board, teller, reins: HashMap::new(), system }
    }

    /// Kills every process at work.
    pub(crate) fn abandon(&self) {
        for reins in self.reins.values() {
            reins.is_abandoned.store(true, Relaxed);
        }
    }

    fn command(&self, start: &Start<'_>) -> Command {
        let mut command = Command::new(&self.launch.binary);
        command
            .arg("run")
            .arg(self.launch.dir.join(&start.run.job))
            .args(["--progress", "json", "--until-eof", "--grace"])
            .arg(GRACE.as_secs().to_string())
            .arg("--report-to")
            .arg(self.launch.reports.path(start.run.id))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if self.launch.offline {
            command.arg("--offline");
        }
        if let Some(name) = &self.launch.secret_env {
            command.env_remove(name);
        }
        // Ctrl-C at a terminal is for the service alone, which then stops its runs once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    /// Returns the process with a number, if it is there and no zombie.
    fn find(&mut self, pid: u32) -> Option<&sysinfo::Process> {
        let system = self.system.as_mut()?;
        let pid = Pid::from_u32(pid);
        let which = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(which, true, ProcessRefreshKind::nothing());
        system.process(pid).filter(|process| process.status() != ProcessStatus::Zombie)
    }
}

impl Outside for Processes {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessName> {
        let mut child = self.command(start).spawn()?;
        let pid = child.id();
        let reins = Reins {
            stdin: Arc::new(Mutex::new(child.stdin.take())),
            is_stopped: Arc::default(),
            is_abandoned: Arc::default(),
        };
        self.reins.retain(|_, reins| Arc::strong_count(&reins.is_stopped) > 1);
        self.reins.insert(start.at, reins.clone());
        let (at, run) = (start.at, start.run.id);
        let (events, board) = (self.events.clone(), Arc::clone(&self.board));
        let reports = self.launch.reports.clone();
        std::thread::Builder::new().name(format!("run-{run}")).spawn(move || {
            let ended = attend(child, at, run, &reins, &board);
            reports.tidy();
            // Nobody listens any more when the service ends.
            events.send(Event::Ended(ended)).ok();
        })?;
        let began = self.find(pid).map_or(0, sysinfo::Process::start_time);
        Ok(ProcessName { pid, began })
    }

    fn stop(&mut self, at: TryId) {
        if let Some(reins) = self.reins.get(&at) {
            reins.is_stopped.store(true, Relaxed);
        }
    }

    fn is_alive(&mut self, process: ProcessName) -> bool {
        self.find(process.pid).is_some_and(|found| found.start_time() == process.began)
    }

    fn kill(&mut self, process: ProcessName) {
        if self.is_alive(process)
            && let Some(found) = self.find(process.pid)
        {
            found.kill();
        }
    }

    fn tell(&mut self, telling: Tell) {
        self.teller.tell(telling);
    }
}

/// Stays with a process to its end.
fn attend(mut child: Child, at: TryId, run: RunId, reins: &Reins, board: &Arc<Board>) -> Ended {
    let (said, hearing) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        let board = Arc::clone(board);
        std::thread::spawn(move || {
            let mut heard = Heard::default();
            heard.listen(stderr, |progress| board.show_progress(run, progress));
            said.send(heard).ok();
        });
    }
    let status = wait(&mut child, reins);
    // Whoever inherited standard error may keep it open for longer than this process lived.
    let heard = hearing.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
    let end = status.and_then(|status| status.code()).map_or(ProcessEnd::Killed, ProcessEnd::Code);
    let Heard { lines, report, may_pass } = heard;
    Ended { at, end, report, log: Vec::from(lines).join("\n"), may_pass }
}

/// Waits for a process; stops and kills it when that is asked for.
fn wait(child: &mut Child, reins: &Reins) -> Option<ExitStatus> {
    let mut killed_at: Option<Instant> = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "cannot wait for the process of a run");
                return None;
            }
        }
        if reins.is_stopped.load(Relaxed) && killed_at.is_none() {
            drop(reins.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
            killed_at = Some(Instant::now() + GRACE + GRACE_AFTER);
        }
        let is_over = killed_at.is_some_and(|at| Instant::now() >= at);
        if (is_over || reins.is_abandoned.load(Relaxed))
            && let Err(error) = child.kill()
        {
            tracing::warn!(%error, "cannot kill the process of a run");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a process said.
#[derive(Debug, Default)]
struct Heard {
    lines: VecDeque<String>,
    report: Option<Value>,
    may_pass: bool,
}

impl Heard {
    fn listen(&mut self, from: impl Read, mut progress: impl FnMut(RunProgress)) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if let Some(made) = self.take(String::from_utf8_lossy(&line).trim_end()) {
                        progress(made);
                    }
                }
            }
        }
    }

    /// Takes a line; returns the progress that it tells.
    fn take(&mut self, line: &str) -> Option<RunProgress> {
        if line.starts_with('{')
            && let Ok(mut value) = serde_json::from_str::<Value>(line)
        {
            if let Some(report) = value.get_mut("report") {
                self.report = Some(report.take());
                return None;
            }
            if let Some(failure) = value.get("failure") {
                self.may_pass = failure["may_pass"] == true;
                return None;
            }
            if let Ok(progress) = serde_json::from_value(value) {
                return Some(progress);
            }
        }
        if !line.is_empty() {
            self.lines.push_back(line.to_owned());
            if self.lines.len() > LOG_LINES_MAX {
                self.lines.pop_front();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, LOG_LINES_MAX};

    #[test]
    fn progress_report_and_complaints_are_told_apart() {
        let said = "caption · 4 rows · ready\n\
            {\"rows_planned\": 4, \"rows_done\": 2, \"rejects\": 1, \"rows_per_second\": 0.5, \"seconds_left\": null}\n\
            {\"report\": {\"rows_in\": 4}}\n{\"odd\": 1}\n\nerror: no space left\n";
        let (mut heard, mut seen) = (Heard::default(), Vec::new());
        heard.listen(said.as_bytes(), |progress| seen.push(progress.rows_done));
        assert_eq!(seen, [2]);
        assert_eq!(heard.report, Some(serde_json::json!({ "rows_in": 4 })));
        assert!(!heard.may_pass);
        assert_eq!(
            heard.lines,
            ["caption · 4 rows · ready", "{\"odd\": 1}", "error: no space left"]
        );
    }

    #[test]
    fn a_failure_that_may_pass_is_told_by_the_process() {
        let mut heard = Heard::default();
        heard.listen(&b"{\"failure\": {\"may_pass\": true}}\nerror: no answer\n"[..], |_| {});
        assert!(heard.may_pass);
        assert_eq!(heard.lines, ["error: no answer"]);
    }

    #[test]
    fn of_a_talkative_process_the_end_is_kept() {
        let said: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let mut heard = Heard::default();
        heard.listen(said.as_bytes(), |_| panic!("no progress"));
        assert_eq!(heard.lines.len(), LOG_LINES_MAX);
        assert_eq!(heard.lines.back().unwrap(), "line 999");
        let mut heard = Heard::default();
        heard.listen("x".repeat(3 << 20).as_bytes(), |_| panic!("no progress"));
        assert!(heard.lines.iter().all(|line| line.len() <= 1 << 20));
    }
}
