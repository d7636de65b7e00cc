//! Which slots a schedule has, and what becomes of each: pure functions.

use chrono::{DateTime, TimeDelta, Utc};
use legenda_schemas::{
    job::{CatchUp, Schedule},
    sha256_hex,
    units::Period,
};

use super::record::Second;

/// How late a slot may be seen without being missed: the service looks every second, but a machine may
/// be busy.
const LATE_SECONDS: i64 = 60;

/// Returns the slots after `after`, up to `until` and with it, in their order.
pub(crate) fn between(
    schedule: &Schedule,
    after: Second,
    until: Second,
) -> impl Iterator<Item = Second> + '_ {
    let next = move |instant: DateTime<Utc>| {
        schedule
            .cron
            .next_after(instant, schedule.time_zone)
            .filter(|slot| Second::of(*slot) <= until)
    };
    std::iter::successors(next(after.instant()), move |slot| next(*slot)).map(Second::of)
}

/// Returns the first slot after `after`.
pub(crate) fn next(schedule: &Schedule, after: Second) -> Option<Second> {
    schedule.cron.next_after(after.instant(), schedule.time_zone).map(Second::of)
}

/// Returns when the run of a slot may begin: up to `jitter` later, and always the same for a slot.
pub(crate) fn due(job: &str, slot: Second, jitter: Period) -> Second {
    if jitter.0 == 0 {
        return slot;
    }
    let digest = sha256_hex([job.as_bytes(), &slot.0.to_le_bytes()]);
    let number = u64::from_str_radix(&digest[..16], 16).unwrap_or(0);
    slot.plus(number % (jitter.0 + 1))
}

/// What becomes of a slot that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs when nothing stands in its way.
    Waits,
    /// It came while nobody looked, and is not caught up with.
    Missed,
    /// It came while the run before it was not over.
    Overlaps,
    /// A later slot stands for it.
    Superseded,
}

impl Fate {
    /// Returns why a slot does not run.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Waits => "",
            Self::Missed => "missed while the service was down (`catch_up = \"none\"`)",
            Self::Overlaps => "the run before it was not over (`catch_up = \"none\"`)",
            Self::Superseded => "a later slot stands for it (`catch_up = \"last\"`)",
        }
    }
}

/// Decides what becomes of `slots`, which have come by `now`, in their order; `is_busy` says whether the
/// run of an earlier slot is not over.
pub(crate) fn fates(catch_up: CatchUp, slots: &[Second], now: Second, is_busy: bool) -> Vec<Fate> {
    let mut is_taken = is_busy;
    let last = slots.len().saturating_sub(1);
    let fate = |(place, slot): (usize, &Second)| match catch_up {
        CatchUp::All => Fate::Waits,
        CatchUp::Last if place == last => Fate::Waits,
        CatchUp::Last => Fate::Superseded,
        CatchUp::None if now.0 - slot.0 > LATE_SECONDS => Fate::Missed,
        CatchUp::None if is_taken => Fate::Overlaps,
        CatchUp::None => {
            is_taken = true;
            Fate::Waits
        }
    };
    slots.iter().enumerate().map(fate).collect()
}

/// Returns when a run that may have no longer than `timeout` is to be stopped.
pub(crate) fn deadline(started: DateTime<Utc>, timeout: Option<Period>) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(timeout?.0).ok()?;
    started.checked_add_signed(TimeDelta::try_seconds(seconds)?)
}

#[cfg(test)]
mod tests {
    use legenda_schemas::{job::CatchUp, units::Period};

    use super::{Fate, between, due, fates};
    use crate::schedule::{record::Second, scheduler::tests::schedule};

    const HOUR: i64 = 3600;

    #[test]
    fn slots_lie_after_the_first_and_up_to_the_last_second() {
        let hourly = schedule("@hourly");
        let slots = |after, until| -> Vec<i64> {
            between(&hourly, Second(after), Second(until)).map(|slot| slot.0).collect()
        };
        assert_eq!(slots(0, 2 * HOUR), [HOUR, 2 * HOUR]);
        assert_eq!(slots(HOUR, 2 * HOUR - 1), [0_i64; 0]);
        assert_eq!(slots(HOUR - 1, HOUR), [HOUR]);
        assert_eq!(slots(3 * HOUR, 2 * HOUR), [0_i64; 0], "a clock that was set back");
    }

    #[test]
    fn jitter_is_bounded_and_the_same_every_time() {
        let mut late = std::collections::BTreeSet::new();
        for slot in (0..500).map(|n| Second(n * HOUR)) {
            let at = due("a.toml", slot, Period(300));
            assert_eq!(at, due("a.toml", slot, Period(300)));
            assert!((0..=300).contains(&(at.0 - slot.0)), "{at:?}");
            late.insert(at.0 - slot.0);
            assert_eq!(due("a.toml", slot, Period(0)), slot);
        }
        assert!(late.len() > 200, "delays are spread: {}", late.len());
    }

    #[test]
    fn every_policy_settles_every_slot() {
        let slots = [0, HOUR, 2 * HOUR].map(Second);
        let at = |now, catch_up, is_busy| fates(catch_up, &slots, Second(now), is_busy);
        let now = 2 * HOUR + 5;
        assert_eq!(at(now, CatchUp::All, true), [Fate::Waits; 3]);
        assert_eq!(at(now, CatchUp::Last, true), [Fate::Superseded, Fate::Superseded, Fate::Waits]);
        assert_eq!(at(now, CatchUp::None, false), [Fate::Missed, Fate::Missed, Fate::Waits]);
        assert_eq!(at(now, CatchUp::None, true), [Fate::Missed, Fate::Missed, Fate::Overlaps]);
        assert_eq!(at(3 * HOUR, CatchUp::None, false), [Fate::Missed; 3]);
        let seconds = [0, 1, 2].map(Second);
        assert_eq!(
            fates(CatchUp::None, &seconds, Second(2), false),
            [Fate::Waits, Fate::Overlaps, Fate::Overlaps]
        );
    }
}
