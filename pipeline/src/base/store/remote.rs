//! Folders and objects in an object store.
//!
//! Transient errors are retried here and nowhere below: the retries of `object_store` are disabled, so that
//! every call has one backoff policy, and after lost responses to conditional writes, the caller, which
//! knows what was written, reads the object back.

use std::{
    future::Future,
    io,
    ops::Range,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use legenda_schemas::span::SourceObject;
use object_store::{
    Error, GetOptions, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    UpdateVersion,
    path::{Path, PathPart},
};
use tokio::runtime::{Builder, Runtime};

use super::{
    error::{LocationError, ReadError, WriteError},
    fault::{Problem, StoreFault, fault_of, io_error},
    keys::{self, join},
    layout::{BESIDE, PLAN, key_beside},
    open::{Reach, open_folder, open_object},
};
use crate::base::crash;

/// The maximum attempts of a call.
const TRIES_MAX: u32 = 9;
/// The maximum attempts while the store has never responded: its address is probably wrong.
const FIRST_TRIES_MAX: u32 = 4;
/// The first backoff, doubled after each attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The maximum backoff; the eight backoffs of a failing call take 25 seconds together.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The number of concurrent reads of small objects.
const READS_AT_A_TIME: usize = 32;

/// The threads for store I/O. They live as long as the program, so that any thread can make a call,
/// regardless of its runtime.
static THREADS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).thread_name("store").enable_all().build()
});

/// The number of retries since the program started.
static RETRIES: AtomicU64 = AtomicU64::new(0);

/// Returns the number of retried store calls since the program started.
pub(crate) fn retries() -> u64 {
    RETRIES.load(Relaxed)
}

/// Starts a call on the store threads and returns the receiver of its result.
pub(crate) fn start<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> mpsc::Receiver<Result<T, Error>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    match &*THREADS {
        Ok(threads) => {
            threads.spawn(async move { sender.send(call.await).ok() });
        }
        Err(error) => {
            let source = format!("failed to start its threads: {error}").into();
            sender.send(Err(Error::Generic { store: "store", source })).ok();
        }
    }
    receiver
}

/// Waits for a call; blocks its thread.
pub(crate) fn wait<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    receive(&start(call))
}

fn receive<T>(receiver: &mpsc::Receiver<Result<T, Error>>) -> Result<T, Error> {
    receiver.recv().unwrap_or_else(|_| {
        Err(Error::Generic { store: "store", source: "the call ended early".into() })
    })
}

/// Runs a call until it succeeds, fails permanently, or has failed `tries` times.
async fn trying<T, F>(tries: u32, mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = PAUSE;
    let mut n_failed = 0;
    loop {
        n_failed += 1;
        match call().await {
            Err(error) if n_failed < tries_max(&error).min(tries) => {
                let problem = Problem::from(&error);
                tracing::info!(error = %problem, ?pause, "store call failed, retrying");
                RETRIES.fetch_add(1, Relaxed);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            done => return done,
        }
    }
}

/// Returns the maximum attempts after an error: 1 if it is permanent. An error that `object_store` does
/// not classify is a dropped connection.
fn tries_max(error: &Error) -> u32 {
    match fault_of(error) {
        Some(StoreFault::Unreachable { is_first: true, .. }) => FIRST_TRIES_MAX,
        Some(fault) if !fault.may_pass() => 1,
        None if !matches!(error, Error::Generic { .. } | Error::JoinError { .. }) => 1,
        _ => TRIES_MAX,
    }
}

/// A folder in an object store.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFolder {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    /// The maximum attempts of a call.
    tries: u32,
    /// Whether all objects are within the prefix, once the store was queried.
    is_within: Arc<OnceLock<bool>>,
}

impl RemoteFolder {
    pub(super) fn at(url: &str) -> Result<Self, LocationError> {
        let (store, prefix) = open_folder(url)?;
        let url = url.strip_suffix('/').unwrap_or(url).to_owned();
        Ok(Self { store, prefix, url, tries: TRIES_MAX, is_within: Arc::default() })
    }

    /// Returns the same folder without retries, for callers that cannot wait.
    pub(super) fn at_once(&self) -> Self {
        Self { tries: 1, ..self.clone() }
    }

    pub(super) fn url_of(&self, key: &str) -> String {
        if key.is_empty() {
            return self.url.clone();
        }
        let is_within = self.prefix.is_root() || self.is_within.get() == Some(&true);
        match key_beside(key).filter(|_| !is_within) {
            Some(key) => join(&format!("{}{BESIDE}", self.url), key),
            None => join(&self.url, key),
        }
        .trim_end_matches('/')
        .to_owned()
    }

