//! `legenda eval`.

use std::{collections::HashMap, path::Path};

use legenda_pipeline::{
    eval::{self, EvalError, Key, Pair},
    ledger::OutputFiles,
    store::Folder,
};
use serde_json::json;

use super::{ledger_failure, print};
use crate::{
    cli::EvalArgs,
    failure::{Exit, Failure},
};

/// Measures the answers of an output, or of two.
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
        let none = anyhow::anyhow!("`{}` and `{other}` have no row in common", args.output);
        return Err(Failure::config(none).hint("name the column that tells rows apart by `--id`"));
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
        let none = anyhow::anyhow!(
            "`{location}` has no row with a right answer in `{}`: nothing can be measured",
            args.reference
        );
        return Err(Failure::config(none));
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
    let unanswered = unanswered(pairs);
    if as_json {
        let scores: Vec<_> = scores.iter().map(|one| json!(one)).collect();
        let told = json!({ "rows": pairs.len(), "unanswered": unanswered, "scores": scores });
        print(&told.to_string());
        return;
    }
    print(&format!("{} rows, {unanswered} of them unanswered", pairs.len()));
    for one in scores {
        print(&format!("{:<34} {:>9.4}", one.metric.name(), one.score));
    }
}

/// Shows how two outputs compare in the rows of both; `alone` are rows that only one of them has.
fn show_comparison(first: &[Pair], second: &[Pair], alone: (usize, usize), args: &EvalArgs) {
    let compared = eval::compare(first, second);
    let other = args.compare.as_deref().unwrap_or_default();
    if args.json {
        let compared: Vec<_> = compared.iter().map(|one| json!(one)).collect();
        let told = json!({
            "rows": first.len(),
            "rows_of_one": [alone.0, alone.1],
            "comparisons": compared,
        });
        print(&told.to_string());
        return;
    }
    print(&format!(
        "{} rows of both; unanswered: {} and {}",
        first.len(),
        unanswered(first),
        unanswered(second)
    ));
    if alone != (0, 0) {
        let (of_first, of_second) = alone;
        print(&format!(
            "left out: {of_first} rows of {} alone, {of_second} of {other} alone",
            args.output
        ));
    }
    print(&format!(
        "{:<34} {:>9} {:>9}   {other} less {}, 95 %",
        "", "first", "second", args.output
    ));
    for one in compared {
        let (low, high) = one.interval;
        let told = if low > 0.0 || high < 0.0 { "differs" } else { "may be chance" };
        print(&format!(
            "{:<34} {:>9.4} {:>9.4}   {low:+.4} to {high:+.4}, {told}",
            one.metric.name(),
            one.first,
            one.second
        ));
    }
}
