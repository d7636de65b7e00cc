//! The slots of a schedule, and the decision about each: pure functions.

use chrono::{DateTime, TimeDelta, Utc};
use legenda_schemas::{
    job::{CatchUp, Schedule},
    sha256_hex,
    units::Period,
};

use super::record::Second;

/// The tolerance before a slot counts as missed. The service polls every second, but the machine may be
/// busy.
const LATE_SECONDS: i64 = 60;

/// Returns the slots after `after` up to and including `until`, in order.
pub(crate) fn between(
    schedule: &Schedule,
    after: Second,
    until: Second,
) -> impl Iterator<Item = Second> + '_ {
    let next = move |instant: DateTime<Utc>| {
        schedule
            .cron
            .next_after(instant, schedule.time_zone)
            .filter(|slot| Second::from_instant(*slot) <= until)
    };
    std::iter::successors(next(after.instant()), move |slot| next(*slot)).map(Second::from_instant)
}

/// Returns the first slot after `after`.
pub(crate) fn next(schedule: &Schedule, after: Second) -> Option<Second> {
    schedule.cron.next_after(after.instant(), schedule.time_zone).map(Second::from_instant)
}

/// Returns the start time of a slot's run: delayed by up to `jitter`, deterministically per slot.
pub(crate) fn due(job: &str, slot: Second, jitter: Period) -> Second {
    if jitter.0 == 0 {
        return slot;
    }
    let digest = sha256_hex([job.as_bytes(), &slot.0.to_le_bytes()]);
    let number = u64::from_str_radix(&digest[..16], 16).unwrap_or(0);
    slot.plus(number % (jitter.0 + 1))
}

/// The decision about a slot that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotDecision {
    /// It runs when capacity is free.
    Run,
    /// It was due while the service was down, and is skipped.
    Missed,
    /// It was due while the previous run was unfinished, and is skipped.
    Overlaps,
    /// A later slot replaces it.
    Superseded,
}

impl SlotDecision {
    /// Returns the reason for skipping the slot; empty if it runs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Run => "",
            Self::Missed => "missed while the service was down (`catch_up = \"none\"`)",
            Self::Overlaps => "the previous run was unfinished (`catch_up = \"none\"`)",
            Self::Superseded => "superseded by a later slot (`catch_up = \"last\"`)",
        }
    }
}

/// Decides about `slots`, which are due at `now`, in order. `is_busy` means that an earlier run of the job
/// is unfinished.
pub(crate) fn decide(
    catch_up: CatchUp,
    slots: &[Second],
    now: Second,
    mut is_busy: bool,
) -> Vec<SlotDecision> {
    let last = slots.len().saturating_sub(1);
    let decision = |(idx, slot): (usize, &Second)| match catch_up {
        CatchUp::All => SlotDecision::Run,
        CatchUp::Last if idx == last => SlotDecision::Run,
        CatchUp::Last => SlotDecision::Superseded,
        CatchUp::None if now.0 - slot.0 > LATE_SECONDS => SlotDecision::Missed,
        CatchUp::None if is_busy => SlotDecision::Overlaps,
        CatchUp::None => {
            is_busy = true;
            SlotDecision::Run
        }
    };
    slots.iter().enumerate().map(decision).collect()
}

/// Returns the time at which a run with `timeout` is stopped.
pub(crate) fn deadline(started: DateTime<Utc>, timeout: Option<Period>) -> Option<DateTime<Utc>> {
    let seconds = i64::try_from(timeout?.0).ok()?;
    started.checked_add_signed(TimeDelta::try_seconds(seconds)?)
}

#[cfg(test)]
mod tests {
    use legenda_schemas::{job::CatchUp, units::Period};

    use super::{SlotDecision, between, decide, due};
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
        assert_eq!(slots(3 * HOUR, 2 * HOUR), [0_i64; 0], "the clock was set back");
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
    fn every_policy_decides_every_slot() {
        let slots = [0, HOUR, 2 * HOUR].map(Second);
        let at = |now, catch_up, is_busy| decide(catch_up, &slots, Second(now), is_busy);
        let now = 2 * HOUR + 5;
        assert_eq!(at(now, CatchUp::All, true), [SlotDecision::Run; 3]);
        assert_eq!(
            at(now, CatchUp::Last, true),
            [SlotDecision::Superseded, SlotDecision::Superseded, SlotDecision::Run]
        );
        assert_eq!(
            at(now, CatchUp::None, false),
            [SlotDecision::Missed, SlotDecision::Missed, SlotDecision::Run]
        );
        assert_eq!(
            at(now, CatchUp::None, true),
            [SlotDecision::Missed, SlotDecision::Missed, SlotDecision::Overlaps]
        );
        assert_eq!(at(3 * HOUR, CatchUp::None, false), [SlotDecision::Missed; 3]);
        let seconds = [0, 1, 2].map(Second);
        assert_eq!(
            decide(CatchUp::None, &seconds, Second(2), false),
            [SlotDecision::Run, SlotDecision::Overlaps, SlotDecision::Overlaps]
        );
    }
}
