//! The side effects of the scheduler and their results. [`super::process`] implements them with real
//! processes, the tests simulate them.

use std::path::PathBuf;

use legenda_schemas::job::Hook;
use serde_json::Value;

use super::record::{AttemptId, ProcessId, Run, RunId};

/// The side effects of the scheduler.
pub(crate) trait Effects {
    /// Starts a child process for an attempt; its end is reported as [`Ended`].
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessId>;

    /// Asks the process of an attempt to stop; it is killed after its grace period.
    fn stop(&mut self, attempt: AttemptId);

    /// Returns whether a process is still alive, also one that an earlier service started.
    fn is_alive(&mut self, process: ProcessId) -> bool;

    /// Kills a process that an earlier service started.
    fn kill(&mut self, process: ProcessId);

    /// Delivers hooks; the result is reported as [`DeliveryResult`].
    fn deliver(&mut self, delivery: Delivery);
}

/// An attempt to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) attempt: AttemptId,
    pub(crate) run: &'a Run,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// It exited with a code.
    Code(i32),
    /// It was killed by a signal, or the cause is unknown.
    Killed,
}

impl ProcessEnd {
    /// Returns a short description.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Code(code) => format!("exit code {code}"),
            Self::Killed => "killed".to_owned(),
        }
    }
}

/// A finished attempt.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) attempt: AttemptId,
    pub(crate) end: ProcessEnd,
    /// The report that the process printed.
    pub(crate) report: Option<Value>,
    /// The last lines of its standard error.
    pub(crate) log: String,
    /// Whether the process reported a transient failure.
    pub(crate) is_transient: bool,
}

impl Ended {
    /// Returns the error that the process printed, with its causes.
    pub(crate) fn error_message(&self) -> Option<String> {
        let lines: Vec<&str> = self.log.lines().collect();
        let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
        let error = lines[at].strip_prefix("error: ")?;
        let causes = lines[at..].iter().filter_map(|line| line.strip_prefix("caused by: "));
        Some(std::iter::once(error).chain(causes).collect::<Vec<_>>().join(": "))
    }
}

/// A message to the hooks of a run that ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) run: RunId,
    pub(crate) hooks: Vec<Hook>,
    /// The working directory of commands.
    pub(crate) dir: PathBuf,
    /// The message, a JSON object.
    pub(crate) message: Value,
}

/// The result of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryResult {
    pub(crate) run: RunId,
    /// The errors; empty on success.
    pub(crate) problem: String,
}
