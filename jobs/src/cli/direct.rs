//! The arguments of commands that run a task on files without a job file.

use std::path::PathBuf;

use clap::Args;

use super::{ExecutionArgs, examples};

/// The options that all of these commands share.
#[derive(Debug, Args)]
pub(crate) struct DirectArgs {
    /// Write the answers to this file (`.csv`, `.parquet`, `.arrow` or `.jsonl`), or to the parts of an
    /// output folder [default: print them].
    #[arg(short = 'o', long = "to", value_name = "FILE|DIR")]
    pub(crate) to: Option<String>,
    /// The model: a short name (see `legenda models`), `legenda-tiny`, a directory, or
    /// `hf://owner/name[@revision]`.
    #[arg(long, default_value = "legenda-tiny")]
    pub(crate) model: String,
    /// Process only the first N rows.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Set a key of the job, such as `--set generation.max_new_tokens=50`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Write the job that would run to this file, which must not exist, for `legenda run`. Runs nothing.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_job: Option<PathBuf>,
    /// Replace an existing FILE and existing sidecars.
    #[arg(long)]
    pub(crate) force: bool,
    /// Answer all rows again, also those that an earlier run of the same command has answered.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Never download models or ONNX Runtime.
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

/// The sidecars of images and audio files.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct SidecarArgs {
    /// Also write each answer to a text file next to its media file. An existing file is kept.
    #[arg(long)]
    pub(crate) txt: bool,
    /// Also write each answer to a JSON file next to its media file. An existing file is kept.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::CAPTION)]
pub(crate) struct CaptionArgs {
    /// Image files, folders, patterns or tables with a column of images.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// The prompt: a template over the columns of a row.
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) sidecars: SidecarArgs,
    #[command(flatten)]
    pub(crate) direct: DirectArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = examples::ASK,
    override_usage = "legenda ask [OPTIONS] <PATH>... <QUESTION>"
)]
pub(crate) struct AskArgs {
    /// Image or audio files, folders, patterns or tables; last, the question: a template over the columns
    /// of a row.
    #[arg(required = true, num_args = 2.., value_names = ["PATH", "QUESTION"])]
    pub(crate) paths_and_question: Vec<String>,
    #[command(flatten)]
    pub(crate) sidecars: SidecarArgs,
    #[command(flatten)]
    pub(crate) direct: DirectArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::TRANSCRIBE)]
pub(crate) struct TranscribeArgs {
    /// Audio files, folders, patterns or tables with a column of audio.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// The prompt, for models that read one: a template over the columns of a row.
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// The spoken language, by code or English name, for models with several [default: detected].
    #[arg(long)]
    pub(crate) language: Option<String>,
    #[command(flatten)]
    pub(crate) sidecars: SidecarArgs,
    /// Also write subtitles (SubRip) next to each audio file. Requires a model with timestamps, such as
    /// Whisper. An existing file is kept.
    #[arg(long)]
    pub(crate) srt: bool,
    /// Also write subtitles (WebVTT) next to each audio file, as with `--srt`.
    #[arg(long)]
    pub(crate) vtt: bool,
    #[command(flatten)]
    pub(crate) direct: DirectArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::EMBED)]
pub(crate) struct EmbedArgs {
    /// Image or audio files, folders, patterns or tables with a column of images, audio or text.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// The text to embed: a template over the columns of a row.
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) direct: DirectArgs,
}
