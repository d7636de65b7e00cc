//! The lease of an output in an object store, which has no locks that end with their holder.
//!
//! The lease is an object with its owner's name and a heartbeat counter. No clock of another machine is
//! trusted: a run that finds a lease watches it for [`LeaseTerms::lasts`] on its own clock, and takes it
//! over if the heartbeat did not change. An owner that failed to renew for that long assumes that it has
//! lost the lease and stops writing. Its writes in flight only create objects that do not exist
//! ([`super::Folder::create`]), so two runs cannot both commit a span.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use object_store::{Error, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::{fault::Problem, hold::UNKNOWN_OWNER, json::json, remote::RemoteFolder};

/// The duration of a lease and its renewal interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The time after the last heartbeat when another run may take over.
    pub lasts: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(30) }
    }
}

/// Heartbeats per lease duration: one may be lost and the next is still in time.
const BEATS: u32 = 4;

/// The version of the lease format.
const LEASE_VERSION: u32 = 1;

/// The content of the lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The holder, for humans: the process and its machine.
    owner: String,
    /// A unique name of the holder.
    token: String,
    /// The heartbeat counter.
    beat: u64,
    /// The time after the last heartbeat when it may be taken over, in seconds.
    lasts_seconds: f64,
}

impl Record {
    fn bytes(&self) -> Result<Bytes, Error> {
        json(self).map_err(|problem| Error::Generic { store: "lease", source: problem.into() })
    }
}

/// An error of taking a lease.
#[derive(Debug)]
pub(crate) enum LeaseError {
    /// Another run holds it.
    Held { owner: String },
    /// The store misbehaves or is unreachable.
    Store(Problem),
}

impl From<Error> for LeaseError {
    fn from(error: Error) -> Self {
        Self::Store(error.into())
    }
}

/// A lease held by this process; released on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    holding: Arc<Holding>,
    /// Dropped to stop the heartbeat.
    end: Option<mpsc::Sender<()>>,
    beats: Option<JoinHandle<Option<UpdateVersion>>>,
}

#[derive(Debug)]
struct Holding {
    folder: RemoteFolder,
    key: String,
    terms: LeaseTerms,
    lost: AtomicBool,
    /// The start of the last successful renewal, on two clocks: one may pause while the machine sleeps, the
    /// other may be set.
    renewed: Mutex<(Instant, SystemTime)>,
}

impl Holding {
    fn set_renewed(&self, at: (Instant, SystemTime)) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn is_held(&self) -> bool {
        let (instant, time) = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = time.elapsed().unwrap_or_default();
        !self.lost.load(Relaxed) && instant.elapsed().max(slept) < self.terms.lasts
    }

    /// Renews the lease until `ended` is closed; returns its last version if it is still held.
    fn beat(
        &self,
        mut record: Record,
        mut version: UpdateVersion,
        ended: &mpsc::Receiver<()>,
    ) -> Option<UpdateVersion> {
        let pause = self.terms.lasts / BEATS;
        while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
            record.beat += 1;
            match self.renew(&record, &version) {
                Ok(Some(next)) => version = next,
                Ok(None) => {
                    self.lost.store(true, Relaxed);
                    tracing::warn!(key = self.key, "another run has taken over the output's lease");
                    return None;
                }
                // The next heartbeat may succeed before the lease expires.
                Err(error) => {
                    let error = Problem::from(&error);
                    tracing::warn!(%error, "failed to renew the lease of the output");
                }
            }
        }
        Some(version)
    }

    /// Renews the lease once; returns its new version, or `None` if another run holds it.
    fn renew(
        &self,
        record: &Record,
        version: &UpdateVersion,
    ) -> Result<Option<UpdateVersion>, Error> {
        let folder = self.folder.at_once();
        let began = (Instant::now(), SystemTime::now());
        if let Some(next) = folder.update_version(&self.key, &record.bytes()?, version)? {
            self.set_renewed(began);
            return Ok(Some(next));
        }
        // The stored version may be an earlier heartbeat of ours whose response was lost.
        let found = folder.read_version(&self.key)?;
        Ok(found.and_then(|(bytes, version)| {
            let holder: Record = serde_json::from_slice(&bytes).ok()?;
            (holder.token == record.token).then_some(version)
        }))
    }
}

