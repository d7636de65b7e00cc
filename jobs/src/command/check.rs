//! `legenda check`.

use chrono::Utc;
use legenda_models::EmbeddingInput;
use legenda_schemas::{job::Device, units::counted};

use super::{check_job, open_runtime, print};
use crate::{
    cli::JobArgs,
    failure::{Exit, Failure},
    summary,
};

/// Checks a job and prints what it would do.
pub(crate) fn check(args: &JobArgs) -> Result<Exit, Failure> {
    let checked = check_job(args)?;
    let plan = &checked.plan;
    if plan.job.model.device == Device::Cuda {
        let runtime = open_runtime(args.offline, plan.job.model.threads)?;
        runtime.choose_device(Device::Cuda).map_err(Failure::config)?;
    }
    print(&format!("job        {}: valid", args.job.display()));
    print(&format!("task       {}", plan.job.task.kind.as_str()));
    match &plan.embedding {
        None => {
            let none = "none: the model reads no text";
            let prompt = if plan.reads_text { plan.given_prompt() } else { none };
            print(&format!("prompt     {prompt}"));
        }
        Some(embedding) => match embedding.input {
            EmbeddingInput::Image => print("embeds     images"),
            EmbeddingInput::Audio => print("embeds     sounds"),
            EmbeddingInput::Text => {
                let template = plan.given_prompt();
                print(&format!("embeds     texts: {}{template}", embedding.prefix));
            }
        },
    }
    let precision = checked.bundle.precision().map_err(Failure::config)?;
    let architecture = checked.bundle.architecture();
    print(&format!("model      {} ({architecture}, {precision})", plan.bundle_name));
    let rows = match plan.rows_of_query() {
        Some(all) => format!("{} of {}", plan.n_rows(), counted(all, "row")),
        None => counted(plan.n_rows(), "row"),
    };
    let files = counted(plan.table.n_files() as u64, "file");
    let spans = counted(plan.ledger.spans.len() as u64, "span");
    print(&format!("source     {rows} in {files} ({spans})"));
    for line in summary::skipped(&plan.table.skipped) {
        print(&format!("           {line}"));
    }
    print(&format!("reads      {}", plan.read_columns.join(", ")));
    let carried: Vec<&str> = plan.carried.iter().map(|field| field.name().as_str()).collect();
    print(&format!("carries    {}", carried.join(", ")));
    print(&format!("output     {}", plan.output.path_of("")));
    if let Some(schedule) = &plan.job.schedule {
        let next = schedule.cron.next_after(Utc::now(), schedule.time_zone);
        let next = next.map_or("never".to_owned(), |next| schedule.time_zone.show(next));
        print(&format!("schedule   {} {}: next {next}", schedule.cron, schedule.time_zone));
    }
    Ok(Exit::Done)
}
