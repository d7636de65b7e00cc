//! Hints: what a user can do about an error. Libraries describe errors; the remedy is known here, where the
//! command line is.

use std::error::Error;

use legenda_models::{BundleError, HubError, ModelError, RuntimeError, runtime::SessionError};
use legenda_pipeline::{
    CollectError, PlanError, RunError,
    eval::EvalError,
    export::ExportError,
    inspect::InspectError,
    ledger::LedgerError,
    openai::BatchError,
    query::QueryError,
    report::PageError,
    retry::RetryError,
    source::{SourceError, SourceFailed},
    store::{StoreFault, WriteError, fault_of},
    template::TemplateError,
};
use legenda_schemas::cause::causes;

use crate::{
    cli::{EMBEDDING_MODELS, TIMESTAMP_MODELS},
    schedule::{history::HistoryError, service::ServiceError},
};

const RERUN: &str = "committed spans are safe: fix the cause and run the same command again";
const REPORT_BUG: &str = "please report this";
const VERIFY: &str = "`legenda verify` reports the damage";

/// Returns the hints for an error and its sources.
pub(crate) fn hints(error: &(dyn Error + 'static)) -> Vec<String> {
    let fault = fault_of(error).and_then(StoreFault::hint);
    let mut hints: Vec<String> = causes(error).filter_map(hint).collect();
    if let Some(fault) = fault {
        // It says what the cause is.
        hints.retain(|hint| hint != RERUN);
        hints.push(fault);
    }
    hints
}

/// Returns the hint for an error without its sources. A transparent error hides the error inside it from the
/// chain, so its hint is that of the inner error.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hints = [
        typed(error, hub),
        typed(error, bundle),
        typed(error, model),
        typed(error, session),
        typed(error, runtime),
        typed(error, plan),
        typed(error, source),
        typed(error, query),
        typed(error, template),
        typed(error, inspect),
        typed(error, run),
        typed(error, ledger),
        typed(error, retry),
        typed(error, eval),
        typed(error, batch),
        typed(error, export),
        typed(error, |_: &WriteError| Some(RERUN.to_owned())),
        typed(error, |_: &SourceFailed| Some(RERUN.to_owned())),
        typed(error, |_: &PageError| Some(REPORT_BUG.to_owned())),
        typed(error, service),
        typed(error, history),
    ];
    hints.into_iter().flatten().next()
}

/// Returns the hint for an error of type `E`.
fn typed<E: Error + 'static>(
    error: &(dyn Error + 'static),
    hint: fn(&E) -> Option<String>,
) -> Option<String> {
    error.downcast_ref().and_then(hint)
}

fn hub(error: &HubError) -> Option<String> {
    Some(match error {
        HubError::NoCache => "set `HF_HOME` or `HF_HUB_CACHE`".to_owned(),
        HubError::NotCached { command, .. } => format!("to fetch it, run: {command}"),
        HubError::Refused { with_token: true, .. } => {
            "check the name, and that the account of the token in `HF_TOKEN` has access (accept the terms of a \
             gated model on its page)"
                .to_owned()
        }
        HubError::Refused { with_token: false, .. } => {
            "check the name; for a private or gated model, set `HF_TOKEN` or run `hf auth login`"
                .to_owned()
        }
        HubError::NotFound { .. } => "check the name".to_owned(),
        HubError::Connection { .. } => {
            "partial downloads are kept: run the command again to resume".to_owned()
        }
        HubError::Certificate { .. } => {
            "if a proxy or a private Hub has its own certificate, set `SSL_CERT_FILE` to a file with the \
             certificate of its issuer"
                .to_owned()
        }
        HubError::Damaged { .. } => "run the command again".to_owned(),
        _ => return None,
    })
}

fn bundle(error: &BundleError) -> Option<String> {
    match error {
        BundleError::Hub(error) => hub(error),
        BundleError::TaskKind { task: "embed", .. } => Some(EMBEDDING_MODELS.to_owned()),
        BundleError::TaskOption { key: "task.timestamps", .. } => Some(TIMESTAMP_MODELS.to_owned()),
        BundleError::TaskNeeds { .. } => Some("`legenda models` lists models".to_owned()),
        BundleError::TaskKind { .. } => {
            Some("set another `task.kind` or `model.bundle`".to_owned())
        }
        _ => None,
    }
}

fn model(error: &ModelError) -> Option<String> {
    match error {
        ModelError::Bundle(error) => bundle(error),
        ModelError::Session(error) => session(error),
        ModelError::BeamsDraw { .. } => {
            Some("set `generation.temperature` to 0 or `generation.num_beams` to 1".to_owned())
        }
        ModelError::PooledInside { .. } => Some("remove `embedding.pooling`".to_owned()),
        _ => None,
    }
}

