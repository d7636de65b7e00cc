//! The clock of the service: the system clock, unless a test runs a week in a minute.

use std::sync::OnceLock;

use chrono::{DateTime, Duration, Utc};

/// A test clock, set by `LEGENDA_CLOCK=BEGIN,SHOWN,SPEED`. At `BEGIN` it shows `SHOWN` (both RFC 3339);
/// from then on it runs `SPEED` times as fast as the system clock. It keeps running across restarts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Clock {
    begin: DateTime<Utc>,
    shown: DateTime<Utc>,
    speed: i32,
}

impl Clock {
    fn parse(text: &str) -> Option<Self> {
        let instant = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
        let mut parts = text.split(',');
        let (begin, shown) = (instant(parts.next()?)?, instant(parts.next()?)?);
        Some(Self { begin, shown, speed: parts.next()?.parse().ok()? })
    }

    fn at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let passed = (now - self.begin).max(Duration::zero());
        passed.checked_mul(self.speed).map_or(self.shown, |passed| self.shown + passed)
    }
}

/// Returns the current time.
pub(crate) fn now() -> DateTime<Utc> {
    static TEST_CLOCK: OnceLock<Option<Clock>> = OnceLock::new();
    let clock = TEST_CLOCK.get_or_init(|| Clock::parse(&std::env::var("LEGENDA_CLOCK").ok()?));
    clock.map_or_else(Utc::now, |clock| clock.at(Utc::now()))
}

#[cfg(test)]
mod tests {
    use super::{Clock, DateTime, Duration};

    #[test]
    fn a_test_clock_runs_faster() {
        let clock = Clock::parse("2026-01-01T00:00:00Z,2030-06-01T06:00:00+02:00,3600").unwrap();
        let shown = DateTime::parse_from_rfc3339("2030-06-01T04:00:00Z").unwrap();
        assert_eq!(clock.at(clock.begin), shown);
        assert_eq!(clock.at(clock.begin + Duration::seconds(2)), shown + Duration::hours(2));
        assert_eq!(clock.at(clock.begin - Duration::seconds(2)), shown);
        assert_eq!(Clock::parse("tomorrow"), None);
    }
}
