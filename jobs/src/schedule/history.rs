//! What the service remembers: which slots it has seen, and how their runs went, in SQLite.
//!
//! A slot is doubled by no restart, because it is entered in the same transaction that moves the mark
//! up to which slots were seen, and once only (`UNIQUE`); none is missed, because the mark moves by
//! nothing else.

use std::{collections::BTreeMap, path::Path, time::Duration};

use legenda_schemas::job::Schedule;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};

use super::record::{Cause, ProcessName, Run, RunId, Second, State, Telling, Try, TryId};

/// The version of the tables; a file of another is refused.
const VERSION: i64 = 1;

/// The most runs of a job that are kept when they are over.
const RUNS_KEPT: i64 = 2000;

/// How long one connection waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

const TABLES: &str = "
    CREATE TABLE jobs (
        name TEXT PRIMARY KEY,
        -- The schedule whose slots up to `seen` are entered.
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
        (SELECT COUNT(*) FROM tries WHERE run = runs.id) AS n_tries,
        (SELECT MIN(started) FROM tries WHERE run = runs.id) AS started
    FROM runs
";

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// SQLite refused.
    #[error("cannot use the history of runs")]
    Sqlite(#[from] rusqlite::Error),
    /// Another version of this program made it.
    #[error(
        "the history of runs has version {version}, this program knows {VERSION}: use the program that made it, or another `--state`"
    )]
    Version {
        /// Its version.
        version: i64,
    },
}

type Result<T> = std::result::Result<T, HistoryError>;

/// A run that a service before this one left at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) run: RunId,
    pub(crate) job: String,
    pub(crate) at: TryId,
    /// None when that service ended before it could write it down.
    pub(crate) process: Option<ProcessName>,
}

/// How a run goes on, or where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled<'a> {
    pub(crate) state: State,
    pub(crate) due: Second,
    pub(crate) failures: u32,
    pub(crate) message: &'a str,
    pub(crate) report: Option<&'a str>,
    pub(crate) telling: Telling,
}

/// The history of runs.
#[derive(Debug)]
pub(crate) struct History {
    database: Connection,
}

impl History {
    /// Opens the history at `path`, making it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut database = Connection::open(path)?;
        database.busy_timeout(PATIENCE)?;
        // Readers and the writer do not wait for each other, and what is committed survives a power cut.
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

    /// Makes writing faster, at the price of what a power cut would cost.
    #[cfg(test)]
    pub(crate) fn hurry(&self) {
        self.database.pragma_update(None, "synchronous", "OFF").unwrap();
    }

