//! Nearest neighbours among the embeddings of a run: sample rows for the report of an `embed` task.

use legenda_schemas::ledger::LedgerEntry;
use serde::{Deserialize, Serialize};

use super::{
    gallery::{Shown, SpanRows, add_input},
    sample::AnswerSample,
};
use crate::{output::ledger::OutputFiles, run::plan::RunPlan};

/// The maximum number of rows to search, so that a large output costs no more than a small one.
const POOL_MAX: usize = 2000;
/// The maximum number of rows to show with their neighbours.
const ROWS_MAX: usize = 8;
/// The number of neighbours of a row.
const NEIGHBOURS_MAX: usize = 3;

/// A row whose embedding is similar to that of another row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The cosine of the angle between the embeddings: 1 for the same direction.
    pub similarity: f32,
    /// The row.
    pub row: Box<Shown>,
}

/// A row of the pool.
struct Candidate<'a> {
    entry: &'a LedgerEntry,
    position: usize,
    shown: Shown,
    /// The embedding, scaled to length 1.
    direction: Vec<f32>,
}

/// Returns rows of the spans, each with its nearest neighbours in a pool spread evenly over them.
pub(super) fn embedded_rows(
    plan: &RunPlan,
    output: &OutputFiles,
    entries: &[&LedgerEntry],
    sample: &AnswerSample,
    bytes_left: &mut usize,
) -> Vec<Shown> {
    let mut pool = Vec::new();
    for (idx, entry) in entries.iter().enumerate() {
        let n_rows = (POOL_MAX - pool.len()).div_ceil(entries.len() - idx);
        let Some(span) = SpanRows::read(plan, output, entry, sample) else { continue };
        let step = span.rows.len().div_ceil(n_rows.max(1)).max(1);
        pool.extend((0..span.rows.len()).step_by(step).take(n_rows).filter_map(|row| {
            let direction = direction(span.embedding(row)?)?;
            let (position, shown) = (span.rows[row].position, span.without_input(row));
            shown.reject.is_none().then_some(Candidate { entry, position, shown, direction })
        }));
    }
    let mut show = |candidate: &Candidate<'_>| {
        let (span, mut shown) = (&candidate.entry.span, candidate.shown.clone());
        if let Ok(Some(reader)) = plan.table.reader(&span.object) {
            let (group, position) = (span.row_group, candidate.position);
            add_input(plan, &reader, group, position, &mut shown, bytes_left);
        }
        shown
    };
    let step = pool.len().div_ceil(ROWS_MAX).max(1);
    let directions: Vec<&[f32]> = pool.iter().map(|one| one.direction.as_slice()).collect();
    let rows = (0..pool.len()).step_by(step).map(|row| {
        let mut shown = show(&pool[row]);
        let nearest = nearest(&directions, row).into_iter();
        shown.neighbours = nearest
            .map(|(similarity, other)| Neighbour { similarity, row: Box::new(show(&pool[other])) })
            .collect();
        shown
    });
    rows.collect()
}

/// Scales an embedding to length 1; `None` if it has no direction.
fn direction(values: Vec<f32>) -> Option<Vec<f32>> {
    let length = dot(&values, &values).sqrt();
    let is_usable = length.is_finite() && length > 0.0;
    is_usable.then(|| values.into_iter().map(|value| value / length).collect())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Returns the indices of the most similar other directions, most similar first, with their cosines.
fn nearest(directions: &[&[f32]], row: usize) -> Vec<(f32, usize)> {
    let others = directions.iter().enumerate().filter(|(other, _)| *other != row);
    let mut similar: Vec<(f32, usize)> =
        others.map(|(other, direction)| (dot(directions[row], direction), other)).collect();
    similar.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    similar.truncate(NEIGHBOURS_MAX);
    similar
}

#[cfg(test)]
mod tests {
    use super::{direction, nearest};

    #[test]
    fn the_nearest_directions_come_first() {
        let vectors = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.3], [-1.0, 0.0], [1.0, 1.0]];
        let directions: Vec<Vec<f32>> =
            vectors.into_iter().map(|vector| direction(vector.to_vec()).unwrap()).collect();
        let directions: Vec<&[f32]> = directions.iter().map(Vec::as_slice).collect();
        let found = nearest(&directions, 0);
        assert_eq!(found.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [2, 4, 1]);
        assert!(found[0].0 > 0.99 && found[2].0.abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn a_vector_without_direction_is_left_out() {
        assert!(direction(vec![0.0, 0.0]).is_none());
        assert!(direction(vec![f32::NAN, 1.0]).is_none());
    }
}
