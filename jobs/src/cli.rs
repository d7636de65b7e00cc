//! The command line.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use legenda_pipeline::ledger::Stale;
use legenda_schemas::{
    job::{Device, SourceFormat},
    precision::{PrecisionChoice, PrecisionError},
};

use crate::schedule::page::PageHost;

/// Reads tables of text, images and audio and writes down what is in them.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done · 1 a fault of the program · 2 command, job, table or model \
                  wrong, nothing read · 3 error budget spent · 4 failed, run again to resume · \
                  5 `verify` found something wrong · 130 interrupted, run again to resume"
)]
pub(crate) struct Cli {
    /// Log more: -v for information, -vv for debugging.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job: read its table, ask its model, write its answers; resumes what was begun.
    Run(RunArgs),
    /// Answer a batch file of OpenAI's API with a local model.
    Batch(BatchArgs),
    /// Check a job against its table and model without running it.
    Check(JobArgs),
    /// Tell what is in a table before any model is loaded, and propose a job.
    Inspect(InspectArgs),
    /// Run a sample of a job, write nothing to its output, and say what the whole will take.
    Plan(PlanArgs),
    /// Try the rejects of an output again, and commit what is answered now.
    Retry(RetryArgs),
    /// Prove that an output holds every input row once, or name what is wrong with it.
    Verify(VerifyArgs),
    /// Measure answers where the right ones are known: error rates, exact match, F1, BLEU, chrF, ROUGE-L,
    /// CIDEr.
    Eval(EvalArgs),
    /// Make the page about an output's last run again, beside another output's where one is named.
    Report(ReportArgs),
    /// Run the jobs of a folder when they are due, and show them on a web page.
    Schedule(ScheduleArgs),
    /// List, show, fetch and try models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Print what the program found: ONNX Runtime, devices, cache, memory.
    Doctor(DoctorArgs),
    /// Print the JSON Schema of a file format, for editors.
    Schema(SchemaArgs),
}

impl Command {
    /// Returns, of a command that asks a model about rows, whether it may use no network of its own.
    pub(crate) fn runs_offline(&self) -> Option<bool> {
        match self {
            Self::Run(args) => Some(args.job.offline),
            Self::Plan(args) => Some(args.job.offline),
            Self::Batch(args) => Some(args.offline),
            Self::Retry(args) => Some(args.offline),
            _ => None,
        }
    }
}

/// A job file and what takes the place of its values.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job file (TOML).
    pub(crate) job: PathBuf,
    /// Replace a value of the job file, such as `--set model.slots=4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Read only the first N rows of the table.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Never fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Run about N rows, spread over the table; default: 64, or 8 for each slot.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rows: Option<u64>,
    /// Put the prediction into the output, so that the next run is set beside it.
    #[arg(long)]
    pub(crate) save: bool,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The table: files, folders, patterns or URLs, as `source.paths` of a job.
    #[arg(required = true, value_name = "URI")]
    pub(crate) uris: Vec<String>,
    /// Look at N rows, spread over the table.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) rows: NonZeroUsize,
    /// What the files are: parquet, arrow, tar, jsonl, csv, media or openai_batch; default: what their
    /// extensions say.
    #[arg(long, value_name = "FORMAT", value_parser = crate::command::inspect::format)]
    pub(crate) format: Option<SourceFormat>,
    /// Write the proposed job to this file, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Remove what earlier runs wrote to the output, and start anew.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What becomes of answers that the output has of another job: the run is refused, they are kept
    /// beside those of the job as it is now, or done again by it.
    #[arg(long, value_enum, default_value_t = StaleChoice::Refuse, conflicts_with = "overwrite")]
    pub(crate) stale: StaleChoice,
    #[command(flatten)]
    pub(crate) shown: ShownArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StaleChoice {
    /// Refuse the run.
    Refuse,
    /// Keep them.
    Keep,
    /// Do them again.
    Redo,
}

impl From<StaleChoice> for Stale {
    fn from(choice: StaleChoice) -> Self {
        match choice {
            StaleChoice::Refuse => Self::Refuse,
            StaleChoice::Keep => Self::Keep,
            StaleChoice::Redo => Self::Redo,
        }
    }
}

