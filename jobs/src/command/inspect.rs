//! `legenda inspect`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use legenda_pipeline::{
    inspect::{
        ColumnFacts, Holds, InspectError, Inspection, Proposal, Spread, inspect as inspect_table,
    },
    store::is_url,
};
use legenda_schemas::{
    job::{Job, SourceFormat},
    units::{ByteSize, counted, percent},
};
use serde_json::json;

use super::{already_exists, eprint, print, write_new};
use crate::{
    cli::InspectArgs,
    failure::{Exit, Failure},
    summary,
};

/// Profiles a table and proposes a job.
pub(crate) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    if let Some(file) = args.job.as_ref().filter(|file| file.try_exists().unwrap_or(true)) {
        return Err(already_exists(file, "--job"));
    }
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("failed to start worker threads")
        .map_err(Failure::resumable)?;
    let rows = args.rows.get();
    let inspection =
        inspect_table(&args.uris, Path::new("."), args.format, rows, executor.handle());
    let inspection = inspection.map_err(|error| match &error {
        InspectError::Failed(_) => Failure::resumable(error),
        InspectError::Source(inner) if inner.may_pass() => Failure::resumable(error),
        _ => Failure::config(error),
    })?;
    let job = Proposal::from_inspection(&inspection)
        .map(|proposal| job_file(&proposal, args))
        .transpose()?;
    if args.json {
        print(&json!({ "table": inspection, "job": job }).to_string());
    } else {
        lines(&inspection).iter().for_each(|line| print(line));
    }
    match (&job, &args.job) {
        (None, _) => {
            eprint("no job proposed: no column contains images, audio, text or conversations");
        }
        (Some(job), Some(file)) => {
            write_new(file, job, "--job")?;
            eprint(&format!("job in {}", file.display()));
        }
        (Some(job), None) if !args.json => print(&format!("\n{}", job.trim_end())),
        _ => {}
    }
    Ok(Exit::Done)
}

/// Returns the text of the proposed job, with paths relative to the job file.
fn job_file(proposal: &Proposal<'_>, args: &InspectArgs) -> Result<String, Failure> {
    let dir = args.job.as_deref().and_then(Path::parent).filter(|dir| !dir.as_os_str().is_empty());
    let dir: PathBuf = dir.unwrap_or(Path::new(".")).to_owned();
    let here = std::env::current_dir()
        .context("failed to get the current directory")
        .map_err(Failure::internal)?;
    let is_here = dir.canonicalize().is_ok_and(|dir| here.canonicalize().is_ok_and(|it| it == dir));
    let path = |uri: &String| match is_here || is_url(uri) {
        true => uri.clone(),
        false => here.join(uri).to_string_lossy().into_owned(),
    };
    let paths: Vec<String> = args.uris.iter().map(path).collect();
    // An output that does not exist yet, so that the run can start.
    let name = proposal.output_name();
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let output =
        names.find(|name| matches!(dir.join(name).try_exists(), Ok(false))).unwrap_or_default();
    let text = proposal.toml(&paths, args.format, &output);
    Job::parse(&text, &[]).context("the proposed job is invalid").map_err(Failure::internal)?;
    Ok(text)
}

fn lines(inspection: &Inspection) -> Vec<String> {
    let format = serde_json::to_value(inspection.format).unwrap_or_default();
    let mut lines = vec![
        format!(
            "table      {} ({}), {}, {}, {}",
            counted(inspection.files as u64, "file"),
            format.as_str().unwrap_or_default(),
            counted(inspection.row_groups as u64, "row group"),
            counted(inspection.rows, "row"),
            ByteSize(inspection.file_bytes)
        ),
        format!(
            "sample     {}, {} read",
            counted(inspection.sampled, "row"),
            ByteSize(inspection.bytes_read)
        ),
    ];
    for line in summary::skipped(&inspection.skipped) {
        lines.push(format!("           {line}"));
    }
    for (code, problem) in &inspection.unreadable {
        lines.push(format!("unreadable {} {code}: {}", problem.count, problem.example));
    }
    for column in &inspection.columns {
        lines.push(String::new());
        lines.extend(column_lines(column));
    }
    lines
}

fn column_lines(column: &ColumnFacts) -> Vec<String> {
    let holds = match column.holds {
        Holds::Images => "images",
        Holds::Audio => "audio",
        Holds::Messages => "conversations",
        Holds::Texts => "text",
        Holds::Bytes => "bytes of an unknown format",
        Holds::Values => "values",
        Holds::Nothing => "nothing",
    };
    let missing = if column.in_every_file { "" } else { ", differs between files" };
    let mut lines = vec![
        format!("{}: {holds}", column.name),
        format!("  type       {}{missing}", column.data_type),
        format!("  null       {}", percent(column.null_share)),
    ];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<10} {text}"));
    if let Some(texts) = &column.texts {
        line("bytes", spread(&texts.bytes, ""));
        line("duplicates", percent(texts.duplicate_share));
    }
    if let Some(media) = &column.media {
        let by_path = match media.by_path {
            0 => String::new(),
            n => format!(", {n} by path or URL"),
        };
        line("media", format!("{}{by_path}", media.count));
        let measured = [
            ("bytes", &media.bytes, ""),
            ("width", &media.width, " pixels"),
            ("height", &media.height, " pixels"),
            ("duration", &media.seconds, " s"),
        ];
        for (name, found, unit) in measured {
            if let Some(found) = found {
                line(name, spread(found, unit));
            }
        }
        line("duplicates", percent(media.duplicate_share));
        line("unusable", percent(media.unusable_share));
        for (code, problem) in &media.unusable {
            line("", format!("{} {code}: {}", problem.count, problem.example));
        }
    }
    lines
}

fn spread(spread: &Spread, unit: &str) -> String {
    let number = |value: f64| {
        if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    let (min, median, max) = (number(spread.min), number(spread.median), number(spread.max));
    format!("{min} to {max}{unit}, median {median}")
}

/// Parses the name of a format, as in job files.
pub(crate) fn format(text: &str) -> Result<SourceFormat, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}
