//! The input of a command: what its paths contain, and which columns the task reads.

use std::path::Path;

use anyhow::{Context, anyhow};
use legenda_pipeline::{
    inspect::{Holds, InspectError, Inspection, Proposal, inspect},
    source::SourceError,
    store::is_url,
};
use legenda_schemas::{
    job::{Columns, SourceFormat, TaskKind},
    suggest::closest,
};

use super::Request;
use crate::failure::Failure;

/// The number of rows that are looked at.
const ROWS: usize = 32;

/// The table of a command.
#[derive(Debug)]
pub(super) struct Input {
    /// The format, if the paths do not imply it.
    pub(super) format: Option<SourceFormat>,
    pub(super) is_media: bool,
    pub(super) columns: Columns,
    /// The columns to carry, if not all can be.
    pub(super) carried: Option<Vec<String>>,
}

impl Input {
    /// Looks at the paths of a request.
    pub(super) fn find(request: &Request<'_>) -> Result<Self, Failure> {
        for path in request.paths {
            check_exists(path, request)?;
        }
        if let Some(question) = request.prompt.filter(|_| request.is_question)
            && matches!(Path::new(question).try_exists(), Ok(true))
        {
            let error =
                anyhow!("the last argument must be the question, but `{question}` is a file");
            return Err(Failure::config(error).hint("add a question in quotes"));
        }
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("failed to start worker threads")
            .map_err(Failure::resumable)?;
        let look = |format: Option<SourceFormat>| {
            inspect(request.paths, Path::new("."), format, ROWS, executor.handle())
        };
        // A folder of images often has a table or a JSON file that describes them.
        let is_folder = |path: &String| Path::new(path).is_dir();
        let media = match request.paths.iter().all(is_folder) {
            true => look(Some(SourceFormat::Media)).ok(),
            false => None,
        };
        let (format, inspection) = match media {
            Some(inspection) => (Some(SourceFormat::Media), inspection),
            None => (None, look(None).map_err(failure)?),
        };
        let proposal = Proposal::for_task(&inspection, request.task);
        let proposal = proposal.ok_or_else(|| wrong_kind(request, &inspection))?;
        Ok(Self {
            format,
            is_media: inspection.format == SourceFormat::Media,
            columns: proposal.columns(),
            carried: proposal.carried(),
        })
    }
}

/// Checks that a local path without a pattern exists.
fn check_exists(path: &str, request: &Request<'_>) -> Result<(), Failure> {
    if is_url(path) || matches!(Path::new(path).try_exists(), Ok(true)) {
        return Ok(());
    }
    let failure = Failure::config(anyhow!("no file or folder `{path}`"));
    if request.is_question && !path.contains(['/', '.', '\\', '*']) {
        return Err(failure.hint("put the question in quotes, after the paths"));
    }
    if path.contains(['*', '?', '[']) {
        return Ok(());
    }
    let path = Path::new(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Err(match closest(name, names.iter().map(String::as_str)) {
        Some(found) => {
            failure.hint(format!("did you mean `{}`?", path.with_file_name(found).display()))
        }
        None => failure,
    })
}

/// Converts an error of looking at the paths.
fn failure(error: InspectError) -> Failure {
    match error {
        InspectError::Source(SourceError::NothingFound { entry, skipped }) => Failure::config(
            anyhow!("no image, audio file or table in `{entry}`{skipped}"),
        )
        .hint(
            "pass images (JPEG, PNG, WebP, ...), audio (WAV, MP3, FLAC, ...), Parquet, Arrow, CSV, \
                 JSON Lines or WebDataset files, or folders of them",
        ),
        InspectError::Failed(_) => Failure::resumable(error),
        InspectError::Source(ref inner) if inner.may_pass() => Failure::resumable(error),
        error => Failure::config(error),
    }
}

/// Describes input that the task cannot read.
fn wrong_kind(request: &Request<'_>, inspection: &Inspection) -> Failure {
    let has = |holds: Holds| {
        inspection.columns.iter().any(|column| column.holds == holds && column.in_every_file)
    };
    let (command, needs) = match request.task {
        TaskKind::Caption => ("caption", "images"),
        TaskKind::Transcribe => ("transcribe", "audio"),
        TaskKind::Answer | TaskKind::Generate => ("ask", "images, audio or text"),
        TaskKind::Embed => ("embed", "images, audio or text"),
    };
    let found = [(Holds::Images, "images"), (Holds::Audio, "audio"), (Holds::Texts, "text")];
    let found: Vec<&str> =
        found.into_iter().filter_map(|(holds, name)| has(holds).then_some(name)).collect();
    let there = match found.as_slice() {
        [] => "none of them was found".to_owned(),
        found => format!("found {}", found.join(" and ")),
    };
    let paths = request.paths.join("`, `");
    let failure = Failure::config(anyhow!("`{command}` needs {needs} in `{paths}`: {there}"));
    let other = match found.as_slice() {
        ["images", ..] => "to describe images, use `legenda caption`",
        ["audio", ..] => "to transcribe audio, use `legenda transcribe`",
        ["text", ..] => "to ask about texts, use `legenda ask`",
        _ => "`legenda inspect` shows what the columns contain",
    };
    failure.hint(other)
}
