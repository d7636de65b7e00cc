//! The speed and memory of a run over time.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::run::metrics::{Progress, resident_memory};

/// A sample of a run's progress at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineSample {
    /// Seconds since the run started.
    pub seconds: f64,
    /// Rows settled so far.
    pub rows: u64,
    /// Tokens generated so far.
    pub tokens: u64,
    /// The memory of the process in bytes, if the system reports it.
    pub memory_bytes: Option<u64>,
}

/// The maximum number of samples. When it is reached, every other sample is dropped and the interval is
/// doubled.
const SAMPLES_MAX: usize = 240;
/// The initial interval.
const PAUSE: Duration = Duration::from_millis(100);

/// Samples a run periodically until `ended`.
pub(crate) async fn record(
    progress: Arc<Progress>,
    mut ended: oneshot::Receiver<()>,
) -> Vec<TimelineSample> {
    let start = Instant::now();
    let mut pause = PAUSE;
    let mut seen = vec![look(&progress, start)];
    while tokio::time::timeout(pause, &mut ended).await.is_err() {
        seen.push(look(&progress, start));
        if seen.len() == SAMPLES_MAX {
            let mut keeps = false;
            seen.retain(|_| {
                keeps = !keeps;
                keeps
            });
            pause *= 2;
        }
    }
    seen.push(look(&progress, start));
    seen
}

fn look(progress: &Progress, start: Instant) -> TimelineSample {
    TimelineSample {
        seconds: start.elapsed().as_secs_f64(),
        rows: progress.rows_settled(),
        tokens: progress.tokens_generated.load(Relaxed),
        memory_bytes: resident_memory().map(|(now, _)| now),
    }
}
