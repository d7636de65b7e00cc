//! What a job does, in words.

use legenda_pipeline::store::public_location;
use legenda_schemas::{
    job::{CatchUp, Hooks, Job, RejectsMode, TaskKind},
    units::{counted, counted_as},
};
use serde::Serialize;

/// The number of sources that the sentence names.
const SOURCES_NAMED: usize = 2;

/// What a job does.
#[derive(Debug, Serialize)]
pub(super) struct JobAbout {
    /// A sentence: `Captions the images of photos.parquet with the model legenda-tiny.`
    sentence: String,
    /// Further keys of the job with their values.
    facts: Vec<(&'static str, String)>,
}

impl JobAbout {
    pub(super) fn new(job: &Job) -> Self {
        let columns = &job.source.columns;
        let inputs: Vec<&str> = [
            (columns.image.is_some(), "images"),
            (columns.audio.is_some(), "audio"),
            (columns.text.is_some(), "texts"),
            (columns.messages.is_some(), "conversations"),
        ]
        .into_iter()
        .filter_map(|(is_read, name)| is_read.then_some(name))
        .collect();
        let inputs = if inputs.is_empty() { "rows".to_owned() } else { inputs.join(" and ") };
        let verb = match job.task.kind {
            TaskKind::Caption => "Captions the",
            TaskKind::Answer => "Answers questions about the",
            TaskKind::Transcribe => "Transcribes the",
            TaskKind::Generate => "Generates text from the",
            TaskKind::Embed => "Computes embeddings of the",
        };
        let sources: Vec<String> =
            job.source.paths.iter().map(|path| public_location(path)).collect();
        let mut named = sources[..sources.len().min(SOURCES_NAMED)].join(" and ");
        if sources.len() > SOURCES_NAMED {
            let more = (sources.len() - SOURCES_NAMED) as u64;
            named += &format!(" and {}", counted_as(more, "more source", "more sources"));
        }
        let model = &job.model.bundle;
        let sentence = format!("{verb} {inputs} of {named} with the model {model}.");
        Self { sentence, facts: facts(job, &sources) }
    }
}

fn facts(job: &Job, sources: &[String]) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut add = |key, value: Option<String>| facts.extend(value.map(|value| (key, value)));
    add("Sources", (sources.len() > SOURCES_NAMED).then(|| sources.join("\n")));
    add("Rows", job.source.query.as_ref().map(|query| format!("those of the query {query}")));
    add("Prompt", job.task.prompt.clone());
    add("System prompt", job.task.system.clone());
    add("Language", job.task.language.clone());
    let format = job.output.format.extension();
    let rejects = match job.output.rejects {
        RejectsMode::Inline => "rejects between the answers",
        _ => "rejects in a folder next to them",
    };
    add("Answers", Some(format!("{format} files, {rejects}")));
    add("Error budget", job.limits.error_budget.map(|budget| format!("{budget} of the rows")));
    if let Some(schedule) = &job.schedule {
        let retries = counted_as(schedule.retries.into(), "retry", "retries");
        let limit = schedule.timeout.map(|limit| format!(", stopped after {limit}"));
        add("On failure", Some(format!("{retries}{}", limit.unwrap_or_default())));
    }
    let Hooks { on_success, on_failure } = &job.hooks;
    let hooks = [(on_success, "success"), (on_failure, "failure")]
        .into_iter()
        .filter(|(hooks, _)| !hooks.is_empty())
        .map(|(hooks, event)| format!("{} on {event}", counted(hooks.len() as u64, "hook")))
        .collect::<Vec<_>>();
    add("Hooks", (!hooks.is_empty()).then(|| hooks.join(", ")));
    facts
}

/// Describes the handling of missed slots.
pub(super) fn catch_up(catch_up: CatchUp) -> &'static str {
    match catch_up {
        CatchUp::None => "missed times are skipped",
        CatchUp::Last => "of missed times, the last one runs",
        CatchUp::All => "missed times all run later",
    }
}

#[cfg(test)]
mod tests {
    use legenda_schemas::job::Job;

    use super::JobAbout;

    #[test]
    fn a_job_is_described_without_secrets() {
        let text = "version = 1\ntask = { kind = \"caption\", prompt = \"What is shown?\" }\n\
                    output = { path = \"out\" }\n[source]\n\
                    paths = [\"https://me:pass@host/a.parquet?sig=secret\", \"b.parquet\", \"c.parquet\"]\n\
                    columns = { image = \"image\" }\n\
                    [[hooks.on_success]]\nurl = \"https://host/secret\"\n";
        let about = JobAbout::new(&Job::parse(text, &[]).unwrap());
        assert_eq!(
            about.sentence,
            "Captions the images of https://host/a.parquet and b.parquet and 1 more source \
             with the model legenda-tiny."
        );
        let facts = format!("{:?}", about.facts);
        assert!(facts.contains("What is shown?") && facts.contains("1 hook on success"), "{facts}");
        assert!(!facts.contains("secret") && !facts.contains("pass@"), "{facts}");
    }
}
