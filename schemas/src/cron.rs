//! Cron patterns, evaluated in a time zone.
//!
//! Instants are UTC. Local times that a daylight saving change skips or repeats follow Vixie cron. If
//! second, minute and hour are fixed numbers, a skipped time is due right after the gap, and a repeated
//! time is due once, at its first occurrence. If one of them is a wildcard or a step, the pattern is due
//! whenever the local time matches, so twice in a repeated hour.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeZone as _, Timelike, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An invalid cron pattern or time zone.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CronError {
    /// The pattern cannot be parsed.
    #[error(
        "invalid cron pattern `{text}`: {problem}; expected minute, hour, day of month, month and day of week, such as \"30 3 * * MON-FRI\", optionally preceded by seconds"
    )]
    Pattern {
        /// The input.
        text: String,
        /// The message of the parser.
        problem: String,
    },
    /// The pattern matches no date.
    #[error("invalid cron pattern `{text}`: no date matches, so it is never due")]
    Never {
        /// The input.
        text: String,
    },
    /// The time zone is unknown.
    #[error(
        "invalid time zone `{text}`: expected an IANA name, such as \"Europe/Berlin\" or \"UTC\""
    )]
    TimeZone {
        /// The input.
        text: String,
    },
}

/// A cron pattern: five fields, six fields with seconds, or a name such as `@daily`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct CronPattern {
    text: String,
    cron: Cron,
}

impl CronPattern {
    /// Returns the first instant after `instant` at which the pattern is due in `zone`. Returns `None` near
    /// the end of the supported calendar (the year 5000).
    #[must_use]
    pub fn next_after(&self, instant: DateTime<Utc>, zone: TimeZone) -> Option<DateTime<Utc>> {
        let local = instant.with_timezone(&zone.0);
        let next = self.cron.find_next_occurrence(&local, false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// Describes the pattern in English, such as `daily at 03:30`. Returns the pattern itself where the
    /// description would be approximate, such as for a step that does not divide the hour.
    #[must_use]
    pub fn describe(&self) -> String {
        if !has_exact_steps(&self.text) {
            return self.text.clone();
        }
        let text = self.cron.describe();
        let text = text.trim_end_matches('.').replace(", of ", " of ");
        let text = text.replace(ALL_WORKDAYS, "Monday to Friday");
        let text = text.replacen("At every ", "every ", 1).replacen("At ", "at ", 1);
        let text = text.replacen("Every ", "every ", 1);
        let time = text.strip_prefix("at ").filter(|time| !time.contains(", "));
        let is_each_day = time.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()));
        if is_each_day { format!("daily {text}") } else { text }
    }
}

/// The days of `MON-FRI`, as croner lists them.
const ALL_WORKDAYS: &str = "Monday, Tuesday, Wednesday, Thursday, and Friday";

/// Returns whether every step of a pattern is over a whole field that it divides. croner describes other
/// steps, such as `0-30/10` and `*/7`, as if they were.
fn has_exact_steps(text: &str) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let sizes = [60, 60, 24];
    let sizes = if fields.len() == 6 { &sizes[..] } else { &sizes[1..] };
    fields.iter().enumerate().all(|(idx, field)| {
        let Some((range, step)) = field.split_once('/') else { return true };
        let step: Option<u32> = step.parse().ok().filter(|step| *step > 1);
        let size = sizes.get(idx);
        range == "*" && size.zip(step).is_some_and(|(size, step)| size % step == 0)
    })
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
        // Any start works: the Gregorian calendar repeats every 400 years.
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

/// A time zone of the IANA database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct TimeZone(chrono_tz::Tz);

