//! The generated pages of the reference: the job file and the output columns.
//!
//! `LEGENDA_UPDATE=1 cargo test --release --workspace up_to_date` writes them again.

mod job_file;
mod output;
mod page;
