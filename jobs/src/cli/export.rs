//! The arguments of `legenda export`.

use std::path::PathBuf;

use clap::Args;

use super::examples;

#[derive(Debug, Args)]
#[command(after_help = examples::EXPORT)]
pub(crate) struct ExportArgs {
    /// The output of a run: a folder or URL.
    pub(crate) output: String,
    /// The file to write: `.csv`, `.parquet`, `.arrow` or `.jsonl`.
    #[arg(short = 'o', long = "to", value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Also export the rejects: a null answer with `legenda_reject_code` and `legenda_reject_message`.
    #[arg(long)]
    pub(crate) rejects: bool,
    /// Export only these columns, in this order [default: all].
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Replace an existing file.
    #[arg(long)]
    pub(crate) force: bool,
}
