//! The statistics of a run, as people read them.

use legenda_schemas::units::{ByteSize, Period, grouped, percent};
use serde_json::Value;

/// Returns the labelled statistics in the report of a run; keys that are missing are left out.
pub(super) fn statistics(report: &Value) -> Vec<(String, String)> {
    let number = |key: &str| report.get(key).and_then(Value::as_u64);
    let seconds = report.get("seconds").and_then(Value::as_f64);
    let mut lines = Vec::new();
    let mut add = |label: &str, text: Option<String>| {
        lines.extend(text.map(|text| (label.to_owned(), text)));
    };
    let rows = |key: &str| number(key).map(grouped);
    let some_rows = |key: &str| number(key).filter(|rows| *rows > 0).map(grouped);
    let bytes = |key: &str| number(key).map(|bytes| ByteSize(bytes).to_string());
    add("new rows", new_rows(report).map(grouped));
    add("rows of earlier runs", some_rows("rows_resumed"));
    add("rows in the output", rows("rows_in"));
    add(
        "rows planned",
        rows("rows_planned").filter(|_| number("rows_planned") != number("rows_in")),
    );
    add("answers", rows("answers"));
    let rejects = report.get("rejects").and_then(Value::as_object);
    for (code, rows) in rejects.into_iter().flatten() {
        add(&format!("rejected: {code}"), rows.as_u64().map(grouped));
    }
    add("answered from the store", some_rows("rows_reused"));
    add("duplicates answered once", some_rows("rows_repeated"));
    add("time", seconds.map(duration));
    let rate = |n: u64| seconds.filter(|seconds| *seconds > 0.0).map(|seconds| rate(n, seconds));
    add("rows per second", new_rows(report).and_then(rate));
    add("tokens generated", some_rows("tokens_generated"));
    add(
        "tokens per second",
        number("tokens_generated").filter(|tokens| *tokens > 0).and_then(rate),
    );
    let limit = number("memory_limit_bytes").filter(|limit| *limit > 0);
    add(
        "peak memory",
        number("peak_memory_bytes").map(|peak| match limit {
            Some(limit) => {
                format!("{}, {} of {}", ByteSize(peak), share(peak, limit), ByteSize(limit))
            }
            None => ByteSize(peak).to_string(),
        }),
    );
    add("read from the source", bytes("bytes_read"));
    add("read for planning", bytes("bytes_planned"));
    add("written", bytes("output_bytes"));
    add("calls to the store that were retried", some_rows("store_retries"));
    add("device", report.get("device").and_then(Value::as_str).map(str::to_owned));
    add(
        "reason for the device",
        report.get("device_note").and_then(Value::as_str).map(str::to_owned),
    );
    lines
}

/// Returns the number of rows that the run itself settled.
pub(super) fn new_rows(report: &Value) -> Option<u64> {
    let number = |key: &str| report.get(key).and_then(Value::as_u64);
    let added = || Some(number("rows_in")?.saturating_sub(number("rows_resumed").unwrap_or(0)));
    number("rows_retried").or_else(added)
}

/// Formats a rate: with decimals only below 10.
#[expect(clippy::cast_precision_loss, reason = "rates are approximate")]
fn rate(n: u64, seconds: f64) -> String {
    rounded(n as f64 / seconds)
}

pub(super) fn rounded(value: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are not negative, and a cast saturates"
    )]
    match value {
        ..9.95 => format!("{value:.1}"),
        _ => grouped(value.round() as u64),
    }
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
fn share(part: u64, whole: u64) -> String {
    percent((part as f64 / whole as f64 * 100.0).round() / 100.0)
}

fn duration(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are not negative, and a cast saturates"
    )]
    match seconds {
        60.0.. => Period(seconds.round() as u64).to_string(),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{new_rows, statistics};

    #[test]
    fn numbers_are_formatted_and_missing_ones_left_out() {
        let report = json!({
            "rows_in": 12_345, "rows_resumed": 2345, "answers": 12_000, "seconds": 100.0,
            "rejects": { "media_missing": 345 }, "peak_memory_bytes": 1 << 30,
            "memory_limit_bytes": 1_u64 << 32, "device_note": null,
        });
        let lines = statistics(&report);
        let lines: Vec<String> =
            lines.iter().map(|(label, text)| format!("{label}: {text}")).collect();
        assert_eq!(
            lines,
            [
                "new rows: 10\u{202f}000",
                "rows of earlier runs: 2\u{202f}345",
                "rows in the output: 12\u{202f}345",
                "answers: 12\u{202f}000",
                "rejected: media_missing: 345",
                "time: 1m40s",
                "rows per second: 100",
                "peak memory: 1GiB, 25 % of 4GiB",
            ]
        );
        assert_eq!(new_rows(&json!({ "rows_in": 9, "rows_retried": 2 })), Some(2));
        assert_eq!(new_rows(&json!({})), None);
    }
}
