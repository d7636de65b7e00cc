//! How much memory a row is prepared with: an estimate first, then more if the row turns out to need it.
//!
//! A row reserves everything at once and never adds to a reservation that it holds, because rows that did so
//! could wait for each other forever. A row whose reservation is too small releases it and starts again.

/// The need of a row that its reservation does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// The known need of the whole row in bytes.
    pub(super) bytes: u64,
    /// Whether this is the full need.
    pub(super) is_exact: bool,
}

/// A row that does not fit into the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowTooLarge {
    /// The known need of the row in bytes.
    pub(super) bytes: u64,
    /// The budget in bytes.
    pub(super) bytes_max: u64,
}

/// The initial need of a row in bytes, as far as headers reveal it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InitialNeed {
    /// The media.
    pub(super) media: u64,
    /// Whether `media` is a lower bound of the need: true for images, whose headers have their size.
    pub(super) is_lower_bound: bool,
    /// The texts and what encoding them takes.
    pub(super) text: u64,
}

/// An attempt to prepare a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The bytes to reserve.
    pub(super) bytes: u64,
    /// Whether they are the whole budget, so that no more can be had.
    is_whole: bool,
}

impl Attempt {
    /// Returns the first attempt of a row within a budget of `bytes_max`.
    ///
    /// A row whose estimate exceeds the budget is tried with all of it, unless headers prove that this is
    /// too little: the reservation itself is refused then.
    pub(super) fn first(need: InitialNeed, bytes_max: u64) -> Self {
        let InitialNeed { media, is_lower_bound, text } = need;
        let bytes = media.saturating_add(text).min(bytes_max);
        let bytes = if is_lower_bound { bytes.max(media) } else { bytes };
        Self { bytes, is_whole: bytes >= bytes_max }
    }

    /// Returns the next attempt after a shortfall: with the need if that is known, otherwise with all of
    /// the budget.
    ///
    /// # Errors
    ///
    /// [`RowTooLarge`] if no larger reservation can cover the row.
    pub(super) fn next(self, shortfall: Shortfall, bytes_max: u64) -> Result<Self, RowTooLarge> {
        let Shortfall { bytes, is_exact } = shortfall;
        if self.is_whole || bytes > bytes_max {
            return Err(RowTooLarge { bytes, bytes_max });
        }
        let bytes = if is_exact { bytes } else { bytes_max };
        Ok(Self { bytes, is_whole: bytes >= bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attempt, InitialNeed, RowTooLarge, Shortfall};

    /// A medium that takes `bytes`, which a decoder reveals before or only after its work.
    #[derive(Clone, Copy, Debug)]
    struct Medium {
        bytes: u64,
        is_exact: bool,
    }

    /// Prepares a row of `media` with a reservation, as the stage does.
    fn prepare(media: &[Medium], reserved: u64) -> Result<(), Shortfall> {
        let mut used = 0;
        for Medium { bytes, is_exact } in media {
            if used + bytes > reserved {
                // A decoder that stops when its memory is used up knows that it needs more, not how much.
                let bytes = if *is_exact { used + bytes } else { reserved + 1 };
                return Err(Shortfall { bytes, is_exact: *is_exact });
            }
            used += bytes;
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_row_is_admitted_if_and_only_if_it_fits(
            media in prop::collection::vec((0_u64..100, any::<bool>()), 0..6),
            estimate in 0_u64..300,
            text in 0_u64..300,
            bytes_max in 1_u64..300,
        ) {
            let media: Vec<Medium> =
                media.into_iter().map(|(bytes, is_exact)| Medium { bytes, is_exact }).collect();
            let need: u64 = media.iter().map(|one| one.bytes).sum();
            let estimate = InitialNeed { media: estimate, is_lower_bound: false, text };
            let mut attempt = Attempt::first(estimate, bytes_max);
            let mut n_attempts = 1;
            let admitted = loop {
                prop_assert!(attempt.bytes <= bytes_max);
                let Err(shortfall) = prepare(&media, attempt.bytes) else { break true };
                match attempt.next(shortfall, bytes_max) {
                    Ok(next) => {
                        prop_assert!(next.bytes > attempt.bytes, "a reservation does not grow");
                        attempt = next;
                    }
                    Err(RowTooLarge { bytes, bytes_max: told }) => {
                        prop_assert!(bytes > told && told == bytes_max);
                        break false;
                    }
                }
                n_attempts += 1;
            };
            prop_assert_eq!(admitted, need <= bytes_max);
            prop_assert!(n_attempts <= media.len() + 1);
        }
    }

    #[test]
    fn headers_that_prove_too_large_a_need_are_believed() {
        let estimate = InitialNeed { media: 50, is_lower_bound: true, text: 10 };
        assert_eq!(Attempt::first(estimate, 40).bytes, 50);
        assert_eq!(Attempt::first(estimate, 55).bytes, 55);
        assert_eq!(Attempt::first(InitialNeed { is_lower_bound: false, ..estimate }, 40).bytes, 40);
    }
}
