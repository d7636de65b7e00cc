//! An object of a store, read as it was when it was found.

use std::{
    io,
    ops::Range,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use legenda_schemas::span::SourceObject;
use object_store::{Error, GetOptions, ObjectMeta, ObjectStore, path::Path};

use super::{
    calls::{TRIES_MAX, receive, start, trying, wait, whole},
    error::LocationError,
    fault::{Problem, StoreFault, fault_of, io_error},
    keys,
    open::{Reach, open_folder, open_object},
};

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
