//! What time it is for the service: the system's, unless a test has a week go by in a minute.

use std::sync::OnceLock;

use chrono::{DateTime, Duration, Utc};

/// A clock that a test has set, `LEGENDA_CLOCK=BEGIN,SHOWN,SPEED`: at `BEGIN` it shows `SHOWN`, both as
/// RFC 3339 writes them, and from then on it goes `SPEED` times as fast as that of the system. It goes on
/// through restarts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Clock {
    begin: DateTime<Utc>,
    shown: DateTime<Utc>,
    speed: i32,
}

impl Clock {
    fn of(text: &str) -> Option<Self> {
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

/// Returns the time.
pub(crate) fn now() -> DateTime<Utc> {
    static SET: OnceLock<Option<Clock>> = OnceLock::new();
    let set = SET.get_or_init(|| Clock::of(&std::env::var("LEGENDA_CLOCK").ok()?));
    set.map_or_else(Utc::now, |clock| clock.at(Utc::now()))
}

#[cfg(test)]
mod tests {
    use super::{Clock, DateTime, Duration};

    #[test]
    fn a_clock_that_is_set_goes_faster() {
        let clock = Clock::of("2026-01-01T00:00:00Z,2030-06-01T06:00:00+02:00,3600").unwrap();
        let shown = DateTime::parse_from_rfc3339("2030-06-01T04:00:00Z").unwrap();
        assert_eq!(clock.at(clock.begin), shown);
        assert_eq!(clock.at(clock.begin + Duration::seconds(2)), shown + Duration::hours(2));
        assert_eq!(clock.at(clock.begin - Duration::seconds(2)), shown);
        assert_eq!(Clock::of("tomorrow"), None);
    }
}
