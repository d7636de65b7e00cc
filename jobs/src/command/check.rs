//! `legenda check`.

use chrono::Utc;
use legenda_models::EmbeddingInput;
use legenda_pipeline::{
    excerpt::shortened,
    first_row::FirstRowError,
    ledger::{LedgerError, OutputFiles, Stale},
};
use legenda_schemas::{
    answer::{Form, Member},
    job::{ColumnType, Device},
    units::counted,
};

use super::{check_job, ledger_failure, open_runtime, print};
use crate::{
    cli::JobArgs,
    failure::{Exit, Failure, warn},
    summary,
};

/// Checks a job and prints its plan.
pub(crate) fn check(args: &JobArgs) -> Result<Exit, Failure> {
    let checked = check_job(args, false)?;
    let plan = &checked.plan;
    if plan.job.model.device == Device::Cuda {
        let runtime = open_runtime(args.offline, plan.job.model.threads)?;
        runtime.choose_device(Device::Cuda).map_err(Failure::config)?;
    }
    print(&format!("job        {}: valid", args.job.display()));
    print(&format!("task       {}", plan.job.task.kind.as_str()));
    match &plan.embedding {
        None => {
            let none = "none: the model has no text input";
            let prompt = if plan.reads_text { plan.given_prompt() } else { none };
            print(&format!("prompt     {prompt}"));
        }
        Some(embedding) => match embedding.input {
            EmbeddingInput::Image => print("embeds     images"),
            EmbeddingInput::Audio => print("embeds     audio"),
            EmbeddingInput::Text => {
                let template = plan.given_prompt();
                print(&format!("embeds     text: {}{template}", embedding.prefix));
            }
        },
    }
    match plan.first_row() {
        Ok(None) => {}
        Ok(Some(first)) => {
            let texts = first.system.into_iter().chain([first.prompt]).collect::<Vec<_>>();
            print(&format!("first row  {}", one_line(&texts.join(" · "))));
        }
        Err(error @ FirstRowError::Template { .. }) => {
            return Err(Failure::config(error));
        }
        Err(error) => warn(&error),
    }
    let precision = checked.bundle.precision().map_err(Failure::config)?;
    let architecture = checked.bundle.architecture();
    print(&format!("model      {} ({architecture}, {precision})", plan.bundle_name));
    let rows = summary::rows(plan);
    let files = counted(plan.table.n_files() as u64, "file");
    let spans = counted(plan.ledger.spans.len() as u64, "span");
    print(&format!("source     {rows} in {files} ({spans})"));
    for line in summary::skipped(&plan.table.skipped) {
        print(&format!("           {line}"));
    }
    let columns = plan.table.files[0].schema.fields().iter();
    let columns: Vec<String> = columns
        .map(|field| format!("{} {}", field.name(), ColumnType::name_of(field.data_type())))
        .collect();
    print(&format!("schema     {}", columns.join(", ")));
    print(&format!("reads      {}", plan.read_columns.join(", ")));
    let carried: Vec<&str> = plan.carried.iter().map(|field| field.name().as_str()).collect();
    print(&format!("carries    {}", carried.join(", ")));
    for line in answers(plan.answer.as_ref()) {
        print(&format!("answers    {line}"));
    }
    print(&format!("output     {}", plan.output.path_of("")));
    let output = OutputFiles::new(plan.output.clone(), plan.job.output.format);
    match output.check_job(&plan.ledger, Stale::Refuse) {
        Ok(()) => {}
        Err(error @ LedgerError::OtherJob { .. }) => warn(&error),
        Err(error) => return Err(ledger_failure(error)),
    }
    if let Some(schedule) = &plan.job.schedule {
        let next = schedule.cron.next_after(Utc::now(), schedule.time_zone);
        let next = next.map_or("never".to_owned(), |next| schedule.time_zone.format(next));
        print(&format!("schedule   {} {}: next {next}", schedule.cron, schedule.time_zone));
    }
    Ok(Exit::Done)
}

/// Returns the form of the answers: each column, or what the text is.
fn answers(form: Option<&Form>) -> Vec<String> {
    match form {
        None => Vec::new(),
        Some(Form::Object(members)) => members.iter().map(Member::description).collect(),
        Some(Form::Regex(regex)) => vec![format!("text that matches `{regex}`")],
        Some(Form::Choices(choices)) => vec![format!("one of {}", choices.join(" | "))],
    }
}

/// The maximum number of characters printed of a text.
const SHOWN_CHARS_MAX: usize = 200;

/// Returns a text on one line, shortened.
fn one_line(text: &str) -> String {
    let line = text.lines().map(str::trim_end).collect::<Vec<_>>().join("⏎");
    shortened(&line, SHOWN_CHARS_MAX).into_owned()
}
