//! The job of a command.

use std::path::{Path, PathBuf};

use anyhow::Context;
use legenda_pipeline::store::is_url;
use legenda_schemas::job::{Job, Output, SidecarMode, Sidecars, Source, Task, TaskKind};

use super::{Request, destination::Destination, input::Input};
use crate::failure::Failure;

/// The rows of a span whose answers are printed: few, so that they appear soon after they are made.
const SPAN_ROWS: usize = 16;

/// Builds the job of a request. Paths are absolute if `is_elsewhere`.
pub(super) fn build(
    request: &Request<'_>,
    input: &Input,
    destination: &Destination,
    is_elsewhere: bool,
) -> Result<Job, Failure> {
    let args = request.args;
    let here = std::env::current_dir()
        .context("failed to get the current directory")
        .map_err(Failure::internal)?;
    let place = |path: &str| match is_elsewhere && !is_url(path) {
        true => here.join(path).to_string_lossy().into_owned(),
        false => path.to_owned(),
    };
    let task = Task {
        prompt: prompt(request, input),
        language: request.language.map(str::to_owned),
        timestamps: request.sidecars.iter().any(|extension| extension.is_subtitles()),
        ..Task::new(request.task)
    };
    let source = Source {
        format: input.format,
        columns: input.columns.clone(),
        ..Source::new(request.paths.iter().map(|path| place(path)).collect())
    };
    let mode = if args.force { SidecarMode::Overwrite } else { SidecarMode::Skip };
    let sidecars = (!request.sidecars.is_empty()).then(|| Sidecars {
        extension: request.sidecars.clone().into(),
        mode,
        separator: Sidecars::SEPARATOR.to_owned(),
    });
    let mut output =
        Output { columns: input.carried.clone(), sidecars, ..Output::at(String::new()) };
    match destination {
        Destination::Lines => output.span_rows = SPAN_ROWS,
        Destination::File { .. } => {}
        Destination::Folder(path) => output.path = place(path),
    }
    let mut job = Job::new(task, source, output);
    // A name that is no folder may be misspelled, which the error says of the name as it was given.
    let is_folder = Path::new(&args.model).is_dir();
    job.model.bundle = if is_folder { place(&args.model) } else { args.model.clone() };
    job.with_overrides(&args.overrides).map_err(Failure::config)
}

/// Returns the prompt. A question about text comes before the text.
fn prompt(request: &Request<'_>, input: &Input) -> Option<String> {
    let prompt = request.prompt?;
    let text = input.columns.text.as_ref().filter(|_| request.is_question);
    Some(match text {
        Some(_) if !prompt.contains("{{") => format!("{prompt}\n\n{{{{ text }}}}"),
        _ => prompt.to_owned(),
    })
}

/// Returns an output for a saved job: the parts for a file are in a folder of its name.
pub(super) fn saved_output(job: &mut Job, destination: &Destination, dir: &Path) {
    let name = match destination {
        Destination::Folder(_) => return,
        Destination::File { path, format } => {
            job.output.format = *format;
            path.with_extension("").to_string_lossy().into_owned()
        }
        Destination::Lines => {
            job.output.span_rows = Output::at(String::new()).span_rows;
            match job.task.kind {
                TaskKind::Caption => "captions",
                TaskKind::Transcribe => "transcripts",
                TaskKind::Answer | TaskKind::Generate => "answers",
                TaskKind::Embed => "embeddings",
            }
            .to_owned()
        }
    };
    // An output that does not exist yet, so that the run can start.
    let is_free = |name: &String| matches!(dir.join(name).try_exists(), Ok(false));
    let numbered = (2..100).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    job.output.path = names.find(is_free).unwrap_or(name);
}

/// Returns the folder of a job file, and whether it is another one than the current folder.
pub(super) fn folder_of(file: &Path) -> (PathBuf, bool) {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_here = match (dir.canonicalize(), Path::new(".").canonicalize()) {
        (Ok(dir), Ok(here)) => dir == here,
        _ => false,
    };
    (dir.to_owned(), !is_here)
}
