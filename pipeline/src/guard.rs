//! Third-party decoders and parsers under guard: a panic in one, or a loop without end, costs the
//! row or row group that it was asked for, never the run.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long one call of a decoder or parser may take. The limits on bytes, pixels and seconds of
/// sound bound the work of every one that is sound; this ends what has lost its way.
pub const CALL_MAX: Duration = Duration::from_secs(300);

/// Why guarded work has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It panicked.
    #[error("a decoder panicked on it: {problem}")]
    Panic {
        /// The message of the panic.
        problem: String,
    },
    /// It took too long and was left behind.
    #[error("a decoder had no end within {} s", limit.as_secs_f64())]
    TooSlow {
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is no thread to do it on.
    #[error("no thread can be started for a decoder: {problem}")]
    NoThread {
        /// The system's reason.
        problem: String,
    },
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; a panic becomes an error.
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

/// Does `work` on a thread of its own and waits at most `limit` for it.
///
/// What does not end is left behind: its thread works on, with what it holds, until it ends by
/// itself or the process does, because no thread can be ended from without.
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
        .map_err(|error| GuardError::NoThread { problem: error.to_string() })?;
    receiver.recv_timeout(limit).unwrap_or(Err(GuardError::TooSlow { limit }))
}

/// Keeps panics of guarded work off stderr, where they would look like faults of this program: the
/// reject tells them. Every other panic is told as before.
pub fn quiet_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if IS_GUARDED.get() {
            tracing::debug!(place = ?info.location().map(ToString::to_string), "guarded panic");
        } else {
            tell(info);
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
