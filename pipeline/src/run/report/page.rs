//! Renders the report page, HTML without scripts.

use chrono::DateTime;
use legenda_schemas::{
    job::TaskKind,
    units::{ByteSize, Period, grouped, percent},
};
use minijinja::{AutoEscape, Environment, Value, context, value::Serde};
use serde::Serialize;

use super::{
    Gallery, PALETTE, StoredReport,
    charts::{HEIGHT, WIDTH, as_f64, curves, histograms, number},
    gallery::Shown,
    steps::{is_embedded, steps},
};
use crate::run::metrics::Ending;

/// The page cannot be rendered: a bug in this program.
#[derive(Debug, thiserror::Error)]
#[error("failed to render the report page")]
pub struct PageError(#[from] minijinja::Error);

/// A quantity of two runs.
#[derive(Serialize)]
struct Drift {
    what: &'static str,
    before: String,
    now: String,
    change: String,
    /// Whether it changed by more than a fifth.
    is_large: bool,
}

/// The busy share of a stage.
#[derive(Serialize)]
struct StageShare {
    name: &'static str,
    seconds: String,
    percent: f64,
}

/// A sample row with its certainty in words.
#[derive(Serialize)]
struct Card<'a> {
    #[serde(flatten)]
    shown: &'a Shown,
    certainty: Option<String>,
}

/// Renders the page of a run and compares it with `other`, called `other_name`.
///
/// # Errors
///
/// [`PageError`].
pub fn page(
    report: &StoredReport,
    gallery: &Gallery,
    other: Option<&StoredReport>,
    other_name: &str,
) -> Result<String, PageError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("cosine", |similarity: f64| format!("{similarity:.2}"));
    environment.add_template("report", include_str!("report.html"))?;
    let run = &report.run;
    let (sample, seconds) = (&report.sample, run.seconds.max(1e-9));
    let ending = match run.ending {
        Ending::Complete => "complete",
        Ending::ErrorBudget => "stopped: error budget spent",
        Ending::Stopped => "stopped, can be resumed",
    };
    let share = |rows: u64| percent(ratio(rows, sample.rows));
    let rejects: Vec<_> = sample.rejects.iter().map(|reject| {
        context! { code => reject.code.as_str(), rows => grouped(reject.rows), examples => value(&reject.examples) }
    }).collect();
    let common: Vec<(&str, String)> =
        sample.common.iter().map(|(text, rows)| (text.as_str(), grouped(*rows))).collect();
    let flags = [
        ("truncated at the maximum length", sample.truncated),
        ("repetitive", sample.repeating),
        ("empty", sample.empty),
    ];
    let flags: Vec<Value> = flags
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(name, rows)| context! { name, rows => grouped(rows), share => share(rows) })
        .collect();
    let stages = [("encoders", run.encode_seconds), ("decoder", run.generate_seconds)];
    let stages: Vec<StageShare> = stages
        .into_iter()
        .filter(|(_, at_work)| *at_work > 0.0)
        .map(|(name, at_work)| StageShare {
            name,
            seconds: duration(at_work),
            percent: (at_work / seconds * 100.0).min(100.0),
        })
        .collect();
    let peak = run.peak_memory_bytes.map(|bytes| {
        let share = ratio(bytes, run.memory_limit_bytes);
        context! { text => ByteSize(bytes).to_string(), share => percent(share), percent => (share * 100.0).min(100.0), kept => bytes <= run.memory_limit_bytes }
    });
    let rows_here = run.rows_retried.unwrap_or(run.rows_in.saturating_sub(run.rows_resumed));
    let rendered = environment.get_template("report")?.render(context! {
        task => report.task.as_str(),
        model => report.model.as_str(),
        palette => PALETTE,
        prompt => report.prompt.as_str(),
        is_embedded => is_embedded(report),
        is_embed => report.task == TaskKind::Embed.as_str(),
        steps => value(steps(report)),
        command => report.command.as_str(),
        output => report.output.as_str(),
        revision => report.revision.as_str(),
        device => run.device.as_str(),
        job => value(&report.job),
        ending,
        is_complete => run.ending == Ending::Complete,
        ended => utc(report.ended_at),
        rows_in => grouped(run.rows_in),
        answers => grouped(run.answers),
        rejected => grouped(run.n_rejects()),
        reject_share => percent(ratio(run.n_rejects(), run.rows_in)),
        resumed => grouped(run.rows_resumed),
        rows_here => grouped(rows_here),
        duration => duration(run.seconds),
        rows_per_second => number(as_f64(rows_here) / seconds),
        tokens_per_second => (run.tokens_generated > 0)
            .then(|| number(as_f64(run.tokens_generated) / seconds)),
        bytes_read => ByteSize(run.bytes_read + run.bytes_planned).to_string(),
        store_retries => run.store_retries,
        memory_limit => ByteSize(run.memory_limit_bytes).to_string(),
        peak,
        skipped => (!run.skipped.is_empty()).then(|| run.skipped.to_string()),
        faults => run.skipped.faults().collect::<Vec<String>>(),
        reused => grouped(run.rows_reused + run.rows_repeated),
        stages => value(&stages),
        checks => value(run.prediction_checks()),
        rejects => value(rejects),
        sampled => grouped(sample.rows),
        flags,
        common => value(common),
        curves => value(curves(report)),
        histograms => value(histograms(report)),
        gallery => value(cards(&gallery.rows)),
        odd => value(cards(&gallery.odd)),
        refused => value(cards(&gallery.rejected)),
        drift => other.map(|other| value(drift(other, report))),
        other_name,
        chart => context! { width => WIDTH, height => HEIGHT },
    })?;
    Ok(rendered)
}

