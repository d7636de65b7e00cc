//! The charts of the report: curves over time and histograms, with round values on their axes.

use legenda_schemas::units::grouped;
use serde::Serialize;

use super::{Histogram, StoredReport};
use crate::run::timeline::TimelineSample;

/// The size of a chart in its own units.
pub(super) const WIDTH: f64 = 600.0;
pub(super) const HEIGHT: f64 = 120.0;

/// The values at the ends and the middle of an axis.
type Ticks = [String; 3];

/// A quantity over the time of a run.
#[derive(Serialize)]
pub(super) struct Curve {
    title: &'static str,
    /// The points of an SVG polyline.
    points: String,
    /// The formatted maximum.
    top: String,
    /// The position of a limit from the top, if it is in range.
    limit: Option<f64>,
    x: Ticks,
    /// From the top.
    y: Ticks,
}

/// The bars of a histogram.
#[derive(Serialize)]
pub(super) struct Bars {
    title: &'static str,
    bars: Vec<Bar>,
    x: Ticks,
    /// From the top.
    y: Ticks,
}

#[derive(Serialize)]
struct Bar {
    x: f64,
    width: f64,
    height: f64,
    label: String,
}

/// Returns speed and memory over the time of a run.
pub(super) fn curves(report: &StoredReport) -> Vec<Curve> {
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
    let mib = |bytes: u64| as_f64(bytes) / 1_048_576.0;
    let memory: Vec<(f64, f64)> =
        seen.iter().filter_map(|at| Some((at.seconds, mib(at.memory_bytes?)))).collect();
    let mut curves = Vec::new();
    curves.extend(curve("rows per second", &rate(|at| at.rows), None, ""));
    if report.run.tokens_generated > 0 {
        curves.extend(curve("tokens per second", &rate(|at| at.tokens), None, ""));
    }
    let limit = mib(report.run.memory_limit_bytes);
    curves.extend(curve("memory", &memory, Some(limit), " MiB"));
    curves
}

fn curve(
    title: &'static str,
    values: &[(f64, f64)],
    limit: Option<f64>,
    unit: &str,
) -> Option<Curve> {
    let end = values.last()?.0;
    let highest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if values.len() < 2 || highest <= 0.0 || end <= 0.0 {
        return None;
    }
    let top = axis_end(highest);
    let points: Vec<String> = values
        .iter()
        .map(|(at, value)| format!("{:.1},{:.1}", at / end * WIDTH, HEIGHT * (1.0 - value / top)))
        .collect();
    let limit = limit.filter(|limit| *limit <= top).map(|limit| HEIGHT * (1.0 - limit / top));
    let seconds = |share: f64| format!("{} s", number(end * share));
    Some(Curve {
        title,
        points: points.join(" "),
        top: format!("{}{unit}", number(highest)),
        limit,
        x: ["0 s".to_owned(), seconds(0.5), seconds(1.0)],
        y: [1.0, 0.5, 0.0].map(|share| format!("{}{unit}", number(top * share))),
    })
}

/// Returns the distributions of lengths and of the certainty of answers.
pub(super) fn histograms(report: &StoredReport) -> Vec<Bars> {
    let sample = &report.sample;
    let share = |logprob: f64| format!("{:.0} %", logprob.exp() * 100.0);
    [
        bars("tokens per answer", &sample.tokens, number),
        bars("characters per answer", &sample.characters, number),
        bars("probability per token", &sample.logprobs, share),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn bars(title: &'static str, histogram: &Histogram, text: fn(f64) -> String) -> Option<Bars> {
    let highest = histogram.counts.iter().max().copied().filter(|highest| *highest > 0)?;
    let top = axis_end(as_f64(highest));
    let n_bars = as_f64(histogram.counts.len() as u64);
    let width = WIDTH / n_bars;
    let edge = |idx: f64| histogram.start + histogram.width * idx;
    let bars = histogram.counts.iter().enumerate().map(|(idx, count)| {
        let idx = as_f64(idx as u64);
        Bar {
            x: idx * width,
            width: (width - 1.0).max(1.0),
            height: as_f64(*count) / top * HEIGHT,
            label: format!("{} to {}: {}", text(edge(idx)), text(edge(idx + 1.0)), grouped(*count)),
        }
    });
    Some(Bars {
        title,
        bars: bars.collect(),
        x: [0.0, 0.5, 1.0].map(|share| text(edge(n_bars * share))),
        y: [1.0, 0.5, 0.0].map(|share| number(top * share)),
    })
}

/// Returns the end of an axis that starts at 0: the next of 2, 4, 6, 10, 20, ... whose half is as short to write.
fn axis_end(highest: f64) -> f64 {
    let power = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 10.0].map(|step| step * power);
    let end = steps.into_iter().find(|step| highest <= *step).unwrap_or(10.0 * power);
    // Halves of counts are not shown.
    if (1.0..2.0).contains(&end) { 2.0 } else { end }
}

/// Formats a number for people: integers without decimals, others with three digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e15 && ((value - value.round()).abs() < 1e-6 || size >= 99.95) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to lie in 0..1e15 just above"
        )]
        let whole = grouped(size.round() as u64);
        return if value < -0.5 { format!("\u{2212}{whole}") } else { whole };
    }
    let decimals = if size >= 9.995 { 1 } else { 2 };
    format!("{value:.decimals$}").replace('-', "\u{2212}")
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
pub(super) fn as_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::{axis_end, number};

    #[test]
    fn integers_have_no_decimals() {
        for (value, text) in [
            (0.0, "0"),
            (40.0, "40"),
            (1234.4, "1\u{202f}234"),
            (12.34, "12.3"),
            (9.5, "9.50"),
            (0.125, "0.12"),
            (-1.25, "\u{2212}1.25"),
            (-300.0, "\u{2212}300"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn axes_end_at_round_values() {
        for (highest, end) in
            [(1.0, 2.0), (3.0, 4.0), (7.0, 10.0), (11.0, 20.0), (450.0, 600.0), (0.3, 0.4)]
        {
            assert!((axis_end(highest) - end).abs() < 1e-9, "{highest}: {}", axis_end(highest));
        }
    }
}
