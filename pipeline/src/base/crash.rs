//! Crash injection: `tests/tests/torture/crashes.rs` kills the real program after any single write step.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Steps left until the crash; 0 disables it.
static STEPS_LEFT: AtomicU64 = AtomicU64::new(0);

/// Makes the process exit without cleanup at its `n`-th step; 0 disables the crash.
pub fn at_step(n: u64) {
    STEPS_LEFT.store(n, Relaxed);
}

/// Marks a step: a change of the output that another may follow. Costs one atomic load.
pub(crate) fn step() {
    if STEPS_LEFT.load(Relaxed) > 0 && STEPS_LEFT.fetch_sub(1, Relaxed) == 1 {
        std::process::abort();
    }
}