/// What a run shows, and how long it goes on when it is asked to stop.
#[derive(Debug, Args)]
pub(crate) struct ShownArgs {
    /// Print N answers, evenly spread, when done.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// After a first signal, end within this many seconds: rows in slots are finished, and every
    /// finished row is committed.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) grace: u64,
    /// Put the page about the run into this file too.
    #[arg(long, value_name = "FILE")]
    pub(crate) report_to: Option<PathBuf>,
    /// Stop, as after a first signal, when standard input ends: with the service that holds its other
    /// end.
    #[arg(long, hide = true)]
    pub(crate) until_eof: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// The requests: a JSON object per line; a path or a URL.
    pub(crate) input: String,
    /// The model: `legenda-tiny`, a directory, or `hf://owner/name[@revision]`.
    #[arg(long, default_value = "legenda-tiny")]
    pub(crate) model: String,
    /// Where the responses go. What is done lies in `OUT.legenda` beside it, until you remove it.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Set a value of the job, such as `--set model.slots=4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Remove what earlier runs wrote, and start anew.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Never fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) shown: ShownArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The output of a run: a folder, or its URL.
    pub(crate) output: String,
    /// Try only rejects with this code; may be given several times.
    #[arg(long = "code", value_name = "CODE")]
    pub(crate) codes: Vec<String>,
    /// Replace a value of the job, such as `--set limits.image_pixels=200000000`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Never fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) shown: ShownArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The output of a run: a folder, or its URL.
    pub(crate) output: String,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The output of a run: a folder, or its URL.
    pub(crate) output: String,
    /// The column with the right answer, a text or a list of texts; it must be among `output.columns`.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) reference: String,
    /// Another output of the same rows, to compare with.
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) compare: Option<String>,
    /// The column that names rows; default: rows are told by their place in their files.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The output of a run: a folder, or its URL.
    pub(crate) output: String,
    /// Another output, whose last run is set beside it.
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) compare: Option<String>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) to: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The folder of job files: every `*.toml` in it.
    pub(crate) dir: PathBuf,
    /// Where the history of runs is kept; default: `.legenda` in the folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The address of the web page; it may be looked at by whoever can reach it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7788")]
    pub(crate) listen: SocketAddr,
    /// A name that the web page is asked for by, such as that of a proxy; may be repeated. Its own address
    /// and `localhost` need none.
    #[arg(long = "page-host", value_name = "NAME")]
    pub(crate) page_hosts: Vec<PageHost>,
    /// Serve no web page.
    #[arg(long)]
    pub(crate) no_page: bool,
    /// The environment variable with the token that starts, stops and retries; default: a new one is
    /// printed.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
    /// The most runs at a time, of different jobs.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) parallel: NonZeroUsize,
    /// Let no run fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// A bar on a terminal, else plain lines.
    Auto,
    /// A line now and then.
    Plain,
    /// A JSON object per line, for machines.
    Json,
    /// Nothing.
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models on this machine that can be run: the embedded one, those in the Hub's cache.
    List(ModelsListArgs),
    /// Show what a model is and can do; of the Hub its configs are fetched, not its graphs.
    Show(ModelArgs),
    /// Fetch a model of the Hub into its cache.
    Pull(ModelArgs),
    /// Open a model and let it answer a built-in prompt for each of its tasks.
    Check(ModelsCheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ModelsListArgs {
    /// List models that cannot be run too, and why.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// `legenda-tiny`, a directory, or `hf://owner/name[@revision]`.
    pub(crate) bundle: String,
    /// How the weights are stored, such as `q4` or `decoder_model_merged=q4,embed_tokens=fp16`.
    #[arg(long, value_name = "PRECISION", default_value = "", hide_default_value = true,
          value_parser = precision)]
    pub(crate) precision: PrecisionChoice,
    /// Never fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn precision(text: &str) -> Result<PrecisionChoice, PrecisionError> {
    if text.is_empty() { Ok(PrecisionChoice::default()) } else { text.parse() }
}

#[derive(Debug, Args)]
pub(crate) struct ModelsCheckArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    pub(crate) device: DeviceName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// CUDA when its provider loads, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA, or an error.
    Cuda,
}

impl From<DeviceName> for Device {
    fn from(name: DeviceName) -> Self {
        match name {
            DeviceName::Auto => Self::Auto,
            DeviceName::Cpu => Self::Cpu,
            DeviceName::Cuda => Self::Cuda,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Never fetch anything from the network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Which format.
    #[arg(value_enum)]
    pub(crate) format: SchemaFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaFormat {
    /// The job file.
    Job,
}
