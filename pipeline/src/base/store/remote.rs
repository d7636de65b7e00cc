//! A folder in an object store.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    Error, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion,
    path::{Path, PathPart},
};

use super::{
    calls::{TRIES_MAX, trying, wait, whole},
    error::{LocationError, ReadError, WriteError},
    fault::Problem,
    keys::{self, join},
    layout::{BESIDE, PLAN, key_beside},
    open::open_folder,
};
use crate::base::crash;

/// The number of concurrent reads of small objects.
const READS_AT_A_TIME: usize = 32;

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

async fn get(
    tries: u32,
    store: Arc<dyn ObjectStore>,
    path: Path,
) -> Result<Option<(Bytes, UpdateVersion)>, Error> {
    trying(tries, || get_once(&store, &path)).await
}