fn session(error: &SessionError) -> Option<String> {
    match error {
        SessionError::Padding { .. } => Some("set `model.slots = 1`".to_owned()),
        SessionError::NotOnCuda { .. } => Some(
            "choose a bundle or `model.precision` in fp16, or set `model.device = \"cpu\"`"
                .to_owned(),
        ),
        _ => None,
    }
}

fn runtime(error: &RuntimeError) -> Option<String> {
    match error {
        RuntimeError::NotFound { command, .. } => Some(format!("to install it, run: {command}")),
        _ => None,
    }
}

fn plan(error: &PlanError) -> Option<String> {
    match error {
        PlanError::Source(error) => source(error),
        PlanError::Template(error) => template(error),
        PlanError::Bundle(error) => bundle(error),
        PlanError::Query(error) => query(error),
        PlanError::Modality { .. } => {
            Some("remove the key, or choose another `model.bundle`".to_owned())
        }
        PlanError::Partition { remedy, .. } => Some((*remedy).to_owned()),
        PlanError::Retry { .. } => Some("a retry may only change `limits`".to_owned()),
        PlanError::OutputHoldsInput { .. } => Some("choose another `output.path`".to_owned()),
        _ => None,
    }
}

fn source(error: &SourceError) -> Option<String> {
    Some(match error {
        SourceError::NothingFound { .. } => {
            "correct the path or pattern, or set `source.format`".to_owned()
        }
        SourceError::Parquet { .. } => {
            "replace the file, or exclude it from `source.paths`".to_owned()
        }
        SourceError::OutOfReach { .. } => {
            "make the file readable again, or delete it to drop its answers".to_owned()
        }
        SourceError::Format { .. } => {
            "replace the file, exclude it from `source.paths`, or set `source.format`".to_owned()
        }
        SourceError::Foreign { remedy, .. } => (*remedy).to_owned(),
        SourceError::TypedFile { .. } => "remove `source.schema`".to_owned(),
        SourceError::Differs { .. } => {
            "make the types equal, or exclude the column with `output.columns`".to_owned()
        }
        SourceError::ReservedColumn { .. } => {
            "rename the column, or list the columns to carry in `output.columns`".to_owned()
        }
        _ => return None,
    })
}

fn query(error: &QueryError) -> Option<String> {
    Some(match error {
        QueryError::LeftOut => {
            "build the program with default features, or remove `source.query`".to_owned()
        }
        QueryError::TooLarge { .. } => "use fewer columns, or raise `limits.memory`".to_owned(),
        QueryError::Taken { .. } => "give the column another name with `AS`".to_owned(),
        QueryError::Bytes { .. } => "leave the column out".to_owned(),
        QueryError::Table { source: error, .. } => return source(error),
        _ => return None,
    })
}

fn template(error: &TemplateError) -> Option<String> {
    match error {
        // For example `{{ Review Text }}`.
        TemplateError::Syntax { source, .. }
            if source.to_string().contains("unexpected identifier") =>
        {
            Some("write `row[\"name\"]` for a column whose name is not an identifier".to_owned())
        }
        _ => None,
    }
}

fn inspect(error: &InspectError) -> Option<String> {
    match error {
        InspectError::Source(error) => source(error),
        InspectError::Failed(_) => Some("try again later".to_owned()),
        _ => None,
    }
}

fn run(error: &RunError) -> Option<String> {
    match error {
        RunError::Ledger(error) => ledger(error),
        RunError::Collect(CollectError::Write(_) | CollectError::Source(_))
        | RunError::Write(_)
        | RunError::Source(_) => Some(RERUN.to_owned()),
        RunError::Retry(error) => retry(error),
        RunError::Memory { needed_mib, .. } => Some(format!("set it to at least {needed_mib} MiB")),
        RunError::Collect(_) | RunError::Stage { .. } => Some(REPORT_BUG.to_owned()),
        _ => None,
    }
}

