//! The house stays as the architecture says.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod architectures;
mod crates;
mod files;
mod links;
mod modules;
mod reference;
mod words;

/// The crates from the top of the house to its ground.
const CRATES: [&str; 5] = ["tests", "jobs", "pipeline", "models", "schemas"];