impl Lease {
    /// Takes the lease `key` of `folder` for `owner`. Watches an existing lease for its whole duration.
    pub(crate) fn take(
        folder: &RemoteFolder,
        key: &str,
        owner: &str,
        terms: LeaseTerms,
    ) -> Result<Self, LeaseError> {
        let mut began = (Instant::now(), SystemTime::now());
        let record = Record {
            version: LEASE_VERSION,
            owner: owner.to_owned(),
            token: token(),
            beat: 0,
            lasts_seconds: terms.lasts.as_secs_f64(),
        };
        let version = match folder.create_version(key, &record.bytes()?)? {
            Some(version) => version,
            None => {
                let watched = Self::watch(folder, key)?;
                began = (Instant::now(), SystemTime::now());
                Self::take_over(folder, key, &record, watched)?
            }
        };
        // A store that overwrites unconditionally would let two runs in.
        let probe = Record { token: token(), ..record.clone() };
        if folder.create_version(key, &probe.bytes()?)?.is_some() {
            return Err(LeaseError::Store(
                "the store overwrites an existing object despite `If-None-Match`, so two \
                 runs could not be kept apart: choose an `output.path` in a store that supports it"
                    .into(),
            ));
        }
        let holding = Arc::new(Holding {
            folder: folder.clone(),
            key: key.to_owned(),
            terms,
            lost: AtomicBool::new(false),
            renewed: Mutex::new(began),
        });
        let (end, ended) = mpsc::channel();
        let beating = Arc::clone(&holding);
        let beats = std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || beating.beat(record, version, &ended))
            .map_err(|error| {
                LeaseError::Store(format!("failed to start a thread: {error}").into())
            })?;
        Ok(Self { holding, end: Some(end), beats: Some(beats) })
    }

    /// Watches a held lease for its whole duration. Returns its owner and the unchanged version; `None` if it
    /// was released.
    fn watch(
        folder: &RemoteFolder,
        key: &str,
    ) -> Result<(String, Option<UpdateVersion>), LeaseError> {
        let Some((bytes, version)) = folder.read_version(key)? else {
            return Ok((UNKNOWN_OWNER.to_owned(), None));
        };
        let (owner, lasts) = match serde_json::from_slice::<Record>(&bytes) {
            Ok(held) => (held.owner, Duration::try_from_secs_f64(held.lasts_seconds).ok()),
            Err(_) => (UNKNOWN_OWNER.to_owned(), None),
        };
        let lasts = lasts.unwrap_or(LeaseTerms::default().lasts);
        tracing::warn!(
            "another run ({owner}) holds `{}`: watching for {} s to see whether it is alive",
            folder.url_of(key),
            lasts.as_secs_f64(),
        );
        std::thread::sleep(lasts);
        match folder.read_version(key)? {
            Some((later, _)) if later != bytes => Err(LeaseError::Held { owner }),
            Some(_) => Ok((owner, Some(version))),
            None => Ok((owner, None)),
        }
    }

    /// Takes a lease that expired or was released.
    fn take_over(
        folder: &RemoteFolder,
        key: &str,
        record: &Record,
        (owner, silent): (String, Option<UpdateVersion>),
    ) -> Result<UpdateVersion, LeaseError> {
        let taken = match silent {
            Some(version) => folder.update_version(key, &record.bytes()?, &version)?,
            None => folder.create_version(key, &record.bytes()?)?,
        };
        taken.ok_or(LeaseError::Held { owner })
    }

    /// Returns whether the lease is certainly still ours.
    pub(crate) fn is_held(&self) -> bool {
        self.holding.is_held()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.end.take());
        let last = self.beats.take().and_then(|beats| beats.join().ok()).flatten();
        // Released only while it is certainly ours; an abandoned lease expires by itself.
        if last.is_some()
            && self.holding.is_held()
            && let Err(error) = self.holding.folder.remove(&self.holding.key)
        {
            tracing::warn!(%error, "failed to release the lease of the output");
        }
    }
}

/// Returns a unique holder name from the time, the process and a counter.
fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Relaxed);
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), count);
    format!("{:x}-{:x}-{count:x}-{random:x}", now.as_nanos(), std::process::id())
}
