//! The history of the service in SQLite: processed slots, and runs with their attempts.
//!
//! Every slot is recorded exactly once. It is inserted in the transaction that advances `jobs.seen`, the
//! time up to which slots are recorded, so no restart skips a slot; `UNIQUE` prevents duplicates.

use std::{collections::BTreeMap, path::Path, time::Duration};

use legenda_schemas::job::Schedule;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};

use super::record::{
    Attempt, AttemptId, Cause, DeliveryState, ProcessId, Run, RunId, Second, State,
};

/// The schema version; a file with another version is rejected.
const VERSION: i64 = 1;

/// The maximum number of finished runs kept per job.
const RUNS_MAX: i64 = 2000;

/// The time to wait for a lock held by another connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const TABLES: &str = "
    CREATE TABLE jobs (
        name TEXT PRIMARY KEY,
        -- The schedule whose slots up to `seen` are recorded.
        schedule TEXT NOT NULL,
        seen INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job TEXT NOT NULL,
        slot INTEGER NOT NULL,
        cause TEXT NOT NULL,
        state TEXT NOT NULL,
        due INTEGER NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0,
        ended INTEGER,
        message TEXT NOT NULL DEFAULT '',
        report TEXT,
        telling TEXT NOT NULL DEFAULT 'nobody',
        UNIQUE (job, slot, cause)
    ) STRICT;
    CREATE INDEX runs_by_state ON runs (state, due);
    CREATE TABLE tries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        started INTEGER NOT NULL,
        ended INTEGER,
        pid INTEGER,
        began INTEGER,
        outcome TEXT,
        log TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX tries_by_run ON tries (run);
";

const RUN: &str = "
    SELECT id, job, slot, cause, state, due, failures, ended, message, report, telling,
        (SELECT COUNT(*) FROM tries WHERE run = runs.id) AS n_attempts,
        (SELECT MIN(started) FROM tries WHERE run = runs.id) AS started
    FROM runs
";

/// An error of the history.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// SQLite failed.
    #[error("failed to access the run history")]
    Sqlite(#[from] rusqlite::Error),
    /// Another version of this program wrote the history.
    #[error("invalid run history: expected version {VERSION}, got {version}")]
    Version {
        /// The version of the history.
        version: i64,
    },
}

type Result<T> = std::result::Result<T, HistoryError>;

/// An attempt that an earlier service left unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnfinishedAttempt {
    pub(crate) run: RunId,
    pub(crate) job: String,
    pub(crate) attempt: AttemptId,
    /// `None` if that service ended before recording the process.
    pub(crate) process: Option<ProcessId>,
}

/// An update of a run after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunUpdate<'a> {
    pub(crate) state: State,
    pub(crate) due: Second,
    pub(crate) failures: u32,
    pub(crate) message: &'a str,
    pub(crate) report: Option<&'a str>,
    pub(crate) delivery: DeliveryState,
}

/// The history of runs.
#[derive(Debug)]
pub(crate) struct History {
    database: Connection,
}

