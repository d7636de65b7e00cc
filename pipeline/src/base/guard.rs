//! Isolation of third-party decoders and parsers: a panic or an endless loop costs the row or row group
//! being processed, never the run.

use std::{
    any::Any,
    cell::Cell,
    io,
    panic::{self, AssertUnwindSafe},
    sync::mpsc,
    thread,
    time::Duration,
};

/// The timeout of one call of a decoder or parser. Sound calls are bounded by the limits on bytes, pixels
/// and seconds of audio; this ends endless loops.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(300);

/// An error of guarded work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It panicked.
    #[error("the decoder panicked: {problem}")]
    Panic {
        /// The panic message.
        problem: String,
    },
    /// It timed out and was abandoned.
    #[error("decoding timed out after {} s", limit.as_secs_f64())]
    TooSlow {
        /// The timeout.
        limit: Duration,
    },
    /// No thread could be started.
    #[error("failed to start a decoder thread")]
    NoThread(#[source] io::Error),
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and turns a panic into an error.
///
/// # Errors
///
/// [`GuardError::Panic`].
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, GuardError> {
    let was_guarded = IS_GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    result.map_err(|panic| GuardError::Panic { problem: message(panic.as_ref()) })
}

/// Runs `work` on its own thread and waits at most `limit` for it.
///
/// After the timeout, the work is abandoned: its thread keeps running with what it holds until it returns
/// or the process ends, because a thread cannot be killed.
///
/// # Errors
///
/// [`GuardError`].
pub fn guarded_within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GuardError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("decoder".to_owned())
        .spawn(move || sender.send(guarded(work)).ok())
        .map_err(GuardError::NoThread)?;
    receiver.recv_timeout(limit).unwrap_or(Err(GuardError::TooSlow { limit }))
}

/// Silences panics of guarded work on stderr, where they would look like bugs of this program: the reject
/// reports them. All other panics are printed as before.
pub fn quiet_panics() {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if IS_GUARDED.get() {
            tracing::debug!(place = ?info.location().map(ToString::to_string), "guarded panic");
        } else {
            default_hook(info);
        }
    }));
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{GuardError, guarded, guarded_within};

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let formatted = guarded(|| -> u8 { panic!("no {}", "end") }).unwrap_err();
        assert!(matches!(&formatted, GuardError::Panic { problem } if problem == "no end"));
        let on_thread = guarded_within(Duration::from_secs(60), || -> u8 { panic!("plain") });
        assert!(matches!(&on_thread, Err(GuardError::Panic { problem }) if problem == "plain"));
        assert_eq!(guarded_within(Duration::from_secs(60), || 7).unwrap(), 7);
    }

    #[test]
    fn what_does_not_end_is_left_behind() {
        let (ender, wait) = std::sync::mpsc::channel::<()>();
        let stuck = guarded_within(Duration::from_millis(20), move || wait.recv().is_ok());
        assert!(matches!(stuck, Err(GuardError::TooSlow { .. })), "{stuck:?}");
        drop(ender);
    }
}
