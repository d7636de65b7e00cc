//! The predicted cost of a run, which an output keeps for its next run, and its comparison with the actual cost.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use legenda_schemas::{span::Fingerprint, units::ByteSize};
use serde::{Deserialize, Serialize};

use super::metrics::{Ending, RunReport};
use crate::base::store::{Folder, WriteError, json};

/// The key of the prediction in an output.
const PREDICTION: &str = "_legenda/prediction.json";

/// The predicted cost of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The fingerprint of the job.
    pub fingerprint: Fingerprint,
    /// The number of rows of the job.
    pub rows: u64,
    /// The number of sampled rows.
    pub sampled: u64,
    /// The duration of the sample in seconds.
    pub sample_seconds: f64,
    /// The duration of the run in seconds, without loading the model.
    pub seconds: Estimate,
    /// The peak memory of the process in bytes.
    pub peak_memory_bytes: Option<Estimate>,
    /// Prompt tokens.
    pub tokens_prompt: Estimate,
    /// Generated tokens.
    pub tokens_generated: Estimate,
    /// Bytes of parts and rejects.
    pub output_bytes: Estimate,
    /// Rejected rows.
    pub rejects: Estimate,
    /// Rejected rows of the sample, by code.
    pub sample_rejects: BTreeMap<String, u64>,
}

/// A predicted quantity next to the actual one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredictionCheck {
    /// The name of the quantity.
    pub what: &'static str,
    /// The formatted prediction.
    pub predicted: String,
    /// The formatted interval.
    pub interval: String,
    /// The formatted actual value.
    pub truth: String,
    /// Whether the actual value is within the interval.
    pub is_within: bool,
}

/// A settled row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SettledRow {
    pub(crate) at: Instant,
    pub(crate) span_idx: usize,
    pub(crate) is_rejected: bool,
    pub(crate) tokens_prompt: u64,
    pub(crate) tokens_generated: u64,
}

/// A log of the settled rows of a run.
#[derive(Debug, Default)]
pub struct SettledRows(Mutex<Vec<SettledRow>>);

impl SettledRows {
    pub(crate) fn note(&self, row: SettledRow) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// Returns the rows settled so far.
    pub(crate) fn rows(&self) -> Vec<SettledRow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An estimated quantity of the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The lower end of the interval.
    pub low: f64,
    /// The point estimate.
    pub value: f64,
    /// The upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// Returns an exactly known quantity.
    #[must_use]
    pub fn known(value: f64) -> Self {
        Self { low: value, value, high: value }
    }

    /// Returns whether `truth` lies within the interval.
    #[must_use]
    pub fn holds(&self, truth: f64) -> bool {
        (self.low..=self.high).contains(&truth)
    }

    /// Adds a known quantity.
    pub(crate) fn plus(self, known: f64) -> Self {
        Self { low: self.low + known, value: self.value + known, high: self.high + known }
    }

    /// Scales to a number of rows that is itself uncertain: for two independent uncertainties, the squares
    /// are added (like relative errors, to first order). `self` is the estimate for `rows.value` rows.
    pub(crate) fn scaled_to(self, rows: Estimate) -> Self {
        let per_row = if rows.value > 0.0 { self.value / rows.value } else { 0.0 };
        let below = (self.value - self.low).hypot(per_row * (rows.value - rows.low));
        let above = (self.high - self.value).hypot(per_row * (rows.high - rows.value));
        Self { low: (self.value - below).max(0.0), value: self.value, high: self.value + above }
    }

    pub(crate) fn plus_each(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            value: self.value + other.value,
            high: self.high + other.high,
        }
    }

    pub(crate) fn widened(self, low: f64, high: f64) -> Self {
        Self { low: self.low.min(low), value: self.value, high: self.high.max(high) }
    }
}

impl Prediction {
    /// Saves the prediction in an output, for its next run. No file of a run is touched, so concurrent
    /// writers are not affected.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    pub fn save(&self, output: &Folder) -> Result<(), WriteError> {
        output.make_dirs(&["_legenda"], false)?;
        let path = || output.path_of(PREDICTION);
        let json = json(self).map_err(|problem| WriteError::new(path(), problem))?;
        output.replace(PREDICTION, json)
    }

    /// Reads the prediction of an output, if it has one for this job.
    pub(crate) fn read(output: &Folder, fingerprint: &Fingerprint) -> Option<Self> {
        let bytes = output.read(PREDICTION).ok().flatten()?;
        let found: Self = serde_json::from_slice(&bytes).ok()?;
        (found.fingerprint == *fingerprint).then_some(found)
    }

    /// Returns the known quantities.
    fn numbers(&self) -> Vec<Number> {
        let number = |what, estimate, shown| Number { what, estimate, shown };
        let count: fn(f64) -> String = |value| format!("{value:.0}");
        [
            Some(number("seconds", self.seconds, |value| format!("{value:.1}"))),
            self.peak_memory_bytes.map(|peak| number("peak memory", peak, shown_bytes)),
            Some(number("prompt tokens", self.tokens_prompt, count)),
            Some(number("generated tokens", self.tokens_generated, count)),
            Some(number("output bytes", self.output_bytes, shown_bytes)),
            Some(number("rejects", self.rejects, count)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns the quantities formatted as name, value and interval.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String, String)> {
        let line = |number: Number| (number.what, number.value(), number.interval());
        self.numbers().into_iter().map(line).collect()
    }
}

/// A predicted quantity and its format.
struct Number {
    what: &'static str,
    estimate: Estimate,
    shown: fn(f64) -> String,
}

impl Number {
    fn value(&self) -> String {
        (self.shown)(self.estimate.value)
    }

    fn interval(&self) -> String {
        format!("{} to {}", (self.shown)(self.estimate.low), (self.shown)(self.estimate.high))
    }
}

impl RunReport {
    /// Compares the prediction with the actual values; empty unless this run processed the whole job.
    #[must_use]
    pub fn prediction_checks(&self) -> Vec<PredictionCheck> {
        let is_whole = self.ending == Ending::Complete
            && self.rows_resumed == 0
            && self.rows_retried.is_none();
        let prediction = self.prediction.as_ref().filter(|it| is_whole && it.rows == self.rows_in);
        let Some(prediction) = prediction else { return Vec::new() };
        let truth = |what: &str| match what {
            "seconds" => Some(self.seconds),
            "peak memory" => self.peak_memory_bytes.map(as_f64),
            "prompt tokens" => Some(as_f64(self.tokens_prompt + self.tokens_prompt_spared)),
            "generated tokens" => {
                Some(as_f64(self.tokens_generated + self.tokens_generated_spared))
            }
            "output bytes" => Some(as_f64(self.output_bytes)),
            _ => Some(as_f64(self.n_rejects())),
        };
        let check = |number: Number| {
            let truth = truth(number.what)?;
            Some(PredictionCheck {
                what: number.what,
                predicted: number.value(),
                interval: number.interval(),
                truth: (number.shown)(truth),
                is_within: number.estimate.holds(truth),
            })
        };
        prediction.numbers().into_iter().filter_map(check).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a prediction need not be exact")]
pub(crate) fn as_f64(n: u64) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes of a prediction are positive, and need not be exact"
)]
fn shown_bytes(value: f64) -> String {
    ByteSize(value.round().max(0.0) as u64).to_string()
}