impl History {
    /// Opens the history at `path`; creates it if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut database = Connection::open(path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        // Readers and the writer do not block each other, and commits survive a power failure.
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.pragma_update(None, "foreign_keys", true)?;
        let version: i64 = database.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            let transaction = database.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.commit()?;
        } else if version != VERSION {
            return Err(HistoryError::Version { version });
        }
        Ok(Self { database })
    }

    /// Disables syncing to make tests faster; a power failure may lose commits.
    #[cfg(test)]
    pub(crate) fn disable_sync(&self) {
        self.database.pragma_update(None, "synchronous", "OFF").unwrap();
    }

    /// Opens the history at `path` read-only, while the service writes it.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(path, flags)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        Ok(Self { database })
    }

    /// Returns the schedule of a job whose slots are recorded, and the time up to which they are.
    pub(crate) fn seen(&self, job: &str) -> Result<Option<(String, Second)>> {
        let query = "SELECT schedule, seen FROM jobs WHERE name = ?1";
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(self.database.prepare_cached(query)?.query_row([job], row).optional()?)
    }

    /// Records slots of a job with their states, and advances `seen`.
    pub(crate) fn record_slots(
        &mut self,
        job: &str,
        schedule: &Schedule,
        seen: Second,
        slots: &[(Second, Second, State, &str)],
    ) -> Result<()> {
        let transaction = self.database.transaction()?;
        for (slot, due, state, message) in slots {
            let ended = state.is_end().then_some(seen);
            transaction
                .prepare_cached(
                    "INSERT INTO runs (job, slot, cause, state, due, ended, message)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                )?
                .execute(params![job, slot, Cause::Schedule, state, due, ended, message])?;
        }
        transaction
            .prepare_cached(
                "INSERT INTO jobs (name, schedule, seen) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET schedule = ?2, seen = MAX(seen, ?3)",
            )?
            .execute(params![job, schedule_key(schedule), seen])?;
        if !slots.is_empty() {
            prune(&transaction, job)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Records a manual start; two starts in the same second are one run.
    pub(crate) fn record_manual_start(&mut self, job: &str, now: Second) -> Result<RunId> {
        let transaction = self.database.transaction()?;
        transaction.execute(
            "INSERT INTO runs (job, slot, cause, state, due) VALUES (?1, ?2, ?3, ?4, ?2)
             ON CONFLICT DO NOTHING",
            params![job, now, Cause::Manual, State::Waiting],
        )?;
        let id = transaction.query_row(
            "SELECT id FROM runs WHERE job = ?1 AND slot = ?2 AND cause = ?3",
            params![job, now, Cause::Manual],
            |row| row.get(0),
        )?;
        prune(&transaction, job)?;
        transaction.commit()?;
        Ok(id)
    }

    /// Skips the waiting slots of a job that have no attempts.
    pub(crate) fn skip_waiting(&mut self, job: &str, now: Second, message: &str) -> Result<()> {
        self.database
            .prepare_cached(
                "UPDATE runs SET state = ?1, ended = ?2, message = ?3
                 WHERE job = ?4 AND state = ?5 AND cause = ?6
                 AND NOT EXISTS (SELECT 1 FROM tries WHERE run = runs.id)",
            )?
            .execute(params![State::Skipped, now, message, job, State::Waiting, Cause::Schedule])?;
        Ok(())
    }

    /// Removes the schedule of a job and skips its waiting slots.
    pub(crate) fn remove_schedule(&mut self, job: &str, now: Second) -> Result<()> {
        let n_removed = self.database.execute("DELETE FROM jobs WHERE name = ?1", [job])?;
        if n_removed > 0 {
            self.skip_waiting(job, now, "the job no longer has a schedule")?;
        }
        Ok(())
    }

    /// Removes the schedules of all jobs except `names`.
    pub(crate) fn retain_schedules(&mut self, names: &[&str]) -> Result<()> {
        let names = serde_json::Value::from(names.to_vec()).to_string();
        self.database.execute(
            "DELETE FROM jobs WHERE name NOT IN (SELECT value FROM json_each(?1))",
            [names],
        )?;
        Ok(())
    }

    /// Begins an attempt of a run.
    pub(crate) fn begin_attempt(&mut self, run: RunId, now: Second) -> Result<AttemptId> {
        let transaction = self.database.transaction()?;
        transaction.execute(
            "UPDATE runs SET state = ?1, message = '' WHERE id = ?2",
            params![State::Running, run],
        )?;
        transaction
            .execute("INSERT INTO tries (run, started) VALUES (?1, ?2)", params![run, now])?;
        let id = transaction.last_insert_rowid();
        transaction.commit()?;
        Ok(id)
    }

    /// Records the process of an attempt, for a later service.
    pub(crate) fn record_process(&mut self, attempt: AttemptId, process: ProcessId) -> Result<()> {
        self.database.execute(
            "UPDATE tries SET pid = ?1, began = ?2 WHERE id = ?3",
            params![process.pid, i64::try_from(process.start_time).unwrap_or(i64::MAX), attempt],
        )?;
        Ok(())
    }

    /// Ends an attempt and updates its run.
    pub(crate) fn end_attempt(
        &mut self,
        attempt: AttemptId,
        now: Second,
        outcome: &str,
        log: &str,
        update: &RunUpdate<'_>,
    ) -> Result<()> {
        let transaction = self.database.transaction()?;
        transaction.execute(
            "UPDATE tries SET ended = ?1, outcome = ?2, log = ?3 WHERE id = ?4",
            params![now, outcome, log, attempt],
        )?;
        let RunUpdate { state, due, failures, message, report, delivery } = update;
        transaction.execute(
            "UPDATE runs SET state = ?1, due = ?2, failures = ?3, message = ?4, telling = ?5,
                 report = COALESCE(?6, report), ended = ?7
             WHERE id = (SELECT run FROM tries WHERE id = ?8)",
            params![
                state,
                due,
                failures,
                message,
                delivery,
                report,
                state.is_end().then_some(now),
                attempt
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Sets the state of a run without a process: stopped, skipped, or waiting again.
    pub(crate) fn set_state(
        &mut self,
        run: RunId,
        now: Second,
        state: State,
        message: &str,
    ) -> Result<()> {
        self.database.execute(
            "UPDATE runs SET state = ?1, due = ?2, ended = ?3, failures = 0, message = ?4
             WHERE id = ?5",
            params![state, now, state.is_end().then_some(now), message, run],
        )?;
        Ok(())
    }

    /// Records the delivery of the hooks of a run.
    pub(crate) fn record_delivery(
        &mut self,
        run: RunId,
        delivery: DeliveryState,
        problem: &str,
    ) -> Result<()> {
        self.database.execute(
            "UPDATE runs SET telling = ?1,
                 message = CASE
                     WHEN ?2 = '' THEN message
                     WHEN message = '' THEN ?2
                     ELSE message || '; ' || ?2
                 END
             WHERE id = ?3",
            params![delivery, problem, run],
        )?;
        Ok(())
    }

    /// Returns the unfinished attempts of this service and of earlier ones.
    pub(crate) fn unfinished_attempts(&self) -> Result<Vec<UnfinishedAttempt>> {
        let query = "SELECT run, job, tries.id, pid, began FROM tries JOIN runs ON runs.id = run
                     WHERE tries.ended IS NULL ORDER BY tries.id";
        let mut statement = self.database.prepare(query)?;
        let rows = statement.query_map([], |row| {
            let start_time: Option<i64> = row.get(4)?;
            let start_time = start_time.and_then(|seconds| u64::try_from(seconds).ok());
            let process = row.get::<_, Option<u32>>(3)?.zip(start_time);
            Ok(UnfinishedAttempt {
                run: row.get(0)?,
                job: row.get(1)?,
                attempt: row.get(2)?,
                process: process.map(|(pid, start_time)| ProcessId { pid, start_time }),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns a run.
    pub(crate) fn run(&self, id: RunId) -> Result<Option<Run>> {
        let query = format!("{RUN} WHERE id = ?1");
        Ok(self.database.prepare_cached(&query)?.query_row([id], read_run).optional()?)
    }

    /// Returns the next due run of each job. A run with earlier attempts comes first and blocks the other
    /// runs of its job until it is due again. Among jobs that are due in the same second, the one that
    /// ran least recently comes first, so that no job starves.
    pub(crate) fn due_runs(&self, now: Second) -> Result<Vec<Run>> {
        let query = format!(
            "{RUN} WHERE due <= ?2 AND id IN (
                 SELECT id FROM (
                     SELECT id, ROW_NUMBER() OVER (
                         PARTITION BY job
                         ORDER BY EXISTS (SELECT 1 FROM tries WHERE run = runs.id) DESC, slot, id
                     ) AS place FROM runs WHERE state = ?1
                 ) WHERE place = 1
             ) ORDER BY due, (
                 SELECT MAX(tries.id) FROM tries JOIN runs AS others ON others.id = tries.run
                 WHERE others.job = runs.job
             ), slot, id"
        );
        self.runs(&query, params![State::Waiting, now])
    }

    /// Returns the finished runs whose hooks are not delivered yet.
    pub(crate) fn pending_deliveries(&self) -> Result<Vec<Run>> {
        self.runs(&format!("{RUN} WHERE telling = ?1 ORDER BY id"), params![DeliveryState::Pending])
    }

    /// Returns the latest `n` runs of one job or all jobs, newest first.
    pub(crate) fn latest_runs(&self, job: Option<&str>, n: usize) -> Result<Vec<Run>> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let query =
            format!("{RUN} WHERE ?1 IS NULL OR job = ?1 ORDER BY slot DESC, id DESC LIMIT ?2");
        self.runs(&query, params![job, n])
    }

    fn runs(&self, query: &str, parameters: impl rusqlite::Params) -> Result<Vec<Run>> {
        let mut statement = self.database.prepare_cached(query)?;
        let rows = statement.query_map(parameters, read_run)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns whether a job has an unfinished run.
    pub(crate) fn has_unfinished_run(&self, job: &str) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT 1 FROM runs WHERE state IN (?1, ?2) AND job = ?3)";
        let mut statement = self.database.prepare_cached(query)?;
        let parameters = params![State::Waiting, State::Running, job];
        Ok(statement.query_row(parameters, |row| row.get(0))?)
    }

    /// Returns the attempts of a run in order.
    pub(crate) fn attempts(&self, run: RunId) -> Result<Vec<Attempt>> {
        let query =
            "SELECT id, run, started, ended, outcome, log FROM tries WHERE run = ?1 ORDER BY id";
        let mut statement = self.database.prepare_cached(query)?;
        let rows = statement.query_map([run], |row| {
            Ok(Attempt {
                id: row.get(0)?,
                run: row.get(1)?,
                started: row.get(2)?,
                ended: row.get(3)?,
                outcome: row.get(4)?,
                log: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns the state of the last run of a job that succeeded or failed.
    pub(crate) fn last_result(&self, job: &str) -> Result<Option<State>> {
        let query = "SELECT state FROM runs WHERE job = ?1 AND state IN (?2, ?3)
                     ORDER BY ended DESC, id DESC LIMIT 1";
        let mut statement = self.database.prepare_cached(query)?;
        let parameters = params![job, State::Done, State::Failed];
        Ok(statement.query_row(parameters, |row| row.get(0)).optional()?)
    }

    /// Returns the end of the last successful run of a job.
    pub(crate) fn last_success(&self, job: &str) -> Result<Option<Second>> {
        let query = "SELECT MAX(ended) FROM runs WHERE job = ?1 AND state = ?2";
        let mut statement = self.database.prepare_cached(query)?;
        Ok(statement.query_row(params![job, State::Done], |row| row.get(0))?)
    }

    /// Returns the number of runs in the history, by job and state.
    pub(crate) fn counts(&self) -> Result<BTreeMap<(String, State), u64>> {
        let mut statement = self
            .database
            .prepare_cached("SELECT job, state, COUNT(*) FROM runs GROUP BY job, state")?;
        let rows = statement.query_map([], |row| {
            let count: i64 = row.get(2)?;
            Ok(((row.get(0)?, row.get(1)?), u64::try_from(count).unwrap_or(0)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// Returns the part of a schedule that determines its slots.
pub(crate) fn schedule_key(schedule: &Schedule) -> String {
    format!("{} {}", schedule.cron, schedule.time_zone)
}

/// Removes the oldest finished runs of a job beyond the limit, except those with pending deliveries.
fn prune(transaction: &Transaction<'_>, job: &str) -> Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM runs WHERE job = ?1 AND ended IS NOT NULL AND telling <> ?2 AND slot < (
                 SELECT slot FROM runs WHERE job = ?1 ORDER BY slot DESC LIMIT 1 OFFSET ?3)",
        )?
        .execute(params![job, DeliveryState::Pending, RUNS_MAX])?;
    Ok(())
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get("id")?,
        job: row.get("job")?,
        slot: row.get("slot")?,
        cause: row.get("cause")?,
        state: row.get("state")?,
        due: row.get("due")?,
        failures: row.get("failures")?,
        n_attempts: row.get("n_attempts")?,
        started: row.get("started")?,
        ended: row.get("ended")?,
        message: row.get("message")?,
        report: row.get("report")?,
        delivery: row.get("telling")?,
    })
}
