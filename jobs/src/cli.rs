//! The command line.

mod direct;
mod examples;
mod export;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use legenda_pipeline::ledger::Stale;
use legenda_schemas::{
    job::{Device, SourceFormat},
    precision::{PrecisionChoice, PrecisionError},
};

pub(crate) use self::{
    direct::{AskArgs, CaptionArgs, DirectArgs, EmbedArgs, SidecarArgs, TranscribeArgs},
    examples::{EMBEDDING_MODELS, TIMESTAMP_MODELS},
    export::ExportArgs,
};
use crate::schedule::page::PageHost;

/// Runs ONNX models over tables of text, images and audio: captions, answers, transcripts,
/// embeddings.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = examples::ALL
)]
pub(crate) struct Cli {
    /// Increase log verbosity: -v for info, -vv for debug.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job: read the table, run the model, write the answers. Resumes an unfinished run.
    Run(RunArgs),
    /// Describe images, without a job file.
    Caption(Box<CaptionArgs>),
    /// Answer a question about images, audio or texts, without a job file.
    Ask(Box<AskArgs>),
    /// Transcribe audio, without a job file.
    Transcribe(Box<TranscribeArgs>),
    /// Compute embeddings of images, audio or texts, without a job file.
    Embed(Box<EmbedArgs>),
    /// Answer an OpenAI Batch API file with a local model.
    Batch(BatchArgs),
    /// Check a job against its table and model without running it.
    #[command(after_help = examples::CHECK)]
    Check(JobArgs),
    /// Profile a table without loading a model, and propose a job.
    Inspect(InspectArgs),
    /// Run a sample of a job and estimate the full run. Writes no answers.
    #[command(visible_alias = "plan")]
    Estimate(EstimateArgs),
    /// Retry the rejects of an output and commit the new answers.
    Retry(RetryArgs),
    /// Write the answers of an output to one file: CSV, Parquet, Arrow or JSON Lines.
    Export(ExportArgs),
    /// Verify that an output accounts for every input row exactly once.
    Verify(VerifyArgs),
    /// Score answers against reference answers: error rates, exact match, F1, BLEU, chrF, ROUGE-L,
    /// CIDEr.
    Eval(EvalArgs),
    /// Render the report of an output's last run, optionally compared with another output.
    Report(ReportArgs),
    /// Run the jobs in a folder on their schedules, with a status page.
    Schedule(ScheduleArgs),
    /// List, show, fetch and check models.
    Models(ModelsArgs),
    /// Print the environment: ONNX Runtime, devices, cache, memory.
    Doctor(DoctorArgs),
    /// Print the JSON Schema of a file format, for editors.
    Schema(SchemaArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page of the program or of a command.
    Man(ManArgs),
}

impl Command {
    /// Returns the `--offline` flag of a command that runs a model on rows, `None` for other commands.
    pub(crate) fn runs_offline(&self) -> Option<bool> {
        match self {
            Self::Run(args) => Some(args.job.offline),
            Self::Estimate(args) => Some(args.job.offline),
            Self::Caption(args) => Some(args.direct.offline),
            Self::Ask(args) => Some(args.direct.offline),
            Self::Transcribe(args) => Some(args.direct.offline),
            Self::Embed(args) => Some(args.direct.offline),
            Self::Batch(args) => Some(args.offline),
            Self::Retry(args) => Some(args.offline),
            _ => None,
        }
    }
}

/// A job file and its overrides.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job file (TOML).
    pub(crate) job: PathBuf,
    /// Override a key of the job file, such as `--set model.slots=4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Read only the first N rows of the table.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Never download models or ONNX Runtime.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::ESTIMATE)]
pub(crate) struct EstimateArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Sample about N rows, spread over the table [default: 64, or 8 per slot if that is more].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rows: Option<u64>,
    /// Save the estimate to the output, so that the next run is compared with it.
    #[arg(long)]
    pub(crate) save: bool,
    /// The progress display.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::INSPECT)]
pub(crate) struct InspectArgs {
    /// The table: files, folders, glob patterns or URLs, as in `source.paths` of a job.
    #[arg(required = true, value_name = "URI")]
    pub(crate) uris: Vec<String>,
    /// Sample N rows, spread over the table.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) rows: NonZeroUsize,
    /// The format of the files: parquet, arrow, tar, jsonl, csv, media or openai_batch [default: by
    /// extension].
    #[arg(long, value_name = "FORMAT", value_parser = crate::command::inspect::format)]
    pub(crate) format: Option<SourceFormat>,
    /// Write the proposed job to this file, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::RUN)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Remove the output of earlier runs and start over.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// The handling of answers in the output that a different version of the job wrote.
    #[arg(long, value_enum, default_value_t = StaleChoice::Refuse, conflicts_with = "overwrite")]
    pub(crate) stale: StaleChoice,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StaleChoice {
    /// Refuse to run.
    Refuse,
    /// Keep them next to the new answers.
    Keep,
    /// Compute them again.
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

/// The options of commands that execute a job: display, report and shutdown.
#[derive(Debug, Args)]
pub(crate) struct ExecutionArgs {
    /// Print N answers, evenly spread over the output, at the end.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// The progress display.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub(crate) progress: ProgressStyle,
    /// Exit at most this many seconds after the first signal. Rows that finish in this time are
    /// committed.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) grace: u64,
    /// Also write the report of the run to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) report_to: Option<PathBuf>,
    /// Stop, as on the first signal, at the end of standard input. The schedule service holds the other
    /// end of the pipe.
    #[arg(long, hide = true)]
    pub(crate) until_eof: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::BATCH)]
pub(crate) struct BatchArgs {
    /// The requests, one JSON object per line: a path or URL.
    pub(crate) input: String,
    /// The model: `legenda-tiny`, a short name, a directory, or `hf://owner/name[@revision]`.
    #[arg(long, default_value = "legenda-tiny")]
    pub(crate) model: String,
    /// The file for the responses. Finished work is kept in `OUT.legenda` next to it until you remove
    /// it.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Set a key of the job, such as `--set model.slots=4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Remove the work of earlier runs and start over.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Never download models or ONNX Runtime.
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::RETRY)]
pub(crate) struct RetryArgs {
    /// The output of a run: a folder or URL.
    pub(crate) output: String,
    /// Retry only rejects with this code; repeatable.
    #[arg(long = "code", value_name = "CODE")]
    pub(crate) codes: Vec<String>,
    /// Override a key of the job, such as `--set limits.image_pixels=200000000`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Never download models or ONNX Runtime.
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
pub(crate) struct VerifyArgs {
    /// The output of a run: a folder or URL.
    pub(crate) output: String,
}

#[derive(Debug, Args)]
#[command(after_help = examples::EVAL)]
pub(crate) struct EvalArgs {
    /// The output of a run: a folder or URL.
    pub(crate) output: String,
    /// The column with the reference answer: a string or a list of strings. It must be one of
    /// `output.columns`.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) reference: String,
    /// Another output of the same rows to compare with.
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) compare: Option<String>,
    /// The column that identifies rows [default: rows are matched by file and position].
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::REPORT)]
pub(crate) struct ReportArgs {
    /// The output of a run: a folder or URL.
    pub(crate) output: String,
    /// Another output to compare with.
    #[arg(long, value_name = "OUTPUT")]
    pub(crate) compare: Option<String>,
    /// The file for the report.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) to: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = examples::SCHEDULE)]
pub(crate) struct ScheduleArgs {
    /// The folder with the job files: every `*.toml` in it.
    pub(crate) dir: PathBuf,
    /// The directory for the run history and reports [default: `.legenda` in the folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The address of the status page. Anyone who can reach it can read it.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7788")]
    pub(crate) listen: SocketAddr,
    /// A host name that the status page accepts, such as that of a proxy; repeatable. Its own address
    /// and `localhost` are always accepted.
    #[arg(long = "page-host", value_name = "NAME")]
    pub(crate) page_hosts: Vec<PageHost>,
    /// Do not serve the status page.
    #[arg(long)]
    pub(crate) no_page: bool,
    /// The environment variable with the token that authorizes start, stop and retry [default: a new
    /// token is printed].
    #[arg(long, value_name = "NAME")]
    pub(crate) token_env: Option<String>,
    /// The maximum number of concurrent runs; each job has at most one.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) parallel: NonZeroUsize,
    /// Run every job with `--offline`.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// A progress bar on a terminal, plain lines elsewhere.
    Auto,
    /// A line every few seconds.
    Plain,
    /// One JSON object per line, for programs.
    Json,
    /// No progress.
    None,
}

#[derive(Debug, Args)]
#[command(after_help = examples::MODELS)]
pub(crate) struct ModelsArgs {
    /// Default: `list`.
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the local models that can run: the embedded one and those in the Hub cache. Also lists the
    /// short names of Hub models.
    List(ModelsListArgs),
    /// List the short names of Hub models.
    Known(ModelsKnownArgs),
    /// Show a model's tasks, inputs and graphs. For a Hub model, fetches configs but no graphs.
    Show(ModelArgs),
    /// Fetch a model from the Hub into the cache.
    Pull(ModelArgs),
    /// Load a model and run a built-in prompt for each of its tasks.
    Check(ModelsCheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = examples::MODELS_LIST)]
pub(crate) struct ModelsListArgs {
    /// Also list models that cannot run, with the reason.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::MODELS_KNOWN)]
pub(crate) struct ModelsKnownArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::MODEL)]
pub(crate) struct ModelArgs {
    /// `legenda-tiny`, a short name, a directory, or `hf://owner/name[@revision]`.
    pub(crate) bundle: String,
    /// The precision of the weights, such as `q4` or `decoder_model_merged=q4,embed_tokens=fp16`.
    #[arg(long, value_name = "PRECISION", default_value = "", hide_default_value = true,
          value_parser = precision)]
    pub(crate) precision: PrecisionChoice,
    /// Never download models or ONNX Runtime.
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
    /// The device to run on.
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    pub(crate) device: DeviceName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// CUDA if its execution provider loads, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; an error if it is not available.
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
#[command(after_help = examples::DOCTOR)]
pub(crate) struct DoctorArgs {
    /// Never download models or ONNX Runtime.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::SCHEMA)]
pub(crate) struct SchemaArgs {
    /// The file format.
    #[arg(value_enum)]
    pub(crate) format: SchemaFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaFormat {
    /// The job file.
    Job,
}

#[derive(Debug, Args)]
#[command(after_help = examples::COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = examples::MAN)]
pub(crate) struct ManArgs {
    /// The command [default: the program].
    pub(crate) command: Option<String>,
}
