//! What the history holds: runs, their tries, and the states that they go through.

use chrono::{DateTime, Utc};
use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Serialize, Serializer};

/// The number of a run: one slot of a job, or one start by hand.
pub(crate) type RunId = i64;

/// The number of a try of a run: one child process.
pub(crate) type TryId = i64;

/// A second of UTC. Slots, and all that the history keeps, are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Second(pub(crate) i64);

impl Second {
    /// Returns the second that an instant lies in.
    pub(crate) fn of(instant: DateTime<Utc>) -> Self {
        Self(instant.timestamp())
    }

    /// Returns its beginning.
    pub(crate) fn instant(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap_or_default()
    }

    /// Returns the second so many seconds later.
    pub(crate) fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }
}

impl Serialize for Second {
    /// As RFC 3339 has it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.instant().format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

impl ToSql for Second {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for Second {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

/// Declares an enum whose variants have names, in the database as in JSON.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Returns the name.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.as_str().to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_str()? {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(FromSqlError::InvalidType),
                }
            }
        }
    };
}

named! {
    /// Why there is a run.
    Cause {
        /// A slot of the schedule.
        Schedule = "schedule",
        /// Somebody started it.
        Hand = "hand",
    }
}

named! {
    /// Where a run stands. The last four are ends.
    State {
        /// It begins, or is tried again, when it is due and nothing stands in its way.
        Waiting = "waiting",
        /// A process is at work.
        Running = "running",
        /// Every row is accounted for.
        Done = "done",
        /// It failed for good.
        Failed = "failed",
        /// It was never to begin: missed, or superseded by a later slot.
        Skipped = "skipped",
        /// Somebody stopped it.
        Stopped = "stopped",
    }
}

impl State {
    /// Every state.
    pub(crate) const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Skipped, Self::Stopped];

    /// Returns whether nothing follows by itself.
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

named! {
    /// Whether the hooks of a run that ended were told.
    Telling {
        /// There is nobody to tell.
        Nobody = "nobody",
        /// They are being told, or will be after a restart.
        Pending = "pending",
        /// They were told.
        Told = "told",
        /// One could not be told.
        Failed = "failed",
    }
}

/// A run: one slot of a job, or one start by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    /// The name of its job file.
    pub(crate) job: String,
    /// When it was due by the cron pattern, or when it was started by hand.
    pub(crate) slot: Second,
    pub(crate) cause: Cause,
    pub(crate) state: State,
    /// Not begun, or tried again, before this second.
    pub(crate) due: Second,
    /// Tries that failed.
    pub(crate) failures: u32,
    /// Tries, with those that a restart of the service cut off.
    pub(crate) n_tries: u32,
    /// When the first try began.
    pub(crate) started: Option<Second>,
    /// When it reached its end.
    pub(crate) ended: Option<Second>,
    /// What is to be said of its state, in a sentence or two.
    pub(crate) message: String,
    /// The report of the last try that wrote one, as JSON.
    pub(crate) report: Option<String>,
    pub(crate) telling: Telling,
}

/// A process, so that no other that is given its number later is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessName {
    pub(crate) pid: u32,
    /// When it began, in seconds since 1970.
    pub(crate) began: u64,
}

/// A try of a run: one child process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Try {
    pub(crate) id: TryId,
    pub(crate) run: RunId,
    pub(crate) started: Second,
    pub(crate) ended: Option<Second>,
    /// How it ended, such as `exit code 4`.
    pub(crate) outcome: Option<String>,
    /// The last lines that it wrote to standard error.
    pub(crate) log: String,
}
