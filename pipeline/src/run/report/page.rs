//! Renders the report page, HTML without scripts.

use chrono::DateTime;
use legenda_schemas::units::{ByteSize, percent};
use minijinja::{AutoEscape, Environment, Value, context, value::Serde};
use serde::Serialize;

use super::{Gallery, Histogram, StoredReport};
use crate::run::{metrics::Ending, timeline::TimelineSample};

/// The page cannot be rendered: a bug in this program.
#[derive(Debug, thiserror::Error)]
#[error("failed to render the report page")]
pub struct PageError(#[from] minijinja::Error);

/// The size of a chart in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A quantity over the time of a run.
#[derive(Serialize)]
struct Curve {
    title: &'static str,
    /// The points of an SVG polyline.
    points: String,
    /// The formatted maximum.
    top: String,
    /// The position of a limit from the top, if it is in range.
    limit: Option<f64>,
    end: String,
}

/// The bars of a histogram.
#[derive(Serialize)]
struct Bars {
    title: &'static str,
    bars: Vec<Bar>,
    start: String,
    end: String,
}

#[derive(Serialize)]
struct Bar {
    x: f64,
    width: f64,
    height: f64,
    label: String,
}

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
    environment.add_template("report", include_str!("report.html"))?;
    let run = &report.run;
    let (sample, seconds) = (&report.sample, run.seconds.max(1e-9));
    let ending = match run.ending {
        Ending::Complete => "complete",
        Ending::ErrorBudget => "stopped: error budget spent",
        Ending::Stopped => "stopped, can be resumed",
    };
    let share = |rows: u64| percent(ratio(rows, sample.rows));
    let flags = [
        ("truncated at the maximum length", sample.truncated),
        ("repetitive", sample.repeating),
        ("empty", sample.empty),
    ];
    let flags: Vec<Value> = flags
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(name, rows)| context! { name, rows, share => share(rows) })
        .collect();
    let stages = [("encoders", run.encode_seconds), ("decoder", run.generate_seconds)];
    let stages: Vec<StageShare> = stages
        .into_iter()
        .filter(|(_, at_work)| *at_work > 0.0)
        .map(|(name, at_work)| StageShare {
            name,
            seconds: format!("{at_work:.1} s"),
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
        prompt => report.prompt.as_str(),
        ending,
        is_complete => run.ending == Ending::Complete,
        ended => utc(report.ended_at),
        rows_in => grouped(run.rows_in),
        answers => grouped(run.answers),
        rejected => grouped(run.n_rejects()),
        reject_share => percent(ratio(run.n_rejects(), run.rows_in)),
        resumed => grouped(run.rows_resumed),
        rows_here => grouped(rows_here),
        seconds => format!("{:.1}", run.seconds),
        rows_per_second => format!("{:.1}", as_f64(rows_here) / seconds),
        tokens_per_second => format!("{:.0}", as_f64(run.tokens_generated) / seconds),
        bytes_read => ByteSize(run.bytes_read + run.bytes_planned).to_string(),
        store_retries => run.store_retries,
        memory_limit => ByteSize(run.memory_limit_bytes).to_string(),
        peak,
        skipped => (!run.skipped.is_empty()).then(|| run.skipped.to_string()),
        faults => run.skipped.faults().collect::<Vec<String>>(),
        reused => grouped(run.rows_reused + run.rows_repeated),
        stages => value(&stages),
        checks => value(run.prediction_checks()),
        rejects => value(&sample.rejects),
        sampled => grouped(sample.rows),
        flags,
        common => value(&sample.common),
        curves => value(curves(report)),
        histograms => value(histograms(report)),
        gallery => value(&gallery.rows),
        odd => value(&gallery.odd),
        refused => value(&gallery.rejected),
        drift => other.map(|other| value(drift(other, report))),
        other_name,
        chart => context! { width => WIDTH, height => HEIGHT },
    })?;
    Ok(rendered)
}

fn value(of: impl Serialize) -> Value {
    Value::from(Serde(of))
}

fn curves(report: &StoredReport) -> Vec<Curve> {
    let seen = &report.timeline;
    let rate = |of: fn(&TimelineSample) -> u64| -> Vec<(f64, f64)> {
        let pairs = seen.windows(2).filter(|pair| pair[1].seconds > pair[0].seconds);
        pairs
            .map(|pair| {
                let grown = as_f64(of(&pair[1]).saturating_sub(of(&pair[0])));
                (pair[1].seconds, grown / (pair[1].seconds - pair[0].seconds))
            })
            .collect()
    };
    let memory: Vec<(f64, f64)> =
        seen.iter().filter_map(|at| Some((at.seconds, as_f64(at.memory_bytes?)))).collect();
    let mut curves = Vec::new();
    let plain = |top: f64| format!("{top:.0}/s");
    curves.extend(curve("rows per second", &rate(|at| at.rows), None, plain));
    if report.run.tokens_generated > 0 {
        curves.extend(curve("tokens per second", &rate(|at| at.tokens), None, plain));
    }
    let limit = as_f64(report.run.memory_limit_bytes);
    curves
        .extend(curve("memory", &memory, Some(limit), |top| format!("{:.0} MiB", top / 1048576.0)));
    curves
}

