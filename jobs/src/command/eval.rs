//! `legenda eval`.

use std::{collections::HashMap, path::Path};

use legenda_pipeline::{
    eval::{self, EvalError, Key, Pair},
    ledger::OutputFiles,
    store::Folder,
};
use legenda_schemas::units::counted;
use serde_json::json;

use super::{ledger_failure, print};
use crate::{
    cli::EvalArgs,
    failure::{Exit, Failure},
};

/// Scores the answers of one output, or compares two.
pub(crate) fn eval(args: &EvalArgs) -> Result<Exit, Failure> {
    let rows = read(&args.output, args)?;
    let Some(other) = &args.compare else {
        let pairs: Vec<Pair> = sorted(rows).into_iter().map(|(_, pair)| pair).collect();
        show_scores(&pairs, args.json);
        return Ok(Exit::Done);
    };
    let mut others = read(other, args)?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut n_first_only = 0;
    for (key, pair) in sorted(rows) {
        match others.remove(&key) {
            Some(other) => {
                first.push(pair);
                second.push(other);
            }
            None => n_first_only += 1,
        }
    }
    if first.is_empty() {
        let error = anyhow::anyhow!("`{}` and `{other}` have no rows in common", args.output);
        return Err(Failure::config(error).hint("pass `--id COLUMN` to match rows by key"));
    }
    show_comparison(&first, &second, (n_first_only, others.len()), args);
    Ok(Exit::Done)
}

fn read(location: &str, args: &EvalArgs) -> Result<HashMap<Key, Pair>, Failure> {
    let folder = Folder::at(location, Path::new(".")).map_err(Failure::config)?;
    let output = OutputFiles::find(folder).map_err(ledger_failure)?;
    let rows = eval::rows(&output, &args.reference, args.id.as_deref());
    let rows = rows.map_err(|error| match error {
        EvalError::Ledger(error) => ledger_failure(error),
        EvalError::Read(_) => Failure::resumable(error),
        _ => Failure::config(error),
    })?;
    if rows.is_empty() {
        let error = anyhow::anyhow!(
            "`{location}` has no row with a reference answer in `{}`",
            args.reference
        );
        return Err(Failure::config(error));
    }
    Ok(rows)
}

fn sorted(rows: HashMap<Key, Pair>) -> Vec<(Key, Pair)> {
    let mut rows: Vec<(Key, Pair)> = rows.into_iter().collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn unanswered(pairs: &[Pair]) -> usize {
    pairs.iter().filter(|pair| pair.answer.is_none()).count()
}

fn show_scores(pairs: &[Pair], as_json: bool) {
    let scores = eval::scores(pairs);
    let n_unanswered = unanswered(pairs);
    if as_json {
        let scores: Vec<_> = scores.iter().map(|one| json!(one)).collect();
        let object = json!({ "rows": pairs.len(), "unanswered": n_unanswered, "scores": scores });
        print(&object.to_string());
        return;
    }
    print(&format!("{}, {n_unanswered} unanswered", counted(pairs.len() as u64, "row")));
    for one in scores {
        print(&format!("{:<34} {:>9.4}", one.metric.name(), one.score));
    }
}

/// Prints how two outputs compare on their common rows; `n_unmatched` counts rows that only one has.
fn show_comparison(first: &[Pair], second: &[Pair], n_unmatched: (usize, usize), args: &EvalArgs) {
    let compared = eval::compare(first, second);
    let other = args.compare.as_deref().unwrap_or_default();
    if args.json {
        let compared: Vec<_> = compared.iter().map(|one| json!(one)).collect();
        let object = json!({
            "rows": first.len(),
            "rows_of_one": [n_unmatched.0, n_unmatched.1],
            "comparisons": compared,
        });
        print(&object.to_string());
        return;
    }
    print(&format!(
        "{} in both; unanswered: {} and {}",
        counted(first.len() as u64, "row"),
        unanswered(first),
        unanswered(second)
    ));
    if n_unmatched != (0, 0) {
        let (n_first, n_second) = n_unmatched;
        print(&format!(
            "not compared: {} only in {}, {} only in {other}",
            counted(n_first as u64, "row"),
            args.output,
            counted(n_second as u64, "row")
        ));
    }
    print(&format!(
        "{:<34} {:>9} {:>9}   {other} minus {}, 95 % CI",
        "", "first", "second", args.output
    ));
    for one in compared {
        let (low, high) = one.interval;
        let verdict = if low > 0.0 || high < 0.0 { "significant" } else { "not significant" };
        print(&format!(
            "{:<34} {:>9.4} {:>9.4}   {low:+.4} to {high:+.4}, {verdict}",
            one.metric.name(),
            one.first,
            one.second
        ));
    }
}
