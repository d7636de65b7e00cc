//! Crashes, damage, random input and the memory limit, through the real binary. Slow.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "tables and reports of recipes")]

mod crashes;
mod fuzz;
mod media;
mod memory;
mod parquet;
mod random_column;
mod stores;