    pub(super) fn holds(&self, url: &str) -> bool {
        let is_below =
            |prefix: &str| url.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        is_below(&self.url) || is_below(&self.url_of("_legenda"))
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        fn part(name: &str) -> PathPart<'_> {
            PathPart::parse(name).unwrap_or_else(|_| PathPart::from(name))
        }
        let below = |prefix: &Path, key: &str| {
            let names = key.split('/').filter(|name| !name.is_empty());
            names.fold(prefix.clone(), |path, name| path.join(part(name)))
        };
        let (Some(name), Some(key_beside)) = (self.prefix.filename(), key_beside(key)) else {
            return Ok(below(&self.prefix, key));
        };
        let is_within = match self.is_within.get() {
            Some(is_within) => *is_within,
            None => {
                let plan = get(self.tries, Arc::clone(&self.store), below(&self.prefix, PLAN));
                let is_within = wait(plan)?.is_some();
                *self.is_within.get_or_init(|| is_within)
            }
        };
        if is_within {
            return Ok(below(&self.prefix, key));
        }
        let beside = format!("{name}{BESIDE}");
        let beside = self.prefix.parent().unwrap_or_default().join(part(&beside));
        Ok(below(&beside, key_beside))
    }

    fn write_error(&self, key: &str, error: impl Into<Problem>) -> WriteError {
        WriteError::new(self.url_of(key), error)
    }

    fn read_error(&self, key: &str, error: &Error) -> ReadError {
        ReadError::new(self.url_of(key), error)
    }

    fn listed(&self, dir: &str) -> Result<ListResult, ReadError> {
        let store = Arc::clone(&self.store);
        let path = self.path(dir).map_err(|error| self.read_error(dir, &error))?;
        let listed = wait(trying(self.tries, move || {
            let (store, path) = (Arc::clone(&store), path.clone());
            async move { store.list_with_delimiter(Some(&path)).await }
        }));
        listed.map_err(|error| self.read_error(dir, &error))
    }

    pub(super) fn list_dirs(&self) -> Result<Vec<String>, ReadError> {
        let listed = self.listed("")?;
        let names = listed.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.filter(|name| !keys::is_marked(name)).map(str::to_owned).collect())
    }

    pub(super) fn list(&self, dir: &str, prefix: &str) -> Result<Vec<String>, ReadError> {
        let listed = self.listed(dir)?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename());
        let mut keys: Vec<String> =
            names.filter(|name| name.starts_with(prefix)).map(|name| join(dir, name)).collect();
        keys.sort();
        Ok(keys)
    }

    pub(super) fn read(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        let found = self.read_version(key).map_err(|error| self.read_error(key, &error))?;
        Ok(found.map(|(bytes, _)| bytes))
    }

    pub(super) fn read_all(&self, keys: &[String]) -> Result<Vec<(String, Bytes)>, ReadError> {
        let calls: Vec<_> = keys
            .iter()
            .map(|key| {
                let call = get(self.tries, Arc::clone(&self.store), self.path(key)?);
                let key = key.clone();
                Ok(async move { Ok((key, call.await?)) })
            })
            .collect::<Result<_, Error>>()
            .map_err(|error| self.read_error("", &error))?;
        let calls = futures_util::stream::iter(calls).buffered(READS_AT_A_TIME);
        let read: Vec<(String, Option<(Bytes, UpdateVersion)>)> =
            wait(calls.try_collect()).map_err(|error| self.read_error("", &error))?;
        Ok(read.into_iter().filter_map(|(key, found)| Some((key, found?.0))).collect())
    }

    pub(super) fn create(&self, key: &str, bytes: &Bytes) -> Result<(), WriteError> {
        let made = self.create_version(key, bytes).map_err(|error| self.write_error(key, error))?;
        crash::step();
        if made.is_none() {
            let other = "another run has written the file with different content, so that run owns this output";
            return Err(self.write_error(key, other));
        }
        Ok(())
    }

    /// Creates an object. Returns its version; `None` if another object exists.
    ///
    /// An "already exists" error may be our own earlier attempt whose response was lost, so read it back.
    pub(super) fn create_version(
        &self,
        key: &str,
        bytes: &Bytes,
    ) -> Result<Option<UpdateVersion>, Error> {
        let (store, path, bytes) = (Arc::clone(&self.store), self.path(key)?, bytes.clone());
        wait(trying(self.tries, move || {
            let (store, path, bytes) = (Arc::clone(&store), path.clone(), bytes.clone());
            async move {
                let put = store.put_opts(&path, bytes.clone().into(), PutMode::Create.into()).await;
                match put {
                    Ok(put) => Ok(Some(put.into())),
                    Err(Error::AlreadyExists { .. }) => match get_once(&store, &path).await? {
                        Some((found, version)) if found == bytes => Ok(Some(version)),
                        Some(_) => Ok(None),
                        None => Err(Error::Generic {
                            store: "store",
                            source: "the store reports that a missing object exists".into(),
                        }),
                    },
                    Err(error) => Err(error),
                }
            }
        }))
    }

    /// Replaces `version` of an object. Returns the new version; `None` if another version exists by now.
    pub(super) fn update_version(
        &self,
        key: &str,
        bytes: &Bytes,
        version: &UpdateVersion,
    ) -> Result<Option<UpdateVersion>, Error> {
        let (store, path, bytes) = (Arc::clone(&self.store), self.path(key)?, bytes.clone());
        let version = version.clone();
        wait(trying(self.tries, move || {
            let (store, path, bytes) = (Arc::clone(&store), path.clone(), bytes.clone());
            let mode = PutMode::Update(version.clone());
            async move {
                match store.put_opts(&path, bytes.clone().into(), mode.into()).await {
                    Ok(put) => Ok(Some(put.into())),
                    // As above: the other version may be from an earlier attempt.
                    Err(Error::Precondition { .. }) => match get_once(&store, &path).await? {
                        Some((found, version)) if found == bytes => Ok(Some(version)),
                        _ => Ok(None),
                    },
                    Err(error) => Err(error),
                }
            }
        }))
    }

    /// Reads an object with its version.
    pub(super) fn read_version(&self, key: &str) -> Result<Option<(Bytes, UpdateVersion)>, Error> {
        wait(get(self.tries, Arc::clone(&self.store), self.path(key)?))
    }

    pub(super) fn replace(&self, key: &str, bytes: Bytes) -> Result<(), WriteError> {
        let path = self.path(key).map_err(|error| self.write_error(key, error))?;
        let store = Arc::clone(&self.store);
        let payload = PutPayload::from(bytes);
        wait(trying(self.tries, move || {
            let (store, path, payload) = (Arc::clone(&store), path.clone(), payload.clone());
            async move { store.put(&path, payload).await }
        }))
        .map_err(|error| self.write_error(key, error))?;
        crash::step();
        Ok(())
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), WriteError> {
        let path = self.path(key).map_err(|error| self.write_error(key, error))?;
        let store = Arc::clone(&self.store);
        let removed = wait(trying(self.tries, move || {
            let (store, path) = (Arc::clone(&store), path.clone());
            async move { store.delete(&path).await }
        }));
        match removed {
            Err(error) if !matches!(error, Error::NotFound { .. }) => {
                Err(self.write_error(key, error))
            }
            _ => {
                crash::step();
                Ok(())
            }
        }
    }
}

