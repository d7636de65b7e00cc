//! Crashes on purpose: `tests/tests/torture/crashes.rs` ends the real program after any single step of what it writes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Steps left until the crash; 0: no crash is asked for.
static STEPS_LEFT: AtomicU64 = AtomicU64::new(0);

/// Asks for the process to end, without any tidying up, at its `n`-th step; 0 asks for nothing.
pub fn at_step(n: u64) {
    STEPS_LEFT.store(n, Relaxed);
}

/// Marks a step: a change to the output that another may follow. Costs a load of an integer.
pub(crate) fn step() {
    if STEPS_LEFT.load(Relaxed) > 0 && STEPS_LEFT.fetch_sub(1, Relaxed) == 1 {
        std::process::abort();
    }
}
