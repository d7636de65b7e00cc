//! Exit codes, and errors with hints.

use std::process::ExitCode;

use anyhow::Error;
use legenda_pipeline::store::{StoreFault, fault_of};
use legenda_schemas::cause::{chain, messages};

use crate::{console::eprint, hint::hints};

/// The exit codes: an interface that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done; every row is answered or rejected.
    Done,
    /// 1: an internal error.
    Internal,
    /// 2: the command, job file, table, model or ONNX Runtime is invalid; no row was read.
    Config,
    /// 3: more rows were rejected than `limits.error_budget` allows; finished rows are committed.
    ErrorBudget,
    /// 4: the run failed; the same command resumes it.
    Resumable,
    /// 5: `verify` found a problem in an output.
    VerifyFailed,
    /// 130: interrupted by a signal; finished rows are committed.
    Interrupted,
}

impl Exit {
    /// Returns the code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 1,
            Self::Config => 2,
            Self::ErrorBudget => 3,
            Self::Resumable => 4,
            Self::VerifyFailed => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error to report to the user, with its exit code and hints.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    error: Error,
    hints: Vec<String>,
}

impl Failure {
    /// Creates a failure caused by invalid input or configuration.
    pub(crate) fn config(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Config, error: error.into(), hints: Vec::new() }
    }

    /// Creates a failure of a run that can be resumed.
    pub(crate) fn resumable(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Resumable, error: error.into(), hints: Vec::new() }
    }

    /// Creates a failure of a run that was interrupted.
    pub(crate) fn interrupted(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Interrupted, error: error.into(), hints: Vec::new() }
    }

    /// Creates an internal failure.
    pub(crate) fn internal(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Internal, error: error.into(), hints: Vec::new() }
    }

    /// Returns the error and its causes in one line.
    pub(crate) fn message(&self) -> String {
        chain(&*self.error)
    }

    /// Adds context to the error.
    pub(crate) fn context(self, context: &'static str) -> Self {
        Self { error: self.error.context(context), ..self }
    }

    /// Adds a hint, printed on its own line.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns whether the same command may succeed later without changes.
    pub(crate) fn is_transient(&self) -> bool {
        self.exit == Exit::Resumable || fault_of(&*self.error).is_some_and(StoreFault::may_pass)
    }

    /// Prints the error, its causes and the hints to stderr.
    pub(crate) fn print(&self) {
        let mut lines = messages(&*self.error).into_iter();
        eprint(&format!("error: {}", lines.next().unwrap_or_default()));
        for cause in lines {
            eprint(&format!("caused by: {cause}"));
        }
        for hint in hints(&*self.error).iter().chain(&self.hints) {
            eprint(&format!("hint: {hint}"));
        }
    }
}

/// Prints an error that does not end the command, its causes and its hints.
pub(crate) fn warn(error: &(dyn std::error::Error + 'static)) {
    eprint(&format!("warning: {}", chain(error)));
    for hint in hints(error) {
        eprint(&format!("hint: {hint}"));
    }
}
