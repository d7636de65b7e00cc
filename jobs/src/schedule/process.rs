//! Runs as child processes: `legenda run JOB --progress json`. A crash of a run does not affect the
//! service. A run does not outlive the service for long: the service holds the other end of its
//! standard input, and the run stops when that is closed.

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
    effects::{Delivery, Effects, Ended, ProcessEnd, Start},
    hooks::HookSender,
    record::{AttemptId, ProcessId, RunId},
    reports::Reports,
    service::Event,
};

/// The time for a stopping run to finish rows in progress.
const GRACE: Duration = Duration::from_secs(30);

/// The time for it to exit after that, before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of polling a process.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum number of log lines kept of a process, and the maximum length of a line.
const LOG_LINES_MAX: usize = 100;
const LINE_BYTES_MAX: u64 = 1 << 20;

/// The options of starting runs.
#[derive(Clone, Debug)]
pub(crate) struct LaunchOptions {
    /// The path of this executable.
    pub(crate) binary: PathBuf,
    /// The folder of the job files.
    pub(crate) dir: PathBuf,
    /// The folder for the reports of runs.
    pub(crate) reports: Reports,
    /// Whether runs are started with `--offline`.
    pub(crate) offline: bool,
    /// The environment variable with the page token, removed from the environment of runs.
    pub(crate) secret_env: Option<String>,
}

/// The processes of runs, and the hook sender.
pub(crate) struct Processes {
    launch: LaunchOptions,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    hook_sender: HookSender,
    handles: HashMap<AttemptId, StopHandle>,
    system: Option<System>,
}

/// A handle to stop a process.
#[derive(Clone, Debug)]
struct StopHandle {
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    must_stop: Arc<AtomicBool>,
    must_kill: Arc<AtomicBool>,
}

impl Processes {
    /// Creates the effects; results are sent to `events`.
    pub(crate) fn new(
        launch: LaunchOptions,
        events: mpsc::Sender<Event>,
        board: Arc<Board>,
        hook_sender: HookSender,
    ) -> Self {
        // Without `system`, processes of an earlier service are not recognized; they get a fixed time.
        let system = System::new().ok();
        Self { launch, events, board, hook_sender, handles: HashMap::new(), system }
    }

