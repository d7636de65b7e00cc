//! Commands that run a task on files without a job file: `caption`, `ask`, `transcribe`, `embed`. Each builds
//! a job and runs it as `legenda run` does.

mod destination;
mod input;
mod job;
mod request;
mod run;

pub(crate) use self::{request::Request, run::run};
