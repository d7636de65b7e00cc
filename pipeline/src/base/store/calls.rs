//! Calls to object stores: their threads and their retries.
//!
//! Transient errors are retried here and nowhere below: the retries of `object_store` are disabled, so that
//! every call has one backoff policy, and after lost responses to conditional writes, the caller, which
//! knows what was written, reads the object back.

use std::{
    future::Future,
    io,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use object_store::Error;
use tokio::runtime::{Builder, Runtime};

use super::fault::{Problem, StoreFault, fault_of};

/// The maximum attempts of a call.
pub(super) const TRIES_MAX: u32 = 9;
/// The maximum attempts while the store has never responded: its address is probably wrong.
const FIRST_TRIES_MAX: u32 = 4;
/// The first backoff, doubled after each attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The maximum backoff; the eight backoffs of a failing call take 25 seconds together.
const PAUSE_MAX: Duration = Duration::from_secs(20);

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
pub(super) fn start<T: Send + 'static>(
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
pub(super) fn wait<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    receive(&start(call))
}

/// Waits for the result of a call that was started.
pub(super) fn receive<T>(receiver: &mpsc::Receiver<Result<T, Error>>) -> Result<T, Error> {
    receiver.recv().unwrap_or_else(|_| {
        Err(Error::Generic { store: "store", source: "the call ended early".into() })
    })
}

/// Runs a call until it succeeds, fails permanently, or has failed `tries` times.
pub(super) async fn trying<T, F>(tries: u32, mut call: impl FnMut() -> F) -> Result<T, Error>
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

/// Checks the length of a body; a silently truncated body is retried.
pub(super) fn whole(n_bytes: usize, expected: u64) -> Result<(), Error> {
    if n_bytes as u64 == expected {
        return Ok(());
    }
    let source = format!("received {n_bytes} of {expected} bytes").into();
    Err(Error::Generic { store: "store", source })
}
