//! The records of the history: runs, their attempts, and their states.

use chrono::{DateTime, Utc};
use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Serialize, Serializer};

/// The id of a run: one slot of a job, or one manual start.
pub(crate) type RunId = i64;

/// The id of an attempt of a run: one child process.
pub(crate) type AttemptId = i64;

/// A UTC timestamp in seconds. Slots and all times in the history are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Second(pub(crate) i64);

impl Second {
    /// Returns the second that contains `instant`.
    pub(crate) fn from_instant(instant: DateTime<Utc>) -> Self {
        Self(instant.timestamp())
    }

    /// Returns the start of the second.
    pub(crate) fn instant(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap_or_default()
    }

    /// Returns the time `seconds` later.
    pub(crate) fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add_unsigned(seconds))
    }
}

impl Serialize for Second {
    /// Serializes as RFC 3339.
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

/// Declares an enum whose variants are stored as strings in the database and in JSON.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Returns the stored name.
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
    /// The cause of a run.
    Cause {
        /// A slot of the schedule.
        Schedule = "schedule",
        /// A manual start.
        Manual = "hand",
    }
}

named! {
    /// The state of a run. The last four are final.
    State {
        /// It starts, or is retried, when it is due and capacity is free.
        Waiting = "waiting",
        /// A process is running.
        Running = "running",
        /// Every row is answered or rejected.
        Done = "done",
        /// It failed and will not be retried.
        Failed = "failed",
        /// It never started: missed, or superseded by a later slot.
        Skipped = "skipped",
        /// It was stopped manually.
        Stopped = "stopped",
    }
}

impl State {
    /// Every state.
    pub(crate) const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Skipped, Self::Stopped];

    /// Returns whether the state is final.
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

named! {
    /// The state of delivering the hooks of a run.
    DeliveryState {
        /// The run has no hooks.
        NoHooks = "nobody",
        /// The delivery is in progress, or will be repeated after a restart.
        Pending = "pending",
        /// All hooks succeeded.
        Delivered = "told",
        /// At least one hook failed.
        Failed = "failed",
    }
}

/// A run: one slot of a job, or one manual start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    /// The name of the job file.
    pub(crate) job: String,
    /// The time of the cron slot, or of the manual start.
    pub(crate) slot: Second,
    pub(crate) cause: Cause,
    pub(crate) state: State,
    /// The earliest time to start or retry.
    pub(crate) due: Second,
    /// The number of failed attempts.
    pub(crate) failures: u32,
    /// The number of attempts, including those cut off by a restart of the service.
    pub(crate) n_attempts: u32,
    /// The start of the first attempt.
    pub(crate) started: Option<Second>,
    /// The time of the final state.
    pub(crate) ended: Option<Second>,
    /// A message about the state.
    pub(crate) message: String,
    /// The latest report of an attempt, as JSON.
    pub(crate) report: Option<String>,
    pub(crate) delivery: DeliveryState,
}

/// A process. The start time distinguishes it from later processes with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// The start time in Unix seconds.
    pub(crate) start_time: u64,
}

/// An attempt of a run: one child process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Attempt {
    pub(crate) id: AttemptId,
    pub(crate) run: RunId,
    pub(crate) started: Second,
    pub(crate) ended: Option<Second>,
    /// The outcome, such as `exit code 4`.
    pub(crate) outcome: Option<String>,
    /// The last lines of its standard error.
    pub(crate) log: String,
}
