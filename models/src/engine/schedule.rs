//! Pure scheduling functions: which prompts join now, and which are prefilled together.

use super::row::Row;

/// The maximum padding of a group, in percent of its own tokens.
const PADDING_PERCENT_MAX: usize = 25;

/// Groups `(slot, n_tokens)` into groups of at most `rows_max` rows with little padding.
///
/// A group is right-padded to its longest row, so rows of similar length go together. Every slot is
/// in exactly one group.
pub(crate) fn prefill_groups(mut joined: Vec<(usize, usize)>, rows_max: usize) -> Vec<Vec<usize>> {
    joined.sort_unstable_by_key(|(slot, n_tokens)| (std::cmp::Reverse(*n_tokens), *slot));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    let mut total = 0;
    for (slot, n_tokens) in joined {
        let fits = groups.last().is_some_and(|group| {
            let padded = longest * (group.len() + 1);
            group.len() < rows_max
                && padded * 100 <= (total + n_tokens) * (100 + PADDING_PERCENT_MAX)
        });
        match groups.last_mut() {
            Some(group) if fits => {
                group.push(slot);
                total += n_tokens;
            }
            _ => {
                groups.push(vec![slot]);
                longest = n_tokens;
                total = n_tokens;
            }
        }
    }
    groups
}

/// The adapter whose rows may join now. While rows of an adapter are running, its other rows may
/// join unless a row of another adapter was admitted before them; else the adapter of the oldest
/// row is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    adapter: Option<usize>,
    /// Rows with this number or a higher one have to wait.
    end: u64,
}

impl Turn {
    /// Determines the turn from all rows in the engine.
    pub(super) fn new<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Self {
        let waiting = rows.clone().filter(|row| row.prompt.is_some());
        let Some(live) = rows.clone().find(|row| row.prompt.is_none()) else {
            let first = waiting.min_by_key(|row| row.number);
            return Self { adapter: first.and_then(|row| row.adapter), end: u64::MAX };
        };
        let others = waiting.filter(|row| row.adapter != live.adapter);
        let end = others.map(|row| row.number).min().unwrap_or(u64::MAX);
        Self { adapter: live.adapter, end }
    }

    /// Returns whether a waiting row may join.
    pub(super) fn admits(self, row: &Row) -> bool {
        row.adapter == self.adapter && row.number < self.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Prompt, *};

    fn row(number: u64, adapter: Option<usize>, is_running: bool) -> Row {
        let prompt = Prompt::of_tokens(vec![1]).with_adapter(adapter);
        let mut row = Row::new((number, number), prompt, 4, 0);
        if is_running {
            row.prompt = None;
        }
        row
    }

    fn joining(rows: &[Row]) -> Vec<u64> {
        let turn = Turn::new(rows.iter());
        let joining = rows.iter().filter(|row| row.prompt.is_some() && turn.admits(row));
        joining.map(|row| row.number).collect()
    }

    #[test]
    fn rows_of_one_adapter_join_together_without_starvation() {
        let (seen, heard) = (Some(0), Some(1));
        let waiting = |rows: &[(u64, Option<usize>)]| -> Vec<Row> {
            rows.iter().map(|(number, adapter)| row(*number, *adapter, false)).collect()
        };
        let mut rows = waiting(&[(3, None), (2, seen), (4, heard), (5, seen)]);
        assert_eq!(joining(&rows), [2, 5]);
        rows.push(row(1, None, true));
        // A row admitted after a waiting one does not overtake it.
        assert!(joining(&rows).is_empty());
        rows.remove(1);
        assert_eq!(joining(&rows), [3]);
        assert_eq!(joining(&waiting(&[(1, None), (0, None)])), [1, 0]);
    }

    #[test]
    fn a_long_prompt_does_not_pad_short_ones() {
        let groups = prefill_groups(vec![(0, 10), (1, 400), (2, 11), (3, 12)], 8);
        assert_eq!(groups, [vec![1], vec![3, 2, 0]]);
    }

    proptest! {
        #[test]
        fn every_slot_is_in_exactly_one_small_group(
            lengths in prop::collection::vec(1_usize..500, 0..40),
            rows_max in 1_usize..9,
        ) {
            let joined: Vec<_> = lengths.iter().copied().enumerate().collect();
            let groups = prefill_groups(joined, rows_max);
            prop_assert!(groups.iter().all(|group| (1..=rows_max).contains(&group.len())));
            let mut slots: Vec<usize> = groups.into_iter().flatten().collect();
            slots.sort_unstable();
            prop_assert_eq!(slots, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
