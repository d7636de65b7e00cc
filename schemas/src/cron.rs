//! When something is due: a cron pattern, read in a time zone.
//!
//! Instants are UTC. What becomes of wall-clock times that a change of the clocks skips or repeats is
//! that of Vixie cron: where second, minute and hour are fixed numbers, a skipped time is due right
//! after the gap, and a repeated one once, the first time; where one of them is a wildcard or a step,
//! it is due whenever a clock on the wall shows such a time, twice in a repeated hour.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeZone as _, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text that is no cron pattern, or no time zone.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CronError {
    /// Not a pattern.
    #[error(
        "`{text}` is no cron pattern ({problem}): write minute, hour, day of the month, month, day of the week, such as \"30 3 * * MON-FRI\", with seconds before them where needed"
    )]
    Pattern {
        /// What was written.
        text: String,
        /// What the parser says.
        problem: String,
    },
    /// A pattern that no day fits.
    #[error("`{text}` is never due: no day of the calendar fits it")]
    Never {
        /// What was written.
        text: String,
    },
    /// Not a time zone.
    #[error(
        "`{text}` is no time zone: write a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\""
    )]
    TimeZone {
        /// What was written.
        text: String,
    },
}

/// A cron pattern: five fields, six with seconds, or a name such as `@daily`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct CronPattern {
    text: String,
    cron: Cron,
}

impl CronPattern {
    /// Returns the first instant after `instant` at which the pattern is due in `zone`; none in the
    /// last years that the calendar knows (it ends with the year 5000).
    #[must_use]
    pub fn next_after(&self, instant: DateTime<Utc>, zone: TimeZone) -> Option<DateTime<Utc>> {
        let local = instant.with_timezone(&zone.0);
        let next = self.cron.find_next_occurrence(&local, false).ok()?;
        Some(next.with_timezone(&Utc))
    }
}

impl PartialEq for CronPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronPattern {}

