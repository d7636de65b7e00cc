//! `legenda batch`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use legenda_models::{Bundle, BundleError, Runtime};
use legenda_pipeline::{
    PlanScope,
    ledger::{OutputFiles, Stale},
    openai::{BatchError, Endpoint, Group, Refusal, Requests, error_line},
    store::{BESIDE, is_url},
};
use legenda_schemas::{
    cause::chain,
    job::{Job, TaskKind},
    units::{counted, counted_as},
};
use serde_json::{Value, json};

use super::{
    bundle_failure, eprint, ledger_failure, open_bundle, open_hub, open_runtime, plan_job, print,
    run::{
        Execution, LoadedModel, Results, execute_loaded, listen_for_large_files, load,
        start_threads,
    },
};
use crate::{
    cli::BatchArgs,
    failure::{Exit, Failure},
};

/// Answers the requests of a batch file. Each group of requests with the same parameters runs as one
/// job; the output has one response per line of the input. Finished work is not repeated.
pub(crate) fn batch(args: &BatchArgs) -> Result<Exit, Failure> {
    let input = if is_url(&args.input) {
        args.input.clone()
    } else {
        let path = Path::new(&args.input).canonicalize();
        let path = path.with_context(|| format!("failed to read the batch file `{}`", args.input));
        path.map_err(Failure::config)?.to_string_lossy().into_owned()
    };
    let requests = Requests::read(&input).map_err(batch_failure)?;
    announce(&requests, &args.model);
    let mut responses: BTreeMap<i64, String> = BTreeMap::new();
    for (line, refused) in &requests.refused {
        let response = error_line(*line, refused.custom_id.as_ref(), &refused.refusal);
        responses.insert(*line, response);
    }
    if let Some(exit) = answer(args, &requests, &mut responses)? {
        return Ok(exit);
    }
    write(&args.out, responses.values())
        .with_context(|| format!("failed to write `{}`", args.out.display()))
        .map_err(Failure::resumable)?;
    print(&format!("{} in {}", counted(responses.len() as u64, "response"), args.out.display()));
    Ok(Exit::Done)
}

/// Prints notes about requests for other models and duplicate ids.
fn announce(requests: &Requests, model: &str) {
    let others = requests.models.iter().filter(|(name, _)| *name != model);
    let names: Vec<String> = others.clone().take(3).map(|(name, _)| format!("`{name}`")).collect();
    if !names.is_empty() {
        let n_requests: usize = others.map(|(_, n)| n).sum();
        let more = if names.len() < requests.models.len() { ", …" } else { "" };
        eprint(&format!(
            "note: {} another model ({}{more}); `{model}` answers them",
            counted_as(n_requests as u64, "request names", "requests name"),
            names.join(", "),
        ));
    }
    if requests.n_repeated_names > 0 {
        eprint(&format!(
            "warning: {} the `custom_id` of an earlier one; responses are in the order of the input",
            counted_as(requests.n_repeated_names as u64, "request repeats", "requests repeat"),
        ));
    }
}

/// Answers the requests of all groups; returns the exit code if a run ends early.
fn answer(
    args: &BatchArgs,
    requests: &Requests,
    responses: &mut BTreeMap<i64, String>,
) -> Result<Option<Exit>, Failure> {
    if requests.groups.is_empty() {
        return Ok(None);
    }
    let first = job(args, Path::new(""), &requests.groups[0])?;
    #[cfg(unix)]
    let listener = start_threads()?;
    #[cfg(unix)]
    let _file_too_large = listen_for_large_files(&listener)?;
    let hub = open_hub(args.offline);
    let precision = first.model.precision.unwrap_or_default();
    let bundle = open_bundle(&args.model, Path::new("."), precision, &hub)
        .map_err(|error| bundle_failure(error, "invalid `--model`", &args.model))?;
    let runtime = open_runtime(args.offline, first.model.threads)?;
    let mut failed: Option<Failure> = None;
    let mut n_answered = 0;
    for group in &requests.groups {
        if let Err(refusal) = check_model(&bundle, group) {
            group.refuse(&refusal, responses);
            n_answered += 1;
            continue;
        }
        let tables = work_path(&args.out, "requests");
        let table = requests.write_table(group, &tables).map_err(batch_failure)?;
        match answer_group(args, &table, group, &runtime, responses)? {
            GroupOutcome::Done => n_answered += 1,
            GroupOutcome::Ended(exit) => return Ok(Some(exit)),
            GroupOutcome::LoadFailed(failure) => {
                let refusal = Refusal {
                    code: "model_cannot".to_owned(),
                    param: None,
                    message: failure.message(),
                };
                group.refuse(&refusal, responses);
                failed.get_or_insert(failure);
            }
        }
    }
    match failed {
        // If every group fails, the cause is not a single request.
        Some(failure) if n_answered == 0 => Err(failure),
        _ => Ok(None),
    }
}

