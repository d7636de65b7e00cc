//! The files of a report: written when a run ends, and read to rebuild its page.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use legenda_schemas::{cause::chain, job::Format, ledger::LedgerEntry, span::SpanId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{gallery::Gallery, page::page, sample::AnswerSample};
use crate::{
    base::store::{Folder, ReadError, WriteError},
    output::ledger::{LedgerError, Output, OutputFiles},
    run::{metrics::RunReport, plan::RunPlan, timeline::TimelineSample},
};

/// The colours of the report, and of other pages that belong to it: custom properties of CSS, in light and
/// dark.
pub const PALETTE: &str = include_str!("palette.css");

const REPORT: &str = "_legenda/report.json";
const GALLERY: &str = "_legenda/gallery.json";
const PAGE: &str = "_legenda/report.html";

/// The report of a run as stored in `_legenda/report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredReport {
    /// The run's counts.
    #[serde(flatten)]
    pub run: RunReport,
    /// The task.
    pub task: String,
    /// The model.
    pub model: String,
    /// The revision of the model: a commit, or a digest of its files.
    #[serde(default)]
    pub revision: String,
    /// The prompt of the job.
    pub prompt: String,
    /// The command that started the run; empty if it is unknown.
    #[serde(default)]
    pub command: String,
    /// The path or URL of the output.
    #[serde(default)]
    pub output: String,
    /// The format of the answers.
    #[serde(default)]
    pub format: Format,
    /// The keys of the job that decide answers, as text.
    #[serde(default)]
    pub job: BTreeMap<String, String>,
    /// The end time in seconds since 1970.
    pub ended_at: u64,
    /// The speed and memory over time.
    pub timeline: Vec<TimelineSample>,
    /// Statistics of the answers.
    pub sample: AnswerSample,
}

impl StoredReport {
    /// Reads the report of an output, if it has one in a supported version.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] if the output cannot be read.
    pub fn read(output: &OutputFiles) -> Result<Option<Self>, LedgerError> {
        let bytes = output.folder.read(REPORT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// Writes the report of a completed run in three files. `entries` are all ledger entries, of which the run
/// committed `done`; `observed` are its timeline and its command.
///
/// # Errors
///
/// [`WriteError`]. Content that cannot be read back is omitted.
pub(crate) fn write(
    output: &Output,
    plan: &RunPlan,
    run: &RunReport,
    (timeline, command): (Vec<TimelineSample>, String),
    (entries, done): (&[LedgerEntry], &HashSet<SpanId>),
) -> Result<(), WriteError> {
    let files = output.files();
    let earlier = StoredReport::read(files).ok().flatten();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let sample = AnswerSample::take(files, entries);
    // Rows of earlier runs are only shown if this run has none, and then taken from the
    // earlier gallery.
    let entries_of_run: Vec<&LedgerEntry> =
        entries.iter().filter(|entry| done.contains(&entry.id)).collect();
    let mut gallery = Gallery::collect(plan, files, &entries_of_run, &sample);
    if gallery.rows.is_empty()
        && let Ok(before) = read_gallery(files)
    {
        (gallery.rows, gallery.odd) = (before.rows, before.odd);
    }
    let report = StoredReport {
        run: run.clone(),
        task: plan.job.task.kind.as_str().to_owned(),
        model: plan.bundle_name.clone(),
        revision: plan.revision().to_owned(),
        prompt: plan.given_prompt().to_owned(),
        command,
        output: files.folder.path_of(""),
        format: plan.job.output.format,
        job: job_keys(plan),
        ended_at: now.unwrap_or_default().as_secs(),
        timeline,
        sample,
    };
    output.write_report(REPORT, &report)?;
    output.write_report(GALLERY, &gallery)?;
    match page(&report, &gallery, earlier.as_ref(), "the previous run") {
        Ok(html) => output.write_page(PAGE, html),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(error, "failed to build the report page");
            Ok(())
        }
    }
}

/// Returns the keys of the job that decide answers with their values, as in a job file.
fn job_keys(plan: &RunPlan) -> BTreeMap<String, String> {
    fn add(keys: &mut BTreeMap<String, String>, key: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(values) => {
                values.iter().for_each(|(name, value)| add(keys, &format!("{key}.{name}"), value));
            }
            Value::Array(values) if values.is_empty() => {}
            value => drop(keys.insert(key.to_owned(), value.to_string())),
        }
    }
    let mut keys = BTreeMap::new();
    for (key, value) in &plan.ledger.identity {
        add(&mut keys, key, value);
    }
    keys
}

/// Reads the report page of the last run of the output in `folder`, if any.
///
/// # Errors
///
/// [`ReadError`].
pub fn read_page(folder: &Folder) -> Result<Option<Bytes>, ReadError> {
    folder.read(PAGE)
}

/// Reads the gallery of an output; empty if there is none.
///
/// # Errors
///
/// [`LedgerError`] if the output cannot be read.
pub fn read_gallery(output: &OutputFiles) -> Result<Gallery, LedgerError> {
    let bytes = output.folder.read(GALLERY)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}