    /// Opens the history at `path` to be read beside the service that writes it.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(path, flags)?;
        database.busy_timeout(PATIENCE)?;
        Ok(Self { database })
    }

    /// Returns the schedule whose slots were entered, and up to when.
    pub(crate) fn seen(&self, job: &str) -> Result<Option<(String, Second)>> {
        let query = "SELECT schedule, seen FROM jobs WHERE name = ?1";
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(self.database.prepare_cached(query)?.query_row([job], row).optional()?)
    }

    /// Enters slots of a job with their fates, and that its slots were seen up to `seen`.
    pub(crate) fn enter(
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
            .execute(params![job, key(schedule), seen])?;
        if !slots.is_empty() {
            forget(&transaction, job)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Enters a start by hand; the same second twice is the same start.
    pub(crate) fn enter_by_hand(&mut self, job: &str, now: Second) -> Result<RunId> {
        let transaction = self.database.transaction()?;
        transaction.execute(
            "INSERT INTO runs (job, slot, cause, state, due) VALUES (?1, ?2, ?3, ?4, ?2)
             ON CONFLICT DO NOTHING",
            params![job, now, Cause::Hand, State::Waiting],
        )?;
        let id = transaction.query_row(
            "SELECT id FROM runs WHERE job = ?1 AND slot = ?2 AND cause = ?3",
            params![job, now, Cause::Hand],
            |row| row.get(0),
        )?;
        forget(&transaction, job)?;
        transaction.commit()?;
        Ok(id)
    }

    /// Skips the slots of a job that wait and were never tried.
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

    /// Forgets the schedule of a job that has none any more; what it left waiting is skipped.
    pub(crate) fn forget_schedule(&mut self, job: &str, now: Second) -> Result<()> {
        let known = self.database.execute("DELETE FROM jobs WHERE name = ?1", [job])?;
        if known > 0 {
            self.skip_waiting(job, now, "the job has no schedule any more")?;
        }
        Ok(())
    }

    /// Forgets the schedules of all jobs but those with `names`.
    pub(crate) fn forget_others(&mut self, names: &[&str]) -> Result<()> {
        let names = serde_json::Value::from(names.to_vec()).to_string();
        self.database.execute(
            "DELETE FROM jobs WHERE name NOT IN (SELECT value FROM json_each(?1))",
            [names],
        )?;
        Ok(())
    }

    /// Begins a try of a run.
    pub(crate) fn begin_try(&mut self, run: RunId, now: Second) -> Result<TryId> {
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

    /// Writes down which process is at work, for a service after this one.
    pub(crate) fn name_process(&mut self, at: TryId, process: ProcessName) -> Result<()> {
        self.database.execute(
            "UPDATE tries SET pid = ?1, began = ?2 WHERE id = ?3",
            params![process.pid, i64::try_from(process.began).unwrap_or(i64::MAX), at],
        )?;
        Ok(())
    }

    /// Ends a try, and says how its run goes on.
    pub(crate) fn end_try(
        &mut self,
        at: TryId,
        now: Second,
        outcome: &str,
        log: &str,
        settled: &Settled<'_>,
    ) -> Result<()> {
        let transaction = self.database.transaction()?;
        transaction.execute(
            "UPDATE tries SET ended = ?1, outcome = ?2, log = ?3 WHERE id = ?4",
            params![now, outcome, log, at],
        )?;
        let Settled { state, due, failures, message, report, telling } = settled;
        transaction.execute(
            "UPDATE runs SET state = ?1, due = ?2, failures = ?3, message = ?4, telling = ?5,
                 report = COALESCE(?6, report), ended = ?7
             WHERE id = (SELECT run FROM tries WHERE id = ?8)",
            params![
                state,
                due,
                failures,
                message,
                telling,
                report,
                state.is_end().then_some(now),
                at
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Moves a run that no process works at: it is stopped, skipped, or waits again.
    pub(crate) fn settle(
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

    /// Writes down whether the hooks of a run were told.
    pub(crate) fn tell(&mut self, run: RunId, telling: Telling, problem: &str) -> Result<()> {
        self.database.execute(
            "UPDATE runs SET telling = ?1,
                 message = CASE ?2 WHEN '' THEN message ELSE trim(message || ' ' || ?2) END
             WHERE id = ?3",
            params![telling, problem, run],
        )?;
        Ok(())
    }

    /// Returns the tries that have no end: those of this service, and those of one before it.
    pub(crate) fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let query = "SELECT run, job, tries.id, pid, began FROM tries JOIN runs ON runs.id = run
                     WHERE tries.ended IS NULL ORDER BY tries.id";
        let mut statement = self.database.prepare(query)?;
        let rows = statement.query_map([], |row| {
            let began: Option<i64> = row.get(4)?;
            let began = began.and_then(|began| u64::try_from(began).ok());
            let process = row.get::<_, Option<u32>>(3)?.zip(began);
            Ok(Unfinished {
                run: row.get(0)?,
                job: row.get(1)?,
                at: row.get(2)?,
                process: process.map(|(pid, began)| ProcessName { pid, began }),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns a run.
    pub(crate) fn run(&self, id: RunId) -> Result<Option<Run>> {
        let query = format!("{RUN} WHERE id = ?1");
        Ok(self.database.prepare_cached(&query)?.query_row([id], read_run).optional()?)
    }

    /// Returns the run of each job that is next, of those that are due: one that was begun comes
    /// first, and holds up the others of its job until it is due again. Of jobs that are due in the same
    /// second the one whose last run began first comes first, so that none waits for ever.
    pub(crate) fn due(&self, now: Second) -> Result<Vec<Run>> {
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

    /// Returns the runs that ended and whose hooks are still to be told.
    pub(crate) fn untold(&self) -> Result<Vec<Run>> {
        self.runs(&format!("{RUN} WHERE telling = ?1 ORDER BY id"), params![Telling::Pending])
    }

    /// Returns the last `n` runs, the newest first, of one job or of all.
    pub(crate) fn newest(&self, job: Option<&str>, n: usize) -> Result<Vec<Run>> {
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

    /// Returns whether a job has a run that is not over.
    pub(crate) fn is_busy(&self, job: &str) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT 1 FROM runs WHERE state IN (?1, ?2) AND job = ?3)";
        let mut statement = self.database.prepare_cached(query)?;
        let parameters = params![State::Waiting, State::Running, job];
        Ok(statement.query_row(parameters, |row| row.get(0))?)
    }

    /// Returns the tries of a run, in their order.
    pub(crate) fn tries(&self, run: RunId) -> Result<Vec<Try>> {
        let query =
            "SELECT id, run, started, ended, outcome, log FROM tries WHERE run = ?1 ORDER BY id";
        let mut statement = self.database.prepare_cached(query)?;
        let rows = statement.query_map([run], |row| {
            Ok(Try {
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

    /// Returns whether the last run of a job that ended, by itself, succeeded.
    pub(crate) fn last_end(&self, job: &str) -> Result<Option<State>> {
        let query = "SELECT state FROM runs WHERE job = ?1 AND state IN (?2, ?3)
                     ORDER BY ended DESC, id DESC LIMIT 1";
        let mut statement = self.database.prepare_cached(query)?;
        let parameters = params![job, State::Done, State::Failed];
        Ok(statement.query_row(parameters, |row| row.get(0)).optional()?)
    }

    /// Returns when the last successful run of a job ended.
    pub(crate) fn last_success(&self, job: &str) -> Result<Option<Second>> {
        let query = "SELECT MAX(ended) FROM runs WHERE job = ?1 AND state = ?2";
        let mut statement = self.database.prepare_cached(query)?;
        Ok(statement.query_row(params![job, State::Done], |row| row.get(0))?)
    }

    /// Counts the runs that are kept, by job and state.
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

/// Returns what tells one schedule's slots from another's.
pub(crate) fn key(schedule: &Schedule) -> String {
    format!("{} {}", schedule.cron, schedule.time_zone)
}

/// Removes all but the newest runs of a job that are over and told.
fn forget(transaction: &Transaction<'_>, job: &str) -> Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM runs WHERE job = ?1 AND ended IS NOT NULL AND telling <> ?2 AND slot < (
                 SELECT slot FROM runs WHERE job = ?1 ORDER BY slot DESC LIMIT 1 OFFSET ?3)",
        )?
        .execute(params![job, Telling::Pending, RUNS_KEPT])?;
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
        n_tries: row.get("n_tries")?,
        started: row.get("started")?,
        ended: row.get("ended")?,
        message: row.get("message")?,
        report: row.get("report")?,
        telling: row.get("telling")?,
    })
}
