//! The generated pages of the reference (commands, exit codes), and the commands in all documents.
//!
//! `LEGENDA_UPDATE=1 cargo test --release --workspace up_to_date` writes the pages again.

mod cli;
mod commands;
mod exit_codes;
mod page;