fn ledger(error: &LedgerError) -> Option<String> {
    Some(match error {
        LedgerError::Write(_) => RERUN.to_owned(),
        LedgerError::Read { .. } => "restore the file, or start over with `--overwrite`".to_owned(),
        LedgerError::Version { .. } => {
            "use the program that wrote it, or start over with `--overwrite`".to_owned()
        }
        LedgerError::OtherJob { .. } => {
            "choose another `output.path`, replace the answers with `--overwrite`, or see `--stale`"
                .to_owned()
        }
        LedgerError::OtherShape { .. } => {
            "choose another `output.path`, or recompute the answers with `--stale redo`".to_owned()
        }
        LedgerError::Foreign { path } => {
            format!("move the ledger to `{path}.legenda`, or choose another `output.path`")
        }
        LedgerError::Locked { .. } => {
            "wait for the other run, or choose another `output.path`".to_owned()
        }
        _ => return None,
    })
}

fn retry(error: &RetryError) -> Option<String> {
    match error {
        RetryError::SeveralParts => {
            Some("fix the rows and run the job with `--overwrite`".to_owned())
        }
        RetryError::Damaged { .. } => Some(VERIFY.to_owned()),
        _ => None,
    }
}

fn eval(error: &EvalError) -> Option<String> {
    match error {
        EvalError::Ledger(error) => ledger(error),
        EvalError::Damaged { .. } => Some(VERIFY.to_owned()),
        EvalError::Column { .. } => Some("check `output.columns`".to_owned()),
        EvalError::NoKey { .. } => Some("pass `--id COLUMN` to match by key".to_owned()),
        EvalError::Twice { .. } => Some("pass an `--id` column with unique values".to_owned()),
        _ => None,
    }
}

fn batch(error: &BatchError) -> Option<String> {
    match error {
        BatchError::Source(error) => source(error),
        BatchError::Ledger(error) => ledger(error),
        BatchError::Part { .. } => Some(VERIFY.to_owned()),
        _ => None,
    }
}

fn export(error: &ExportError) -> Option<String> {
    match error {
        ExportError::Ledger(error) => ledger(error),
        ExportError::Damaged { .. } => Some(VERIFY.to_owned()),
        ExportError::NoAnswers { .. } => Some("pass `--rejects` to export the rejects".to_owned()),
        ExportError::Differs { .. } => {
            Some("read the parts with DuckDB or Polars, which can join them by name".to_owned())
        }
        ExportError::Exists { .. } => Some("pass `--force` to replace it".to_owned()),
        ExportError::Inside { .. } => Some("choose a file in another folder".to_owned()),
        _ => None,
    }
}

fn service(error: &ServiceError) -> Option<String> {
    match error {
        ServiceError::Locked { .. } => {
            Some("stop the other service, or choose another `--state`".to_owned())
        }
        ServiceError::History(error) => history(error),
        _ => None,
    }
}

fn history(error: &HistoryError) -> Option<String> {
    match error {
        HistoryError::Version { .. } => {
            Some("use the version of legenda that wrote it, or another `--state`".to_owned())
        }
        HistoryError::Sqlite(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use legenda_models::{BundleError, HubError};
    use legenda_pipeline::{
        PlanError, RunError,
        source::{SourceError, SourceFailed},
        store::StoreFault,
        template::Template,
    };

    use super::{RERUN, hints};

    #[test]
    fn hints_are_found_behind_contexts_and_transparent_errors() {
        let missing = SourceError::NothingFound { entry: "x".to_owned(), skipped: String::new() };
        let error = Err::<(), _>(PlanError::from(missing)).context("invalid job").unwrap_err();
        assert_eq!(hints(&*error), ["correct the path or pattern, or set `source.format`"]);
        let command = "legenda models pull hf://owner/name".to_owned();
        let error = HubError::NotCached {
            repo: "hf://owner/name".to_owned(),
            file: "config.json".to_owned(),
            problem: "`--offline` is given".to_owned(),
            command: command.clone(),
        };
        let error = Err::<(), _>(BundleError::from(error)).context("invalid model").unwrap_err();
        assert_eq!(hints(&*error), [format!("to fetch it, run: {command}")]);
        assert_eq!(hints(&io::Error::other("full")), [""; 0]);
        let spaced = Template::compile("task.prompt", "{{ Review Text }}").unwrap_err();
        assert!(hints(&PlanError::from(spaced))[0].contains("write `row[\"name\"]`"));
    }

    #[test]
    fn the_hint_of_a_store_replaces_the_general_one() {
        let failed = |source: io::Error| {
            RunError::from(SourceFailed { path: "t.parquet".to_owned(), source: source.into() })
        };
        assert_eq!(hints(&failed(io::Error::other("disk failed"))), [RERUN]);
        let fault = StoreFault::OtherRegion { region: Some("eu-west-1".to_owned()) };
        assert_eq!(hints(&failed(io::Error::other(fault))), ["set `AWS_REGION=eu-west-1`"]);
    }
}
