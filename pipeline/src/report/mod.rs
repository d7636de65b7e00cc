//! The report of a run that a person opens: `_legenda/report.html`, one file that needs no network.
//!
//! What it shows is in `_legenda/report.json` and `gallery.json` beside it, so that the page can be made
//! again, and set beside that of another run.

mod gallery;
mod page;
mod sample;

use std::collections::HashSet;

use bytes::Bytes;
use legenda_schemas::{ledger::LedgerEntry, span::SpanId};
use serde::{Deserialize, Serialize};

pub use self::{
    gallery::Gallery,
    page::{PageError, page},
    sample::{AnswerSample, Histogram},
};
use crate::{
    ledger::{LedgerError, Output, OutputFiles},
    metrics::RunReport,
    plan::RunPlan,
    store::{Folder, ReadError, WriteError},
    timeline::Instance,
};

const REPORT: &str = "_legenda/report.json";
const GALLERY: &str = "_legenda/gallery.json";
const PAGE: &str = "_legenda/report.html";

/// A run, as it is written to `_legenda/report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredReport {
    /// What it did.
    #[serde(flatten)]
    pub run: RunReport,
    /// The task.
    pub task: String,
    /// The model.
    pub model: String,
    /// The request, as the job gives it.
    pub prompt: String,
    /// When it ended, in seconds since 1970.
    pub ended_at: u64,
    /// Its speed and memory over time.
    pub timeline: Vec<Instance>,
    /// What its answers are like.
    pub sample: AnswerSample,
}

impl StoredReport {
    /// Reads the report of an output, if it has one that this program can read.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the output cannot be read.
    pub fn read(output: &OutputFiles) -> Result<Option<Self>, LedgerError> {
        let bytes = output.folder.read(REPORT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

/// Writes the report of a run that has ended, and has left `entries` in the ledger, of which it has `done`
/// some, in three forms.
///
/// # Errors
///
/// [`WriteError`]. What the page would show and cannot be read back is left out.
pub(crate) fn write(
    output: &Output,
    plan: &RunPlan,
    run: &RunReport,
    timeline: Vec<Instance>,
    (entries, done): (&[LedgerEntry], &HashSet<SpanId>),
) -> Result<(), WriteError> {
    let files = output.files();
    let earlier = StoredReport::read(files).ok().flatten();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let sample = AnswerSample::take(files, entries);
    // Rows of earlier runs are not read again to be shown: where this one has none to show, those are
    // shown that were.
    let of_this_run: Vec<&LedgerEntry> =
        entries.iter().filter(|entry| done.contains(&entry.id)).collect();
    let mut gallery = Gallery::collect(plan, files, &of_this_run, &sample);
    if gallery.rows.is_empty()
        && let Ok(before) = read_gallery(files)
    {
        (gallery.rows, gallery.odd) = (before.rows, before.odd);
    }
    let report = StoredReport {
        run: run.clone(),
        task: plan.job.task.kind.as_str().to_owned(),
        model: plan.bundle_name.clone(),
        prompt: plan.given_prompt().to_owned(),
        ended_at: now.unwrap_or_default().as_secs(),
        timeline,
        sample,
    };
    output.write_report(REPORT, &report)?;
    output.write_report(GALLERY, &gallery)?;
    match page(&report, &gallery, earlier.as_ref(), "the run before") {
        Ok(html) => output.write_page(PAGE, html),
        Err(error) => {
            tracing::warn!(%error, "cannot make the page of the report");
            Ok(())
        }
    }
}

/// Reads the page about the last run of the output in `folder`, if there is one.
///
/// # Errors
///
/// [`ReadError`].
pub fn read_page(folder: &Folder) -> Result<Option<Bytes>, ReadError> {
    folder.read(PAGE)
}

/// Reads the gallery of an output; an empty one where there is none.
///
/// # Errors
///
/// [`LedgerError`] when the output cannot be read.
pub fn read_gallery(output: &OutputFiles) -> Result<Gallery, LedgerError> {
    let bytes = output.folder.read(GALLERY)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}
