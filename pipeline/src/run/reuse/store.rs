//! Answers by key in a SQLite file that several runs can share, bounded in size: beyond it, the least
//! recently used answers are evicted. The only module of this crate that uses `rusqlite`.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use legenda_models::{Embedding, FinishReason, Generation, Trial};
use legenda_schemas::flag::{Flag, Flags};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};

use super::ResultKey;
use crate::run::stage::answer::{Answer, Content};

/// The version of the table; files of later versions are not used.
const VERSION: i64 = 2;

/// The timeout for a lock held by another writer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The page cache of SQLite, in KiB.
const CACHE_KIB: i64 = 4096;

/// One column per field with its own type, so that numbers are restored exactly.
const TABLE: &str = "
    CREATE TABLE results (
        name BLOB PRIMARY KEY,
        -- Seconds since 1970.
        used INTEGER NOT NULL,
        run TEXT NOT NULL,
        tokens_prompt INTEGER,
        text TEXT,
        finish_reason TEXT,
        -- 32-bit little-endian numbers each.
        token_ids BLOB,
        logprob_mean REAL,
        embedding BLOB,
        -- Names, separated by spaces.
        flags TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX results_by_use ON results (used);
";

/// Upgrades a table of version 1, which had no flags, to version 2.
const UPGRADE_FROM_1: &str = "ALTER TABLE results ADD COLUMN flags TEXT NOT NULL DEFAULT ''";

/// An error of a result store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// SQLite failed.
    #[error("failed to use the result store")]
    Sqlite(#[from] rusqlite::Error),
    /// Another version of this program created the store.
    #[error("the result store has version {version}, but this program supports {VERSION}")]
    Version {
        /// Its version.
        version: i64,
    },
    /// The folder of the store cannot be created.
    #[error("failed to create the folder of the result store")]
    Folder(#[from] std::io::Error),
}

impl StoreError {
    /// Returns whether the store is only locked by another process.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        let code = |error: &rusqlite::Error| error.sqlite_error_code();
        matches!(self, Self::Sqlite(error)
            if matches!(code(error), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)))
    }
}

/// Answers by key.
#[derive(Debug)]
pub(crate) struct ResultStore {
    database: Connection,
    name: String,
    bytes_max: u64,
    /// The unique id of this run.
    run: String,
    /// The keys found since the last `put`.
    found: Vec<ResultKey>,
}

