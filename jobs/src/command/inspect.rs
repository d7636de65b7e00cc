//! `legenda inspect`.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use legenda_pipeline::{
    inspect::{ColumnFacts, Holds, InspectError, Inspection, Proposal, Spread, inspect as look},
    store::is_url,
};
use legenda_schemas::{
    job::{Job, SourceFormat},
    units::{ByteSize, counted, percent},
};
use serde_json::json;

use super::{print, tell};
use crate::{
    cli::InspectArgs,
    failure::{Exit, Failure},
    summary,
};

/// Looks at a table, and proposes a job.
pub(crate) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    if let Some(file) = args.job.as_ref().filter(|file| file.try_exists().unwrap_or(true)) {
        return Err(exists(file));
    }
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the threads of the look")
        .map_err(Failure::resumable)?;
    let rows = args.rows.get();
    let inspection = look(&args.uris, Path::new("."), args.format, rows, executor.handle());
    let inspection = inspection.map_err(|error| match &error {
        InspectError::Failed(_) => Failure::resumable(error),
        InspectError::Source(inner) if inner.may_pass() => Failure::resumable(error),
        _ => Failure::config(error),
    })?;
    let job = Proposal::of(&inspection).map(|proposal| job_file(&proposal, args)).transpose()?;
    if args.json {
        print(&json!({ "table": inspection, "job": job }).to_string());
    } else {
        lines(&inspection).iter().for_each(|line| print(line));
    }
    match (&job, &args.job) {
        (None, _) => {
            tell("no job is proposed: no column holds images, audio, texts or conversations");
        }
        (Some(job), Some(file)) => {
            write(file, job)?;
            tell(&format!("job in {}", file.display()));
        }
        (Some(job), None) if !args.json => print(&format!("\n{}", job.trim_end())),
        _ => {}
    }
    Ok(Exit::Done)
}

fn exists(file: &Path) -> Failure {
    let error = anyhow!("`{}` exists, and is not overwritten", file.display());
    Failure::config(error).hint("name another file by `--job`")
}

fn write(file: &Path, job: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    match opened.and_then(|mut opened| opened.write_all(job.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(file)),
        Err(error) => {
            let context = format!("cannot write `{}`", file.display());
            Err(Failure::resumable(anyhow::Error::new(error).context(context)))
        }
    }
}

/// Writes the proposed job, whose paths are relative to its own file.
fn job_file(proposal: &Proposal<'_>, args: &InspectArgs) -> Result<String, Failure> {
    let dir = args.job.as_deref().and_then(Path::parent).filter(|dir| !dir.as_os_str().is_empty());
    let dir: PathBuf = dir.unwrap_or(Path::new(".")).to_owned();
    let here = std::env::current_dir().context("cannot tell the folder").map_err(Failure::fault)?;
    let is_here = dir.canonicalize().is_ok_and(|dir| here.canonicalize().is_ok_and(|it| it == dir));
    let path = |uri: &String| match is_here || is_url(uri) {
        true => uri.clone(),
        false => here.join(uri).to_string_lossy().into_owned(),
    };
    let paths: Vec<String> = args.uris.iter().map(path).collect();
    // A folder of its own, so that nothing is in the way of the run.
    let name = proposal.output_name();
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let output =
        names.find(|name| matches!(dir.join(name).try_exists(), Ok(false))).unwrap_or_default();
    let text = proposal.toml(&paths, args.format, &output);
    Job::parse(&text, &[]).context("the proposed job is not valid").map_err(Failure::fault)?;
    Ok(text)
}

fn lines(of: &Inspection) -> Vec<String> {
    let format = serde_json::to_value(of.format).unwrap_or_default();
    let mut lines = vec![
        format!(
            "table      {} ({}), {}, {}, {}",
            counted(of.files as u64, "file"),
            format.as_str().unwrap_or_default(),
            counted(of.row_groups as u64, "row group"),
            counted(of.rows, "row"),
            ByteSize(of.file_bytes)
        ),
        format!("sample     {}; {} were read", counted(of.sampled, "row"), ByteSize(of.bytes_read)),
    ];
    for line in summary::skipped(&of.skipped) {
        lines.push(format!("           {line}"));
    }
    for (code, problem) in &of.unreadable {
        lines.push(format!("unreadable {} {code}: {}", problem.count, problem.example));
    }
    for column in &of.columns {
        lines.push(String::new());
        lines.extend(column_lines(column));
    }
    lines
}

fn column_lines(column: &ColumnFacts) -> Vec<String> {
    let holds = match column.holds {
        Holds::Pictures => "pictures",
        Holds::Sounds => "sounds",
        Holds::Messages => "conversations",
        Holds::Texts => "texts",
        Holds::Bytes => "bytes of no known format",
        Holds::Values => "values",
        Holds::Nothing => "nothing",
    };
    let missing = if column.in_every_file { "" } else { ", not alike in every file" };
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

fn spread(of: &Spread, unit: &str) -> String {
    let number = |value: f64| {
        if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    let (min, median, max) = (number(of.min), number(of.median), number(of.max));
    format!("{min} to {max}{unit}, median {median}")
}

/// Reads the name of a format, as job files write it.
pub(crate) fn format(text: &str) -> Result<SourceFormat, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}
