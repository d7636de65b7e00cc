//! The outstanding rows of planned spans of which some rows are committed as spans of their own, by a run
//! that ended early or one that read fewer rows.

use std::collections::HashMap;

use legenda_schemas::span::{SourceObject, Span};

/// Returns the planned spans minus committed rows, and the committed spans of the same row groups, in
/// input order except for committed spans after the last planned one. A planned span without committed
/// rows is unchanged.
///
/// The committed spans must be of the same job and must not overlap.
pub(crate) fn around<'a>(
    planned: &'a [Span],
    committed: impl IntoIterator<Item = &'a Span>,
) -> Vec<Span> {
    let mut groups: HashMap<RowGroup<'_>, Group<'_>> =
        planned.iter().map(|span| (row_group(span), Group::default())).collect();
    for span in committed {
        if let Some(group) = groups.get_mut(&row_group(span)) {
            group.committed.push(span);
        }
    }
    groups.values_mut().for_each(|group| {
        // Popped from the end, first rows first.
        group.committed.sort_by_key(|span| std::cmp::Reverse(span.row_start));
    });
    let mut spans = Vec::with_capacity(planned.len());
    for span in planned {
        let group = groups.entry(row_group(span)).or_default();
        let end = span.row_start + span.n_rows;
        let mut next = group.covered.max(span.row_start);
        while let Some(done) = group.committed.pop_if(|done| done.row_start < end) {
            spans.extend(slice(span, next, done.row_start));
            next = next.max(done.row_start + done.n_rows);
            spans.push(done.clone());
        }
        spans.extend(slice(span, next, end));
        group.covered = next.max(end);
    }
    let mut behind: Vec<&Span> = groups.into_values().flat_map(|group| group.committed).collect();
    behind.sort_by_key(|span| (&span.object.path, span.file_row_start));
    spans.extend(behind.into_iter().cloned());
    spans
}

/// A row group of a version of a file, and the file row it starts at, which changes if a text file is cut
/// into other row groups.
type RowGroup<'a> = (&'a SourceObject, usize, u64);

pub(super) fn row_group(span: &Span) -> RowGroup<'_> {
    let first_row = span.file_row_start.saturating_sub(span.row_start as u64);
    (&span.object, span.row_group, first_row)
}

/// The state of a row group.
#[derive(Default)]
struct Group<'a> {
    /// Committed spans not yet visited, first rows last.
    committed: Vec<&'a Span>,
    /// The row up to which every row is committed or planned.
    covered: usize,
}

/// Returns the rows of a span from `start` to `end`, as positions within the row group; `None` if empty.
pub(crate) fn slice(span: &Span, start: usize, end: usize) -> Option<Span> {
    (start < end).then(|| Span {
        row_start: start,
        n_rows: end - start,
        file_row_start: span.file_row(start),
        ..span.clone()
    })
}

#[cfg(test)]
mod tests {
    use legenda_schemas::span::{SourceObject, Span};
    use proptest::prelude::*;

    use super::around;

    fn span(row_group: usize, row_start: usize, n_rows: usize) -> Span {
        let object =
            SourceObject { path: "/t.csv".into(), size_bytes: 1, modified_ns: 1, etag: None };
        let file_row_start = (row_group * 40 + row_start) as u64;
        Span { object, row_group, row_start, n_rows, file_row_start }
    }

    /// Splits `n_rows` rows of each of two row groups into spans of at most `span_rows`.
    fn spans(n_rows: usize, span_rows: usize) -> Vec<Span> {
        let starts = (0..n_rows).step_by(span_rows);
        let rows_of_group = |group| {
            starts.clone().map(move |start| span(group, start, span_rows.min(n_rows - start)))
        };
        (0..2).flat_map(rows_of_group).collect()
    }

    fn rows(spans: &[Span]) -> Vec<u64> {
        spans
            .iter()
            .flat_map(|span| span.file_row_start..span.file_row_start + span.n_rows as u64)
            .collect()
    }

    proptest! {
        #[test]
        fn every_row_is_done_or_planned_once(
            n_rows in 1_usize..40,
            span_rows in 1_usize..12,
            pieces in prop::collection::vec((0_usize..2, 0_usize..40, 1_usize..6), 0..12),
            limit in prop::option::of(1_usize..80),
        ) {
            // Pieces that do not touch, as left by runs that ended early.
            let mut committed: Vec<Span> = Vec::new();
            for (group, start, n) in pieces {
                let piece = span(group, start, n.min(n_rows.saturating_sub(start)));
                if piece.n_rows > 0 && rows(&committed).iter().all(|row| !rows(std::slice::from_ref(&piece)).contains(row)) {
                    committed.push(piece);
                }
            }
            let mut planned = spans(n_rows, span_rows);
            if let Some(limit) = limit {
                let mut left = limit;
                for span in &mut planned {
                    span.n_rows = span.n_rows.min(left);
                    left -= span.n_rows;
                }
                planned.retain(|span| span.n_rows > 0);
            }
            let groups: Vec<usize> = planned.iter().map(|span| span.row_group).collect();
            committed.retain(|span| groups.contains(&span.row_group));
            let found = around(&planned, &committed);
            let mut expected = rows(&planned);
            expected.extend(rows(&committed));
            expected.sort_unstable();
            expected.dedup();
            let mut seen = rows(&found);
            if limit.is_none() {
                prop_assert_eq!(&seen, &expected, "in input order");
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
            prop_assert!(committed.iter().all(|span| found.contains(span)));
            if committed.is_empty() {
                prop_assert_eq!(found, planned);
            }
        }
    }

    #[test]
    fn spans_of_other_row_groups_and_versions_do_not_count() {
        let planned = [span(0, 0, 10)];
        let mut shifted = span(0, 2, 3);
        shifted.file_row_start += 1;
        let mut other = span(0, 2, 3);
        other.object.modified_ns = 9;
        assert_eq!(around(&planned, [&shifted, &other, &span(1, 2, 3)]), planned);
        let expected = [span(0, 0, 2), span(0, 2, 3), span(0, 5, 5)];
        assert_eq!(around(&planned, [&span(0, 2, 3)]), expected);
    }
}
