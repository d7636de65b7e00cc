//! What the scheduler does to the world outside, and what comes back. The real one starts processes
//! ([`super::process`]); that of the tests plays them.

use std::path::PathBuf;

use legenda_schemas::job::Hook;
use serde_json::Value;

use super::record::{ProcessName, Run, RunId, TryId};

/// The hands of the scheduler.
pub(crate) trait Outside {
    /// Starts a child process for a try; how it ends comes back as an [`Ended`].
    fn start(&mut self, start: &Start<'_>) -> std::io::Result<ProcessName>;

    /// Asks the process of a try to end; it is killed when it does not within its grace.
    fn stop(&mut self, at: TryId);

    /// Returns whether a process, of whatever service, is still there.
    fn is_alive(&mut self, process: ProcessName) -> bool;

    /// Kills a process that a service before this one started.
    fn kill(&mut self, process: ProcessName);

    /// Tells hooks; how that went comes back as a [`Told`].
    fn tell(&mut self, telling: Tell);
}

/// A try that begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) at: TryId,
    pub(crate) run: &'a Run,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// With an exit code.
    Code(i32),
    /// By a signal, or unknown.
    Killed,
}

impl ProcessEnd {
    /// Says it in a few words.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Code(code) => format!("exit code {code}"),
            Self::Killed => "killed".to_owned(),
        }
    }
}

/// A try that ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) at: TryId,
    pub(crate) end: ProcessEnd,
    /// The report that it printed.
    pub(crate) report: Option<Value>,
    /// The last lines that it wrote to standard error.
    pub(crate) log: String,
    /// Whether it said that the same may succeed later.
    pub(crate) may_pass: bool,
}

impl Ended {
    /// Returns what the process said went wrong, with the last cause of it.
    pub(crate) fn complaint(&self) -> Option<String> {
        let lines: Vec<&str> = self.log.lines().collect();
        let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
        let error = lines[at].strip_prefix("error: ")?;
        let cause = lines[at..].iter().rev().find_map(|line| line.strip_prefix("caused by: "));
        Some(cause.map_or_else(|| error.to_owned(), |cause| format!("{error}: {cause}")))
    }
}

/// Hooks to be told of the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tell {
    pub(crate) run: RunId,
    pub(crate) hooks: Vec<Hook>,
    /// The folder that commands are started in.
    pub(crate) dir: PathBuf,
    /// The message, a JSON object.
    pub(crate) message: Value,
}

/// How telling the hooks of a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) run: RunId,
    /// What went wrong; empty when nothing did.
    pub(crate) problem: String,
}