async fn get_once(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
) -> Result<Option<(Bytes, UpdateVersion)>, Error> {
    match store.get(path).await {
        Ok(found) => {
            let ObjectMeta { e_tag, version, size, .. } = found.meta.clone();
            let bytes = found.bytes().await?;
            whole(bytes.len(), size)?;
            Ok(Some((bytes, UpdateVersion { e_tag, version })))
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks the length of a body; a silently truncated body is retried.
fn whole(n_bytes: usize, expected: u64) -> Result<(), Error> {
    if n_bytes as u64 == expected {
        return Ok(());
    }
    let source = format!("received {n_bytes} of {expected} bytes").into();
    Err(Error::Generic { store: "store", source })
}

async fn get(
    tries: u32,
    store: Arc<dyn ObjectStore>,
    path: Path,
) -> Result<Option<(Bytes, UpdateVersion)>, Error> {
    trying(tries, || get_once(&store, &path)).await
}

/// A specific version of an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectAt {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Its identity.
    pub(crate) object: SourceObject,
}

/// A range read in flight.
#[derive(Debug)]
pub(crate) struct Reading(mpsc::Receiver<Result<Bytes, Error>>);

impl Reading {
    /// Waits for the bytes.
    pub(crate) fn bytes(&self) -> io::Result<Bytes> {
        receive(&self.0).map_err(|error| io_error(&error))
    }
}

fn unusable(error: LocationError) -> io::Error {
    io::Error::other(Problem::from(error))
}

impl ObjectAt {
    /// Queries the metadata of the object at a URL.
    ///
    /// # Errors
    ///
    /// The store's error as an I/O error.
    pub(crate) fn look(url: &str) -> io::Result<Self> {
        Self::look_within(url, Reach::Anywhere)
    }

    /// Queries the metadata of the object at a URL; a web server may redirect within `reach`.
    ///
    /// # Errors
    ///
    /// The store's error as an I/O error.
    pub(crate) fn look_within(url: &str, reach: Reach) -> io::Result<Self> {
        let (store, path) = open_object(url, reach).map_err(unusable)?;
        let ask = |options: GetOptions| {
            let (store, path) = (Arc::clone(&store), path.clone());
            wait(trying(TRIES_MAX, move || {
                let (store, path, options) = (Arc::clone(&store), path.clone(), options.clone());
                async move { store.get_opts(&path, options).await.map(|found| found.meta) }
            }))
        };
        let head = GetOptions { head: true, ..GetOptions::default() };
        let meta = ask(head).or_else(|error| {
            // The response to a HEAD has no body with the reason, and some URLs only allow GET.
            let is_refused = match fault_of(&error) {
                Some(fault @ StoreFault::Answer { .. }) => !fault.may_pass(),
                Some(fault) => matches!(
                    fault,
                    StoreFault::Denied { code: None, .. }
                        | StoreFault::BadCredentials { code: None, .. }
                ),
                None => matches!(error, Error::NotFound { .. }),
            };
            if !is_refused {
                return Err(error);
            }
            let first_byte = GetOptions { range: Some((0..1).into()), ..GetOptions::default() };
            ask(first_byte)
                .map_err(|better| if fault_of(&better).is_some() { better } else { error })
        });
        let meta = meta.map_err(|error| io_error(&error))?;
        Ok(Self { store, path, object: identity(url.to_owned(), meta) })
    }

    /// Opens an object from a listing.
    ///
    /// # Errors
    ///
    /// An unsupported URL scheme.
    pub(crate) fn known(object: SourceObject) -> io::Result<Self> {
        let (store, path) = open_object(&object.path, Reach::Anywhere).map_err(unusable)?;
        Ok(Self { store, path, object })
    }

    /// Starts to read a byte range of this exact version.
    pub(crate) fn start_to_read(&self, range: Range<u64>) -> Reading {
        let this = self.clone();
        let call = trying(TRIES_MAX, move || {
            let this = this.clone();
            let options = GetOptions {
                if_match: this.object.etag.clone(),
                range: Some(range.clone().into()),
                ..GetOptions::default()
            };
            let expected = range.end - range.start;
            async move {
                let bytes = this.store.get_opts(&this.path, options).await?.bytes().await?;
                whole(bytes.len(), expected)?;
                Ok(bytes)
            }
        });
        Reading(start(call))
    }

    /// Lists the objects below the folder `url`.
    ///
    /// # Errors
    ///
    /// The store's error as an I/O error.
    pub(crate) fn list(url: &str) -> io::Result<Vec<SourceObject>> {
        let (store, prefix) = open_folder(url).map_err(unusable)?;
        let found: Vec<ObjectMeta> = wait(trying(TRIES_MAX, move || {
            let listed = store.list(Some(&prefix));
            async move { listed.try_collect().await }
        }))
        .map_err(|error| io_error(&error))?;
        let (root, _) = keys::split(url);
        let named = found.into_iter().map(|meta| (keys::unmarked(meta.location.as_ref()), meta));
        // Some programs create an empty object to mark a folder.
        let files = named.filter(|(key, meta)| !(key.ends_with('/') && meta.size == 0));
        Ok(files.map(|(key, meta)| identity(format!("{root}/{key}"), meta)).collect())
    }

    /// Returns the reason a listed object cannot be requested, if any.
    pub(crate) fn problem_with(url: &str) -> Option<String> {
        keys::path_of(keys::split(url).1).err().map(|fault| fault.to_string())
    }
}

fn identity(url: String, meta: ObjectMeta) -> SourceObject {
    let modified = meta.last_modified.timestamp_nanos_opt();
    SourceObject {
        path: url,
        size_bytes: meta.size,
        modified_ns: modified.and_then(|ns| u64::try_from(ns).ok()).unwrap_or_default(),
        etag: meta.e_tag,
    }
}
