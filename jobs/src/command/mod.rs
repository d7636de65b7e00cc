//! The subcommands.

pub(crate) mod batch;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod inspect;
mod job;
pub(crate) mod manual;
pub(crate) mod models;
mod new_file;
mod open;
mod output;
pub(crate) mod report;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod verify;

pub(crate) use self::{
    job::{CheckedJob, check_job, plan_job, read_job},
    new_file::{already_exists, write_new},
    open::{bundle_failure, bundle_hint, open_bundle, open_hub, open_runtime},
    output::{is_config, ledger_failure},
};
pub(crate) use crate::console::{eprint, print};