impl ResultStore {
    /// Opens the store at `path`, creating it and its folder if missing. It may grow to `bytes_max`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn open(path: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let store =
            Self::from_connection(Connection::open(path)?, path.display().to_string(), bytes_max)?;
        // Readers and the writer do not block each other. Answers lost in a power cut are
        // recomputed.
        store.database.pragma_update(None, "journal_mode", "WAL")?;
        store.database.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(store)
    }

    /// Creates a store that lasts for this run: SQLite keeps it in memory while it is small, and then in an
    /// unnamed file.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn temporary(bytes_max: u64) -> Result<Self, StoreError> {
        let store =
            Self::from_connection(Connection::open("")?, "a temporary file".to_owned(), bytes_max)?;
        store.database.pragma_update(None, "journal_mode", "OFF")?;
        store.database.pragma_update(None, "synchronous", "OFF")?;
        Ok(store)
    }

    fn from_connection(
        mut database: Connection,
        name: String,
        bytes_max: u64,
    ) -> Result<Self, StoreError> {
        database.busy_timeout(PATIENCE)?;
        database.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let read_version = |database: &Connection| {
            database.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        };
        let found = read_version(&database)?;
        if found == 0 {
            database.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        if found < VERSION {
            let making = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another run may have created it in the meantime.
            match read_version(&making)? {
                0 => making.execute_batch(TABLE)?,
                1 => making.execute_batch(UPGRADE_FROM_1)?,
                _ => {}
            }
            if read_version(&making)? < VERSION {
                making.pragma_update(None, "user_version", VERSION)?;
            }
            making.commit()?;
        }
        let version = read_version(&database)?;
        if version != VERSION {
            return Err(StoreError::Version { version });
        }
        let run = format!("{}-{}", std::process::id(), since_1970().as_nanos());
        Ok(Self { database, name, bytes_max, run, found: Vec::new() })
    }

    /// Returns its path, for messages.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the answer of a key, if any, and whether this run stored it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn get(&mut self, name: &ResultKey) -> Result<Option<(Answer, bool)>, StoreError> {
        let mut query = self.database.prepare_cached("SELECT * FROM results WHERE name = ?1")?;
        let found = query.query_row([name], |row| Ok((answer(row)?, row.get::<_, String>("run")?)));
        let Some((Some(answer), run)) = found.optional()? else { return Ok(None) };
        self.found.push(*name);
        Ok(Some((answer, run == self.run)))
    }

    /// Stores answers, marks those found since the last call as used, and evicts the least recently used
    /// ones beyond the size limit.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub(crate) fn put(&mut self, answers: &[(ResultKey, &Answer)]) -> Result<(), StoreError> {
        if answers.is_empty() && self.found.is_empty() {
            return Ok(());
        }
        let now = i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX);
        let found = std::mem::take(&mut self.found);
        let putting = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for name in &found {
            let mut update = putting
                .prepare_cached("UPDATE results SET used = ?2 WHERE name = ?1 AND used < ?2")?;
            update.execute(params![name, now])?;
        }
        for (name, answer) in answers {
            insert(&putting, name, answer, (now, &self.run))?;
        }
        while bytes_used(&putting)? > self.bytes_max {
            let n_removed = putting.execute(
                "DELETE FROM results WHERE rowid IN (SELECT rowid FROM results ORDER BY used, rowid \
                 LIMIT (SELECT COUNT(*) / 10 + 1 FROM results))",
                [],
            )?;
            if n_removed == 0 {
                break;
            }
        }
        putting.commit()?;
        self.shrink()
    }

    /// Releases free pages if there are too many.
    fn shrink(&self) -> Result<(), StoreError> {
        if pragma(&self.database, "page_count")? * pragma(&self.database, "page_size")?
            > self.bytes_max
        {
            self.database.execute_batch("PRAGMA incremental_vacuum")?;
        }
        Ok(())
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn pragma(database: &Connection, name: &str) -> rusqlite::Result<u64> {
    database.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map(u64::from)
}

fn bytes_used(database: &Connection) -> rusqlite::Result<u64> {
    let pages = pragma(database, "page_count")?.saturating_sub(pragma(database, "freelist_count")?);
    Ok(pages * pragma(database, "page_size")?)
}

fn insert(
    database: &Connection,
    name: &ResultKey,
    answer: &Answer,
    (now, run): (i64, &str),
) -> rusqlite::Result<()> {
    let mut insert = database.prepare_cached(
        "INSERT OR IGNORE INTO results (name, used, run, tokens_prompt, text, finish_reason, \
         token_ids, logprob_mean, embedding, flags) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (mut text, mut embedding) = (None, None);
    let tokens_prompt = match &answer.content {
        Content::Generation(generation) => {
            // Token ids are far below 2³¹; do not store an answer that violates this.
            let ids =
                generation.token_ids.iter().map(|id| i32::try_from(*id).map(i32::to_le_bytes));
            let Ok(ids) = ids.collect::<Result<Vec<_>, _>>() else { return Ok(()) };
            text = Some((generation, ids.concat()));
            Some(count(generation.n_prompt_tokens))
        }
        Content::Embedding(Embedding { values, n_tokens }) => {
            let bytes: Vec<[u8; 4]> = values.iter().map(|value| value.to_le_bytes()).collect();
            embedding = Some(bytes.concat());
            n_tokens.map(count)
        }
    };
    let flags: Vec<&str> = answer.flags.iter().map(|flag| flag.as_str()).collect();
    insert.execute(params![
        name,
        now,
        run,
        tokens_prompt,
        text.as_ref().map(|(generation, _)| generation.text.as_str()),
        text.as_ref().map(|(generation, _)| generation.finish_reason.as_str()),
        text.as_ref().map(|(_, ids)| ids),
        text.as_ref().map(|(generation, _)| f64::from(generation.logprob_mean)),
        embedding,
        flags.join(" "),
    ])?;
    Ok(())
}

/// Decodes an answer; `None` if the row has none, or has an unknown flag.
fn answer(row: &Row<'_>) -> rusqlite::Result<Option<Answer>> {
    let flags: String = row.get("flags")?;
    let flags: Option<Flags> = flags.split_whitespace().map(Flag::from_name).collect();
    Ok(content(row)?.zip(flags).map(|(content, flags)| Answer { content, flags }))
}

fn content(row: &Row<'_>) -> rusqlite::Result<Option<Content>> {
    let tokens: Option<i64> = row.get("tokens_prompt")?;
    let tokens = tokens.and_then(|n| usize::try_from(n).ok());
    if let Some(bytes) = row.get::<_, Option<Vec<u8>>>("embedding")? {
        let (values, rest) = bytes.as_chunks::<4>();
        let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let embedding = Embedding { values, n_tokens: tokens };
        return Ok(rest.is_empty().then(|| embedding.into()));
    }
    let bytes: Vec<u8> = row.get("token_ids")?;
    let finish_reason: String = row.get("finish_reason")?;
    let (ids, rest) = bytes.as_chunks::<4>();
    let Some(finish_reason) = FinishReason::of(&finish_reason).filter(|_| rest.is_empty()) else {
        return Ok(None);
    };
    #[expect(clippy::cast_possible_truncation, reason = "it was stored from an `f32`")]
    let logprob_mean = row.get::<_, f64>("logprob_mean")? as f32;
    Ok(Some(Content::Generation(Generation {
        token_ids: ids.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect(),
        text: row.get("text")?,
        finish_reason,
        n_prompt_tokens: tokens.unwrap_or_default(),
        logprob_mean,
        trial: Trial::default(),
    })))
}

#[cfg(test)]
mod tests {
    use legenda_models::{Embedding, FinishReason, Generation, Trial};
    use sha2::{Digest, Sha256};

    use legenda_schemas::flag::{Flag, Flags};

    use super::{Answer, Content, ResultStore, StoreError, TABLE};

    fn generation(of: usize) -> Generation {
        Generation {
            token_ids: vec![7, 0, 31_999],
            text: format!("answer {of} \0 of ünïcode ").repeat(20),
            finish_reason: FinishReason::Length,
            n_prompt_tokens: of,
            logprob_mean: -0.1,
            trial: Trial::default(),
        }
    }

    fn text(of: usize) -> Answer {
        Answer::new(generation(of), Flags::from([Flag::ChannelsCancel]))
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results.sqlite");
        let embedding = Embedding { values: vec![0.1, -3e-30, f32::MIN], n_tokens: None };
        let flags = Flags::from(Flag::ALL);
        let embedding_answer = Answer::new(embedding.clone(), flags.clone());
        {
            let mut store = ResultStore::open(&path, 1 << 20).unwrap();
            let answers = [([1; 32], &text(3)), ([2; 32], &embedding_answer)];
            store.put(&answers).unwrap();
            assert!(store.get(&[3; 32]).unwrap().is_none());
        }
        // A second, concurrent reader.
        let mut one = ResultStore::open(&path, 1 << 20).unwrap();
        let mut other = ResultStore::open(&path, 1 << 20).unwrap();
        for store in [&mut one, &mut other] {
            let (found, is_own) = store.get(&[1; 32]).unwrap().unwrap();
            assert!(!is_own, "a run before has put it there");
            let Content::Generation(text) = found.content else { panic!("it was a text") };
            assert_eq!((text, found.flags), (generation(3), Flags::from([Flag::ChannelsCancel])));
            let (found, _) = store.get(&[2; 32]).unwrap().unwrap();
            let Content::Embedding(found_embedding) = found.content else {
                panic!("it was an embedding");
            };
            assert_eq!(found_embedding.values, embedding.values);
            assert_eq!(found_embedding.n_tokens, embedding.n_tokens);
            assert_eq!(found.flags, flags);
        }
    }

    #[test]
    fn a_store_of_version_1_keeps_its_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.sqlite");
        let old = rusqlite::Connection::open(&path).unwrap();
        let (columns, rest) = TABLE.split_once("embedding BLOB").unwrap();
        let (_, end) = rest.split_once(") STRICT").unwrap();
        old.execute_batch(&format!("{columns}embedding BLOB) STRICT{end}")).unwrap();
        old.execute(
            "INSERT INTO results (name, used, run, tokens_prompt, text, finish_reason, token_ids, \
             logprob_mean) VALUES (?1, 1, 'x', 4, 'old', 'stop', x'01000000', -0.5)",
            [[7_u8; 32]],
        )
        .unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        for _ in 0..2 {
            let mut store = ResultStore::open(&path, 1 << 20).unwrap();
            let (found, _) = store.get(&[7; 32]).unwrap().unwrap();
            assert_eq!((found.text(), found.flags.len()), (Some("old"), 0));
            store.put(&[([8; 32], &text(1))]).unwrap();
            assert_eq!(store.get(&[8; 32]).unwrap().unwrap().0.flags.len(), 1);
        }
    }

    #[test]
    fn an_answer_with_an_unknown_flag_is_not_reused() {
        let mut store = ResultStore::temporary(1 << 20).unwrap();
        store.put(&[([1; 32], &text(1))]).unwrap();
        store.database.execute("UPDATE results SET flags = 'of_later'", []).unwrap();
        assert!(store.get(&[1; 32]).unwrap().is_none());
    }

    #[test]
    fn the_file_stays_small_and_keeps_what_was_wanted_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.sqlite");
        let mut store = ResultStore::open(&path, 1 << 20).unwrap();
        let name = |of: usize| Sha256::digest(of.to_le_bytes()).into();
        for start in (0..8000).step_by(100) {
            let answers: Vec<Answer> = (start..start + 100).map(text).collect();
            let named: Vec<_> =
                (start..).zip(&answers).map(|(of, answer)| (name(of), answer)).collect();
            store.put(&named).unwrap();
        }
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes <= (1 << 20) + (1 << 18), "{bytes} bytes");
        assert!(store.get(&name(0)).unwrap().is_none());
        assert!(store.get(&name(7999)).unwrap().is_some_and(|(_, is_own)| is_own));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.sqlite");
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &[b'x'; 9000])
            .unwrap();
        assert!(matches!(ResultStore::open(&path, 1 << 20), Err(StoreError::Sqlite(_))));
        let path = folder.path().join("later.sqlite");
        drop(ResultStore::open(&path, 1 << 20).unwrap());
        let later = rusqlite::Connection::open(&path).unwrap();
        later.pragma_update(None, "user_version", 99).unwrap();
        let refused = ResultStore::open(&path, 1 << 20);
        assert!(matches!(refused, Err(StoreError::Version { version: 99 })));
    }
}
