//! How the program ends: exit codes, and errors with hints.

use std::process::ExitCode;

use anyhow::Error;
use legenda_pipeline::store::{StoreFault, fault_of};

use crate::console::tell;

/// The exit codes: an interface that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done; every row is accounted for.
    Done,
    /// 1: a fault of this program.
    Fault,
    /// 2: the command, job file, schema, model or ONNX Runtime is wrong; nothing was read.
    Config,
    /// 3: more rows were rejected than `limits.error_budget` allows; what was done is committed.
    ErrorBudget,
    /// 4: the run failed and can be resumed by the same command.
    Resumable,
    /// 5: `verify` found something wrong with an output.
    Unsound,
    /// 130: interrupted by a signal; what was done is committed.
    Interrupted,
}

impl Exit {
    /// Returns the code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Fault => 1,
            Self::Config => 2,
            Self::ErrorBudget => 3,
            Self::Resumable => 4,
            Self::Unsound => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    error: Error,
    hints: Vec<String>,
}

impl Failure {
    /// Something the user wrote is wrong.
    pub(crate) fn config(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Config, error: error.into(), hints: Vec::new() }
    }

    /// A run that can be resumed.
    pub(crate) fn resumable(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Resumable, error: error.into(), hints: Vec::new() }
    }

    /// A run that somebody ended before its time.
    pub(crate) fn interrupted(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Interrupted, error: error.into(), hints: Vec::new() }
    }

    /// A fault of this program.
    pub(crate) fn fault(error: impl Into<Error>) -> Self {
        Self { exit: Exit::Fault, error: error.into(), hints: Vec::new() }
    }

    /// Returns the error and its causes, in a line.
    pub(crate) fn message(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Says what the error came of.
    pub(crate) fn context(self, context: &'static str) -> Self {
        Self { error: self.error.context(context), ..self }
    }

    /// Adds a line that says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns whether the same command may succeed later, with nothing changed.
    pub(crate) fn may_pass(&self) -> bool {
        self.exit == Exit::Resumable || self.store_fault().is_some_and(StoreFault::may_pass)
    }

    fn store_fault(&self) -> Option<&StoreFault> {
        fault_of(&*self.error)
    }

    /// Prints the error, its causes and the hints to stderr.
    pub(crate) fn print(&self) {
        let mut said = messages(&self.error).into_iter();
        tell(&format!("error: {}", said.next().unwrap_or_default()));
        for cause in said {
            tell(&format!("caused by: {cause}"));
        }
        for hint in self.hints.iter().chain(&self.store_fault().and_then(StoreFault::hint)) {
            tell(&format!("hint: {hint}"));
        }
    }
}

/// Returns the messages of an error and of its causes, but for causes that those above them repeat.
pub(crate) fn messages(error: &Error) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !said.iter().any(|line| line.contains(&text)) {
            said.push(text);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::messages;

    #[test]
    fn causes_are_said_once() {
        let cause = Err::<(), _>(anyhow!("the bucket does not exist"));
        let error =
            cause.context("cannot read `s3://b`: the bucket does not exist").context("no table");
        assert_eq!(
            messages(&error.unwrap_err()),
            ["no table", "cannot read `s3://b`: the bucket does not exist"]
        );
    }
}