fn cards(rows: &[Shown]) -> Vec<Card<'_>> {
    let card = |shown| Card { shown, certainty: shown.logprob.map(certainty) };
    rows.iter().map(card).collect()
}

/// Describes the mean log probability of the tokens of an answer.
fn certainty(logprob: f32) -> String {
    let probability = f64::from(logprob).exp();
    let words = match probability {
        0.95.. => "very sure",
        0.8.. => "sure",
        0.5.. => "unsure",
        _ => "guessing",
    };
    format!("{words}: {} per token", percent((probability * 100.0).round() / 100.0))
}

fn duration(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are positive and far below 2^53 seconds"
    )]
    match seconds {
        60.0.. => Period(seconds.round() as u64).to_string(),
        _ => format!("{} s", number(seconds)),
    }
}

fn value(of: impl Serialize) -> Value {
    Value::from(Serde(of))
}

fn drift(before: &StoredReport, now: &StoredReport) -> Vec<Drift> {
    let of = |report: &StoredReport| {
        let (run, sample) = (&report.run, &report.sample);
        let seconds = run.seconds.max(1e-9);
        [
            ("rows", as_f64(run.rows_in)),
            ("rejected", ratio(run.n_rejects(), run.rows_in)),
            ("tokens per answer", sample.tokens_mean),
            ("probability per token", sample.logprob_mean.map_or(0.0, f64::exp)),
            ("truncated answers", ratio(sample.truncated, sample.rows)),
            ("repetitive answers", ratio(sample.repeating, sample.rows)),
            ("empty answers", ratio(sample.empty, sample.rows)),
            ("tokens per second", as_f64(run.tokens_generated) / seconds),
        ]
    };
    of(before)
        .into_iter()
        .zip(of(now))
        .filter(|((_, before), (_, now))| before.abs().max(now.abs()) > 0.0)
        .map(|((what, before), (_, now))| {
            let is_share = matches!(
                what,
                "rejected"
                    | "probability per token"
                    | "truncated answers"
                    | "repetitive answers"
                    | "empty answers"
            );
            let scale = before.abs().max(now.abs());
            Drift {
                what,
                before: if is_share { percent(before) } else { number(before) },
                now: if is_share { percent(now) } else { number(now) },
                change: match what {
                    _ if is_share => format!("{} points", signed((now - before) * 100.0)),
                    _ if before.abs() > 1e-9 => {
                        format!("{} %", signed((now - before) / before.abs() * 100.0))
                    }
                    _ => String::new(),
                },
                is_large: scale > 1e-9 && (now - before).abs() > 0.2 * scale,
            }
        })
        .collect()
}

/// Formats a change with its sign and at most one decimal.
fn signed(change: f64) -> String {
    let text = format!("{change:+.1}");
    let text = text.strip_suffix(".0").map_or(text.as_str(), |whole| whole);
    match text {
        "+0" | "-0" => "0".to_owned(),
        _ => text.replace('-', "\u{2212}"),
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { as_f64(part) / as_f64(whole) }
}

/// Formats seconds since 1970 as a UTC date and time.
fn utc(seconds: u64) -> String {
    let instant = i64::try_from(seconds).ok().and_then(|at| DateTime::from_timestamp(at, 0));
    instant.unwrap_or_default().format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::{certainty, signed, utc};

    #[test]
    fn numbers_and_dates_are_written_for_people() {
        for (change, text) in [(0.04, "0"), (12.0, "+12"), (-3.25, "\u{2212}3.2")] {
            assert_eq!(signed(change), text);
        }
        for (logprob, text) in [
            (0.0, "very sure: 100 % per token"),
            (-0.105, "sure: 90 % per token"),
            (-0.5, "unsure: 61 % per token"),
            (-3.0, "guessing: 5 % per token"),
        ] {
            assert_eq!(certainty(logprob), text);
        }
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(utc(1_795_820_340), "2026-11-27 22:59 UTC");
    }
}