/// The outcome of a group.
enum GroupOutcome {
    /// Every request has a response.
    Done,
    /// The run ended early.
    Ended(Exit),
    /// The model cannot be loaded with the group's parameters.
    LoadFailed(Failure),
}

/// Runs the job of a group and collects its responses.
fn answer_group(
    args: &BatchArgs,
    table: &Path,
    group: &Group,
    runtime: &Runtime,
    responses: &mut BTreeMap<i64, String>,
) -> Result<GroupOutcome, Failure> {
    let job = job(args, table, group)?;
    let scope = PlanScope { limit: None, overwrite: args.overwrite };
    let checked = plan_job(job, PathBuf::from("."), scope, args.offline)?;
    let format = checked.plan.job.output.format;
    let output = OutputFiles::new(checked.plan.output.clone(), format);
    if !args.overwrite {
        output.check_job(&checked.plan.ledger, Stale::Refuse).map_err(ledger_failure)?;
    }
    let start = Instant::now();
    let executor = start_threads()?;
    let model = match load(runtime, &checked.plan, &checked.bundle) {
        Ok(model) => model,
        Err(failure) => return Ok(GroupOutcome::LoadFailed(failure)),
    };
    let execution = Execution {
        offline: args.offline,
        overwrite: args.overwrite,
        stale: Stale::Refuse,
        retry: None,
        results: Results::Folder,
        args: &args.execution,
    };
    match execute_loaded(executor, checked, LoadedModel { runtime, model, start }, execution)? {
        Exit::Done => {}
        exit => return Ok(GroupOutcome::Ended(exit)),
    }
    group.collect(&output, &args.model, responses).map_err(batch_failure)?;
    Ok(GroupOutcome::Done)
}

fn batch_failure(error: BatchError) -> Failure {
    match error {
        BatchError::Source(error) if !error.may_pass() => Failure::config(error),
        BatchError::Ledger(error) => ledger_failure(error),
        error => Failure::resumable(error),
    }
}

/// Checks that the model supports the requests of a group.
fn check_model(bundle: &Bundle, group: &Group) -> Result<(), Refusal> {
    let refuse = |param: &str, message: String| Refusal {
        code: "model_cannot".to_owned(),
        param: Some(param.to_owned()),
        message,
    };
    let supported: Result<(), BundleError> = bundle.supports(kind(group));
    supported.map_err(|error| refuse("url", chain(&error)))?;
    if group.has_images && !bundle.modalities().image {
        let message = format!("the model `{}` does not accept images", bundle.name());
        return Err(refuse("messages", message));
    }
    Ok(())
}

/// Returns the task of a group's job.
fn kind(group: &Group) -> TaskKind {
    match (group.endpoint, group.has_images) {
        (Endpoint::Embeddings, _) => TaskKind::Embed,
        (_, true) => TaskKind::Answer,
        (_, false) => TaskKind::Generate,
    }
}

/// Returns a path in the work folder next to the responses.
fn work_path(out: &Path, name: &str) -> PathBuf {
    let mut folder = out.as_os_str().to_owned();
    folder.push(BESIDE);
    Path::new(&folder).join(name)
}

/// Builds the job of a group over its table.
fn job(args: &BatchArgs, table: &Path, group: &Group) -> Result<Job, Failure> {
    let is_embedding = group.endpoint == Endpoint::Embeddings;
    let column = group.input_column();
    let mut columns = json!({column: column});
    if !is_embedding {
        columns["seed"] = Value::from("seed");
    }
    if group.has_images {
        columns["image"] = Value::from("images");
    }
    let mut task = json!({"kind": kind(group).as_str()});
    if !is_embedding {
        task["prompt"] = Value::from("{{ text }}");
    }
    let mut job = json!({
        "task": task,
        "source": {"paths": [table.to_string_lossy()], "format": "parquet", "columns": columns},
        "model": {"bundle": args.model},
        // Requests fail one by one, so no number of rejects stops the run.
        "limits": {"error_budget": "100%"},
        "output": {
            "path": work_path(&args.out, &group.name()).to_string_lossy(),
            "columns": ["line", "index"],
        },
    });
    if !is_embedding {
        job["generation"] = serde_json::from_str(&group.parameters)
            .context("failed to parse the parameters of a request")
            .map_err(Failure::internal)?;
    }
    let job: Job = serde_json::from_value(job)
        .context("failed to build a job from the parameters of a request")
        .map_err(Failure::internal)?;
    job.with_overrides(&args.overrides).map_err(Failure::config)
}

/// Writes lines to a file atomically.
fn write<'a>(path: &Path, lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.unfinished"));
    // Remove a leftover of a killed process, or a planted link.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = BufWriter::new(File::create_new(&unfinished)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&unfinished, path)
}
