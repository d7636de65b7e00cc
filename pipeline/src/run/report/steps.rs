//! What a reader of the report may do next, as commands.

use legenda_models::BundleSource;
use legenda_schemas::job::Format;
use serde::Serialize;

use super::StoredReport;
use crate::{base::store::is_url, run::metrics::Ending};

/// A next step.
#[derive(Serialize)]
pub(super) struct Step {
    what: &'static str,
    command: String,
}

/// Returns whether the model inside this program answered.
pub(super) fn is_embedded(report: &StoredReport) -> bool {
    report.model == BundleSource::EMBEDDED_NAME
}

/// Returns the next steps after a run, the most useful first.
pub(super) fn steps(report: &StoredReport) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |what, command| steps.push(Step { what, command });
    let has_command = !report.command.is_empty();
    if report.run.ending != Ending::Complete && has_command {
        let command = report.command.replace(" --overwrite", "");
        add("Resume: committed rows are not computed again", command);
    }
    // Reports of earlier versions do not name the output.
    let Some(output) = quoted(&report.output) else { return steps };
    if report.run.answers > 0 {
        let glob = format!("{}/**/*.{}", report.output, report.format.extension());
        match report.format {
            _ if is_url(&report.output) => {}
            Format::Parquet | Format::Jsonl | Format::Csv => {
                add("Read the answers", format!("duckdb -c \"FROM '{glob}' LIMIT 10\""));
            }
            Format::Arrow => {
                let code = format!("import polars; print(polars.read_ipc('{glob}'))");
                add("Read the answers", format!("python3 -c \"{code}\""));
            }
        }
    }
    if report.run.n_rejects() > 0 {
        add("Try the rejected rows again", format!("legenda retry {output}"));
    }
    add("Prove that each row is in the output once", format!("legenda verify {output}"));
    if is_embedded(report) && report.command.starts_with("legenda run ") {
        let command = report.command.replace(" --overwrite", "");
        let command = format!("{command} --overwrite --set model.bundle=hf://OWNER/NAME");
        add("Run another model, from the Hugging Face Hub", command);
    }
    steps
}

/// Returns a path as a word of a shell; `None` if it needs more than quotes.
fn quoted(path: &str) -> Option<String> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:@+=,".contains(c);
    let needs_more = |c: char| c.is_control() || "'\"\\$`!*?[".contains(c);
    match path {
        "" => None,
        _ if path.chars().all(is_plain) => Some(path.to_owned()),
        _ if path.contains(needs_more) => None,
        _ => Some(format!("'{path}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/data/out-1").as_deref(), Some("/data/out-1"));
        assert_eq!(quoted("my photos/out").as_deref(), Some("'my photos/out'"));
        for odd in ["", "it's", "$(reboot)", "a\nb"] {
            assert_eq!(quoted(odd), None, "{odd}");
        }
    }
}