    /// Kills every running process.
    pub(crate) fn kill_all(&self) {
        for handle in self.handles.values() {
            handle.must_kill.store(true, Relaxed);
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
        // A new process group, so that Ctrl-C reaches only the service, which then stops its runs.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    /// Returns the process with id `pid`, unless it is a zombie.
    fn find(&mut self, pid: u32) -> Option<&sysinfo::Process> {
        let system = self.system.as_mut()?;
        let pid = Pid::from_u32(pid);
        let processes = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(processes, true, ProcessRefreshKind::nothing());
        system.process(pid).filter(|process| process.status() != ProcessStatus::Zombie)
    }
}

impl Effects for Processes {
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessId> {
        let mut child = self.command(start).spawn()?;
        let pid = child.id();
        let handle = StopHandle {
            stdin: Arc::new(Mutex::new(child.stdin.take())),
            must_stop: Arc::default(),
            must_kill: Arc::default(),
        };
        self.handles.retain(|_, handle| Arc::strong_count(&handle.must_stop) > 1);
        self.handles.insert(start.attempt, handle.clone());
        let (attempt, run) = (start.attempt, start.run.id);
        let (events, board) = (self.events.clone(), Arc::clone(&self.board));
        let reports = self.launch.reports.clone();
        std::thread::Builder::new().name(format!("run-{run}")).spawn(move || {
            let ended = supervise(child, attempt, run, &handle, &board);
            reports.tidy();
            // The receiver is gone when the service stops.
            events.send(Event::ProcessEnded(ended)).ok();
        })?;
        let start_time = self.find(pid).map_or(0, sysinfo::Process::start_time);
        Ok(ProcessId { pid, start_time })
    }

    fn stop(&mut self, attempt: AttemptId) {
        if let Some(handle) = self.handles.get(&attempt) {
            handle.must_stop.store(true, Relaxed);
        }
    }

    fn is_alive(&mut self, process: ProcessId) -> bool {
        self.find(process.pid).is_some_and(|found| found.start_time() == process.start_time)
    }

    fn kill(&mut self, process: ProcessId) {
        if self.is_alive(process)
            && let Some(found) = self.find(process.pid)
        {
            found.kill();
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.hook_sender.send(delivery);
    }
}

/// Reads the output of a process and waits for its end.
fn supervise(
    mut child: Child,
    attempt: AttemptId,
    run: RunId,
    handle: &StopHandle,
    board: &Arc<Board>,
) -> Ended {
    let (sender, receiver) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        let board = Arc::clone(board);
        std::thread::spawn(move || {
            let mut output = ProcessOutput::default();
            output.read(stderr, |progress| board.set_progress(run, progress));
            sender.send(output).ok();
        });
    }
    let status = wait(&mut child, handle);
    // A grandchild that inherited standard error may keep it open after the process has ended.
    let output = receiver.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
    let end = status.and_then(|status| status.code()).map_or(ProcessEnd::Killed, ProcessEnd::Code);
    let ProcessOutput { lines, report, is_transient } = output;
    Ended { attempt, end, report, log: Vec::from(lines).join("\n"), is_transient }
}

/// Waits for a process; stops or kills it when requested.
fn wait(child: &mut Child, handle: &StopHandle) -> Option<ExitStatus> {
    let mut kill_at: Option<Instant> = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "failed to wait for the process of a run");
                return None;
            }
        }
        if handle.must_stop.load(Relaxed) && kill_at.is_none() {
            drop(handle.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
            kill_at = Some(Instant::now() + GRACE + EXIT_TIMEOUT);
        }
        let is_overdue = kill_at.is_some_and(|at| Instant::now() >= at);
        if (is_overdue || handle.must_kill.load(Relaxed))
            && let Err(error) = child.kill()
        {
            tracing::warn!(%error, "failed to kill the process of a run");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The parsed standard error of a process.
#[derive(Debug, Default)]
struct ProcessOutput {
    lines: VecDeque<String>,
    report: Option<Value>,
    is_transient: bool,
}

impl ProcessOutput {
    /// Reads all lines of `input`; calls `on_progress` for each progress line.
    fn read(&mut self, input: impl Read, mut on_progress: impl FnMut(RunProgress)) {
        let mut reader = BufReader::new(input);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let line = String::from_utf8_lossy(&line);
                    if let Some(progress) = self.push_line(line.trim_end()) {
                        on_progress(progress);
                    }
                }
            }
        }
    }

    /// Parses a line; returns its progress if it is a progress line.
    fn push_line(&mut self, line: &str) -> Option<RunProgress> {
        if line.starts_with('{')
            && let Ok(mut value) = serde_json::from_str::<Value>(line)
        {
            if let Some(report) = value.get_mut("report") {
                self.report = Some(report.take());
                return None;
            }
            if let Some(failure) = value.get("failure") {
                self.is_transient = failure["may_pass"] == true;
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
    use super::{LOG_LINES_MAX, ProcessOutput};

    #[test]
    fn progress_report_and_log_lines_are_separated() {
        let stderr = "caption · 4 rows · ready\n\
            {\"rows_planned\": 4, \"rows_done\": 2, \"rejects\": 1, \"rows_per_second\": 0.5, \"seconds_left\": null}\n\
            {\"report\": {\"rows_in\": 4}}\n{\"odd\": 1}\n\nerror: no space left\n";
        let (mut output, mut seen) = (ProcessOutput::default(), Vec::new());
        output.read(stderr.as_bytes(), |progress| seen.push(progress.rows_done));
        assert_eq!(seen, [2]);
        assert_eq!(output.report, Some(serde_json::json!({ "rows_in": 4 })));
        assert!(!output.is_transient);
        assert_eq!(
            output.lines,
            ["caption · 4 rows · ready", "{\"odd\": 1}", "error: no space left"]
        );
    }

    #[test]
    fn transient_failures_are_recognized() {
        let mut output = ProcessOutput::default();
        output.read(&b"{\"failure\": {\"may_pass\": true}}\nerror: no answer\n"[..], |_| {});
        assert!(output.is_transient);
        assert_eq!(output.lines, ["error: no answer"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let stderr: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let mut output = ProcessOutput::default();
        output.read(stderr.as_bytes(), |_| panic!("no progress"));
        assert_eq!(output.lines.len(), LOG_LINES_MAX);
        assert_eq!(output.lines.back().unwrap(), "line 999");
        let mut output = ProcessOutput::default();
        output.read("x".repeat(3 << 20).as_bytes(), |_| panic!("no progress"));
        assert!(output.lines.iter().all(|line| line.len() <= 1 << 20));
    }
}
