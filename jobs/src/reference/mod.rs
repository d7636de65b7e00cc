//! The generated pages of the reference (commands, exit codes), and the commands in all documents.
//!
//! `LEGENDA_UPDATE=1 cargo test --release --workspace reference` writes the pages again.

mod cli;
mod commands;
mod exit_codes;
mod page;
