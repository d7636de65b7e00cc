//! Which joining prompts are prefilled together: a pure function.

/// Padding that a group may add, in percent of its own tokens.
const PADDING_PERCENT_MAX: usize = 25;

/// Groups `(slot, n_tokens)` so that each group has at most `rows_max` rows and little padding.
///
/// A group is right-padded to its longest row, so rows of like length go together. Every slot is
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