impl TimeZone {
    /// Formats an instant in local time without the name of the zone: `2026-03-29 03:00`, with seconds
    /// unless they are 0.
    #[must_use]
    pub fn format_short(self, instant: DateTime<Utc>) -> String {
        let local = instant.with_timezone(&self.0);
        let is_whole = local.second() == 0;
        local.format(if is_whole { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
    }

    /// Formats an instant in local time: `2026-03-29 03:00:00 CEST`.
    #[must_use]
    pub fn format(self, instant: DateTime<Utc>) -> String {
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

    #[test]
    fn patterns_are_described_only_where_that_is_exact() {
        for (pattern, described) in [
            ("30 3 * * *", "daily at 03:30"),
            ("@daily", "daily at 00:00"),
            ("15 30 3 * * *", "daily at 03:30:15"),
            ("30 3 * * MON-FRI", "at 03:30, on Monday to Friday"),
            ("0 12 * * SUN", "at 12:00, on Sunday"),
            ("0 0 1 * *", "at 00:00, on day 1"),
            ("0 0 L * *", "at 00:00, on the last day of the month"),
            ("0 6 1 1,7 *", "at 06:00, on day 1, in January and July"),
            ("*/15 * * * *", "every 15 minutes"),
            ("*/10 * * * * *", "every 10 seconds"),
            ("5 * * * *", "at minute 5 past every hour"),
            ("5 * * * * *", "at second 5"),
            ("0 */6 * * *", "at minute 0 of every 6 hours"),
            ("0 8,12 * * *", "at minute 0 of hour 8 and 12"),
            ("* * * * *", "every minute"),
            ("* * * * * *", "every second"),
            ("*/7 * * * *", "*/7 * * * *"),
            ("0-30/10 * * * *", "0-30/10 * * * *"),
            ("0 0 */2 * *", "0 0 */2 * *"),
            ("0 0 1 */2 *", "0 0 1 */2 *"),
        ] {
            assert_eq!(pattern.parse::<CronPattern>().unwrap().describe(), described, "{pattern}");
        }
    }

    /// Returns the first `n` instants after `from` at which the pattern is due in the zone.
    fn due(pattern: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let (pattern, zone): (CronPattern, TimeZone) =
            (pattern.parse().unwrap(), zone.parse().unwrap());
        let next = |&instant: &DateTime<Utc>| pattern.next_after(instant, zone);
        let instants = std::iter::successors(next(&instant(from)), next).take(n);
        instants.map(|instant| instant.format("%m-%dT%H:%M:%SZ").to_string()).collect()
    }

    #[test]
    fn patterns_use_their_time_zone() {
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
    fn a_skipped_fixed_time_is_due_after_the_gap() {
        // On 29 March 2026 Berlin's clocks go from 02:00 to 03:00, at 01:00 UTC.
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["03-28T01:30:00Z", "03-29T01:00:00Z", "03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_repeated_fixed_time_is_due_once() {
        // On 25 October 2026 they go from 03:00 back to 02:00, at 01:00 UTC.
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 4),
            ["10-24T00:30:00Z", "10-25T00:30:00Z", "10-26T01:30:00Z", "10-27T01:30:00Z"]
        );
    }

    #[test]
    fn steps_continue_through_gaps_and_repeated_hours() {
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
    fn a_change_by_half_an_hour_is_handled() {
        // Lord Howe changes by half an hour: on 5 April 2026 from 02:00 back to 01:30, at 15:00 UTC of the
        // previous day.
        assert_eq!(
            due("45 1 * * *", "Australia/Lord_Howe", "2026-04-03T00:00:00Z", 3),
            ["04-03T14:45:00Z", "04-04T14:45:00Z", "04-05T15:15:00Z"]
        );
    }

    proptest! {
        /// No slot is skipped: from any instant between two slots, the next slot is the second of them.
        #[test]
        fn any_start_gives_the_same_slots(
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
    fn invalid_patterns_are_rejected() {
        for text in ["", "* * * *", "61 * * * *", "0 0 * * * * 2026", "daily"] {
            let result = text.parse::<CronPattern>();
            assert!(matches!(result, Err(CronError::Pattern { .. })), "{text}");
        }
        let never = "0 0 30 2 *".parse::<CronPattern>();
        assert_eq!(never, Err(CronError::Never { text: "0 0 30 2 *".to_owned() }));
        assert!("Mars/Olympus".parse::<TimeZone>().is_err());
    }
}
