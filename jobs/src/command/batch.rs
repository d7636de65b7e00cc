//! `legenda batch`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use legenda_pipeline::{
    ledger::{OutputFiles, Stale},
    openai::{BatchError, Group, Requests, error_line},
    store::{Folder, is_url},
};
use legenda_schemas::job::Job;
use serde_json::{Value, json};

use super::{
    bundle_failure, ledger_failure, open_bundle, open_hub, plan_job, print,
    run::{Execution, execute},
};
use crate::{
    cli::BatchArgs,
    failure::{Exit, Failure},
};

/// Answers the requests of a batch file, by a job for each group that is asked alike, and puts the
/// responses together. What is done is not done again.
pub(crate) fn batch(args: &BatchArgs) -> Result<Exit, Failure> {
    let input = if is_url(&args.input) {
        args.input.clone()
    } else {
        let path = Path::new(&args.input).canonicalize();
        let path = path.with_context(|| format!("cannot read the batch file `{}`", args.input));
        path.map_err(Failure::config)?.to_string_lossy().into_owned()
    };
    let requests = Requests::read(&input).map_err(Failure::config)?;
    let precision = job(args, &input, None, false)?.model.precision.unwrap_or_default();
    let hub = open_hub(args.offline);
    let bundle = open_bundle(&args.model, Path::new("."), precision, &hub)
        .map_err(|error| bundle_failure(error, "`--model` cannot be used"))?;
    let sees = bundle.modalities().image;
    drop(bundle);

    let mut responses: BTreeMap<i64, String> = BTreeMap::new();
    for refused in &requests.refused {
        let (line, id) = (refused.line, refused.custom_id.as_deref());
        responses.insert(line, error_line(line, id, "invalid_request", &refused.problem));
    }
    let is_alone = requests.groups.len() == 1;
    for group in &requests.groups {
        if group.has_images && !sees {
            for (line, id) in &group.lines {
                let problem = format!("the model `{}` takes no pictures", args.model);
                let error = error_line(*line, Some(id), "invalid_request", &problem);
                responses.insert(*line, error);
            }
            continue;
        }
        let job = job(args, &input, Some(group), is_alone)?;
        let output = job.output.path.clone();
        let checked = plan_job(job, PathBuf::from("."), None, args.offline)?;
        let format = checked.plan.job.output.format;
        let execution = Execution {
            offline: args.offline,
            overwrite: args.overwrite,
            stale: Stale::Refuse,
            retry: None,
            shown: &args.shown,
        };
        match execute(checked, execution)? {
            Exit::Done => {}
            exit => return Ok(exit),
        }
        let folder = Folder::at(&output, Path::new(".")).map_err(Failure::config)?;
        let output = OutputFiles::new(folder, format);
        group.collect(&output, &args.model, &mut responses).map_err(|error| match error {
            BatchError::Ledger(error) => ledger_failure(error),
            error => Failure::resumable(error),
        })?;
    }
    write(&args.out, responses.values())
        .with_context(|| format!("cannot write `{}`", args.out.display()))
        .map_err(Failure::resumable)?;
    print(&format!("{} responses in {}", responses.len(), args.out.display()));
    Ok(Exit::Done)
}

/// Makes the job of a group, or of none, where only the model is asked for.
fn job(
    args: &BatchArgs,
    input: &str,
    group: Option<&Group>,
    is_alone: bool,
) -> Result<Job, Failure> {
    let is_embedding = group.is_some_and(|group| group.url == "/v1/embeddings");
    let has_images = group.is_some_and(|group| group.has_images);
    let is_chat = group.is_some_and(|group| group.url == "/v1/chat/completions");
    let asked = if is_chat { "messages" } else { "text" };
    let mut columns = json!({"id": "custom_id", asked: asked});
    if has_images {
        columns["image"] = Value::from("images");
    }
    let mut source = json!({"paths": [input], "format": "openai_batch", "columns": columns});
    if let Some(group) = group.filter(|_| !is_alone) {
        source["query"] = Value::from(group.query());
    }
    let kind = match (is_embedding, has_images) {
        (true, _) => "embed",
        (false, true) => "answer",
        (false, false) => "generate",
    };
    let mut task = json!({"kind": kind});
    if !is_embedding {
        task["prompt"] = Value::from("{{ text }}");
    }
    let name = group.map(Group::name).unwrap_or_default();
    let folder = format!("{}.legenda/{name}", args.out.display());
    let mut job = json!({
        "version": 1,
        "task": task,
        "source": source,
        "model": {"bundle": args.model},
        "output": {"path": folder, "columns": ["custom_id", "line"]},
    });
    if let Some(group) = group.filter(|_| !is_embedding) {
        job["generation"] = serde_json::from_str(&group.parameters)
            .context("the parameters of a request")
            .map_err(Failure::fault)?;
    }
    let job: Job = serde_json::from_value(job)
        .context("the parameters of a request cannot be meant")
        .map_err(Failure::config)?;
    job.with(&args.overrides).map_err(Failure::config)
}

/// Writes lines to a file that appears whole.
fn write<'a>(path: &Path, lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.unfinished"));
    let mut file = BufWriter::new(File::create(&unfinished)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&unfinished, path)
}