fn curve(
    title: &'static str,
    values: &[(f64, f64)],
    limit: Option<f64>,
    write: impl Fn(f64) -> String,
) -> Option<Curve> {
    let end = values.last()?.0;
    let top = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if values.len() < 2 || top <= 0.0 || end <= 0.0 {
        return None;
    }
    let points: Vec<String> = values
        .iter()
        .map(|(at, value)| format!("{:.1},{:.1}", at / end * WIDTH, HEIGHT * (1.0 - value / top)))
        .collect();
    let limit = limit.filter(|limit| *limit <= top).map(|limit| HEIGHT * (1.0 - limit / top));
    Some(Curve {
        title,
        points: points.join(" "),
        top: write(top),
        limit,
        end: format!("{end:.0} s"),
    })
}

fn histograms(report: &StoredReport) -> Vec<Bars> {
    let sample = &report.sample;
    [
        ("tokens per answer", &sample.tokens),
        ("characters per answer", &sample.characters),
        ("mean log probability", &sample.logprobs),
    ]
    .into_iter()
    .filter_map(|(title, histogram)| bars(title, histogram))
    .collect()
}

fn bars(title: &'static str, histogram: &Histogram) -> Option<Bars> {
    let top = histogram.counts.iter().max().copied().filter(|top| *top > 0)?;
    let n_bars = as_f64(histogram.counts.len() as u64);
    let width = WIDTH / n_bars;
    let number = |value: f64| {
        if value.fract().abs() < 1e-6 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    let edge = |idx: usize| histogram.start + histogram.width * as_f64(idx as u64);
    let bars = histogram.counts.iter().enumerate().map(|(idx, count)| Bar {
        x: as_f64(idx as u64) * width,
        width: (width - 1.0).max(1.0),
        height: ratio(*count, top) * HEIGHT,
        label: format!("{} to {}: {count}", number(edge(idx)), number(edge(idx + 1))),
    });
    Some(Bars {
        title,
        bars: bars.collect(),
        start: number(edge(0)),
        end: number(edge(histogram.counts.len())),
    })
}

fn drift(before: &StoredReport, now: &StoredReport) -> Vec<Drift> {
    let number = |value: f64| format!("{value:.2}");
    let share = |value: f64| percent(value);
    let of = |report: &StoredReport| {
        let (run, sample) = (&report.run, &report.sample);
        let seconds = run.seconds.max(1e-9);
        [
            ("rows", as_f64(run.rows_in)),
            ("rejected", ratio(run.n_rejects(), run.rows_in)),
            ("tokens per answer", sample.tokens_mean),
            ("mean log probability", sample.logprob_mean.unwrap_or_default()),
            ("truncated answers", ratio(sample.truncated, sample.rows)),
            ("repetitive answers", ratio(sample.repeating, sample.rows)),
            ("empty answers", ratio(sample.empty, sample.rows)),
            ("tokens per second", as_f64(run.tokens_generated) / seconds),
        ]
    };
    of(before)
        .into_iter()
        .zip(of(now))
        .map(|((what, before), (_, now))| {
            let is_share = matches!(
                what,
                "rejected" | "truncated answers" | "repetitive answers" | "empty answers"
            );
            let scale = before.abs().max(now.abs());
            Drift {
                what,
                before: if is_share { share(before) } else { number(before) },
                now: if is_share { share(now) } else { number(now) },
                change: match what {
                    _ if is_share => format!("{:+.1} points", (now - before) * 100.0),
                    _ if before.abs() > 1e-9 => {
                        format!("{:+.1} %", (now - before) / before.abs() * 100.0)
                    }
                    _ => String::new(),
                },
                is_large: scale > 1e-9 && (now - before).abs() > 0.2 * scale,
            }
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { as_f64(part) / as_f64(whole) }
}

/// Formats a number with thousands separators.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats seconds since 1970 as a UTC date and time.
fn utc(seconds: u64) -> String {
    let instant = i64::try_from(seconds).ok().and_then(|at| DateTime::from_timestamp(at, 0));
    instant.unwrap_or_default().format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::{grouped, utc};

    #[test]
    fn numbers_and_dates_are_written_for_people() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(utc(1_795_820_340), "2026-11-27 22:59 UTC");
    }
}
