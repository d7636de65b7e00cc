//! The exclusion of other runs from a folder.

use std::fs::File;

use super::{error::WriteError, lease::Lease};

pub(super) const LOCK: &str = "_legenda/lock";
pub(super) const LEASE: &str = "_legenda/lease.json";

/// The lock or lease that excludes other runs from writing to a folder.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Released by the system when the process ends.
    Lock { _file: File },
    /// Renewed while the process lives, because a store does not release it.
    Lease(Lease),
}

impl Hold {
    /// Returns whether other runs are certainly still excluded.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Lock { .. } => true,
            Self::Lease(lease) => lease.is_held(),
        }
    }
}

/// An error of excluding other runs.
#[derive(Debug)]
pub(crate) enum HoldError {
    /// Another run holds the folder.
    Held { owner: String },
    /// The folder cannot be written.
    Failed(WriteError),
}

/// The name of a holder whose name cannot be read.
pub(super) const UNKNOWN_OWNER: &str = "unknown owner";

/// Describes this run to users who find its lock.
pub(super) fn owner() -> String {
    let process = format!("process {}", std::process::id());
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}