impl FromStr for CronPattern {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text.trim()).map_err(|error| CronError::Pattern {
            text: text.to_owned(),
            problem: error.to_string(),
        })?;
        let pattern = Self { text: text.to_owned(), cron };
        // Any instant will do: the Gregorian calendar comes round every 400 years.
        let start = Utc.with_ymd_and_hms(2000, 1, 1, 0, 0, 0).earliest().unwrap_or_default();
        match pattern.next_after(start, TimeZone::default()) {
            Some(_) => Ok(pattern),
            None => Err(CronError::Never { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for CronPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for CronPattern {
    type Error = CronError;

    fn try_from(text: String) -> Result<Self, CronError> {
        text.parse()
    }
}

impl From<CronPattern> for String {
    fn from(pattern: CronPattern) -> Self {
        pattern.text
    }
}

/// A time zone of the IANA database, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct TimeZone(chrono_tz::Tz);

impl TimeZone {
    /// Writes an instant as a clock on the wall of this zone shows it: `2026-03-29 03:00:00 CEST`.
    #[must_use]
    pub fn show(self, instant: DateTime<Utc>) -> String {
        instant.with_timezone(&self.0).format("%Y-%m-%d %H:%M:%S %Z").to_string()
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self(chrono_tz::Tz::UTC)
    }
}

impl FromStr for TimeZone {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        text.parse().map(Self).map_err(|_| CronError::TimeZone { text: text.to_owned() })
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl TryFrom<String> for TimeZone {
    type Error = CronError;

    fn try_from(text: String) -> Result<Self, CronError> {
        text.parse()
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.to_string()
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::{CronError, CronPattern, TimeZone};

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The first `n` instants after `from` at which the pattern is due in the zone.
    fn due(pattern: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let (pattern, zone): (CronPattern, TimeZone) =
            (pattern.parse().unwrap(), zone.parse().unwrap());
        let next = |&instant: &DateTime<Utc>| pattern.next_after(instant, zone);
        let instants = std::iter::successors(next(&instant(from)), next).take(n);
        instants.map(|instant| instant.format("%m-%dT%H:%M:%SZ").to_string()).collect()
    }

    #[test]
    fn patterns_are_due_in_their_zone() {
        let nights = due("30 3 * * MON-FRI", "America/New_York", "2026-01-02T00:00:00Z", 3);
        assert_eq!(nights, ["01-02T08:30:00Z", "01-05T08:30:00Z", "01-06T08:30:00Z"]);
        assert_eq!(
            due("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", 3),
            ["01-01T00:00:20Z", "01-01T00:00:40Z", "01-01T00:01:00Z"]
        );
        assert_eq!(
            due("@monthly", "Asia/Tokyo", "2026-01-15T00:00:00Z", 2),
            ["01-31T15:00:00Z", "02-28T15:00:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_that_the_clocks_skip_is_due_after_the_gap() {
        // On 29 March 2026 Berlin's clocks go from 02:00 to 03:00, at 01:00 UTC.
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["03-28T01:30:00Z", "03-29T01:00:00Z", "03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_that_comes_twice_is_due_once() {
        // On 25 October 2026 they go from 03:00 back to 02:00, at 01:00 UTC.
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 4),
            ["10-24T00:30:00Z", "10-25T00:30:00Z", "10-26T01:30:00Z", "10-27T01:30:00Z"]
        );
    }

    #[test]
    fn steps_go_on_through_a_gap_and_a_repeated_hour() {
        let gap = due("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4);
        assert_eq!(
            gap,
            ["03-29T00:30:00Z", "03-29T01:00:00Z", "03-29T01:30:00Z", "03-29T02:00:00Z"]
        );
        let repeated = due("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4);
        assert_eq!(
            repeated,
            ["10-25T00:30:00Z", "10-25T01:00:00Z", "10-25T01:30:00Z", "10-25T02:00:00Z"]
        );
    }

    #[test]
    fn half_an_hour_of_lord_howe_is_enough() {
        // Its clocks go by half an hour: on 5 April 2026 from 02:00 back to 01:30, at 15:00 UTC of the
        // day before.
        assert_eq!(
            due("45 1 * * *", "Australia/Lord_Howe", "2026-04-03T00:00:00Z", 3),
            ["04-03T14:45:00Z", "04-04T14:45:00Z", "04-05T15:15:00Z"]
        );
    }

    proptest! {
        /// However the instants are asked for, none is left out: what comes after an instant between
        /// two slots is the second of them.
        #[test]
        fn asking_from_any_instant_gives_the_same_slots(
            start in 1_740_000_000_i64..1_780_000_000, ahead in 0_i64..3600, zone in 0_usize..4,
            pattern in 0_usize..5,
        ) {
            let zone: TimeZone =
                ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"][zone].parse().unwrap();
            let pattern: CronPattern =
                ["*/7 * * * *", "30 2 * * *", "15 1-3 * * *", "0 */5 * * *", "1 0 * * SUN"][pattern].parse().unwrap();
            let start = DateTime::from_timestamp(start, 0).unwrap();
            let next = pattern.next_after(start, zone).unwrap();
            prop_assert!(next > start);
            let between = (start + chrono::TimeDelta::seconds(ahead)).min(next - chrono::TimeDelta::seconds(1));
            prop_assert_eq!(pattern.next_after(between, zone).unwrap(), next);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["", "* * * *", "61 * * * *", "0 0 * * * * 2026", "daily"] {
            let refused = text.parse::<CronPattern>();
            assert!(matches!(refused, Err(CronError::Pattern { .. })), "{text}");
        }
        let never = "0 0 30 2 *".parse::<CronPattern>();
        assert_eq!(never, Err(CronError::Never { text: "0 0 30 2 *".to_owned() }));
        assert!("Mars/Olympus".parse::<TimeZone>().is_err());
    }
}
