//! Selects the rows of a sample.

use std::ops::Range;

use legenda_schemas::span::Span;

use crate::run::plan::RunPlan;

/// The number of adjacent rows sampled together: a single row would cost the read of a whole page, which
/// other rows share in a full run. It is small, because neighbours are similar.
const RUN_ROWS: u64 = 4;

/// Selects about `n_rows` rows of the plan in runs of [`RUN_ROWS`] consecutive rows. The table is split into
/// strata of equal size, and one run is drawn from each, so that no regularity of the table coincides with
/// one of the sample (Cochran, "Sampling Techniques", 3rd edition, section 8.5). The draws are
/// deterministic. Returns the rows as spans.
pub(super) fn choose(plan: &RunPlan, n_rows: u64) -> Vec<Span> {
    let runs = runs(plan.n_rows(), n_rows);
    let mut runs = runs.as_slice();
    let mut chosen: Vec<Span> = Vec::new();
    let mut before = 0;
    for span in &plan.ledger.spans {
        let rows = plan.rows_of(span);
        let here = before..before + rows.len() as u64;
        while let Some((run, later)) = runs.split_first().filter(|(run, _)| run.start < here.end) {
            let part = run.start.max(here.start)..run.end.min(here.end);
            let at = |row: u64| rows.get(usize::try_from(row - before).ok()?).copied();
            if !part.is_empty()
                && let (Some(first), Some(last)) = (at(part.start), at(part.end - 1))
            {
                chosen.push(Span {
                    row_start: first,
                    n_rows: last + 1 - first,
                    file_row_start: span.file_row(first),
                    ..span.clone()
                });
            }
            if run.end > here.end {
                // The rest of the run is in the next span.
                break;
            }
            runs = later;
        }
        before = here.end;
    }
    chosen
}

/// Returns the ascending runs of rows; all rows if the sample would be most of them.
fn runs(total: u64, n_rows: u64) -> Vec<Range<u64>> {
    let n_runs = n_rows.div_ceil(RUN_ROWS).max(1);
    if n_rows.saturating_mul(4) >= total.saturating_mul(3) {
        let starts = (0..total.div_ceil(RUN_ROWS)).map(|idx| idx * RUN_ROWS);
        return starts.map(|start| start..(start + RUN_ROWS).min(total)).collect();
    }
    // Knuth's MMIX sequence.
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u64::try_from((u128::from(state) * u128::from(below)) >> 64).unwrap_or(0)
    };
    let edge = |idx: u64| u128::from(total) * u128::from(idx) / u128::from(n_runs);
    let edge = |idx: u64| u64::try_from(edge(idx)).unwrap_or(u64::MAX);
    let room = |idx: u64| (edge(idx + 1) - edge(idx)).saturating_sub(RUN_ROWS) + 1;
    let start = |idx: u64| edge(idx) + draw(room(idx));
    (0..n_runs).map(start).map(|start| start..start + RUN_ROWS).collect()
}

#[cfg(test)]
mod tests {
    use super::{RUN_ROWS, runs};

    #[test]
    fn runs_are_spread_and_do_not_meet() {
        for (total, n_rows) in [(1000, 64), (100, 64), (1_000_000, 128), (90, 60), (5000, 1)] {
            let found = runs(total, n_rows);
            assert_eq!(found.len() as u64, n_rows.div_ceil(RUN_ROWS));
            assert!(found.iter().all(|run| run.end - run.start == RUN_ROWS));
            assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start), "{found:?}");
            assert!(found.last().is_some_and(|last| last.end <= total), "{found:?}");
        }
        let whole: Vec<u64> = runs(66, 64).into_iter().flatten().collect();
        assert_eq!(whole, (0..66).collect::<Vec<_>>());
        assert!(runs(0, 64).is_empty());
    }
}
