//! Shared by the torture tests: the extent of a run, random delays, and the rows of
//! `docs/torture.md`.

use std::{collections::BTreeMap, fs, fs::File, io::Write, path::PathBuf, time::Duration};

fn results() -> Option<PathBuf> {
    std::env::var_os("LEGENDA_TORTURE").map(PathBuf::from)
}

/// Returns whether to run all torture cases (`just torture`) instead of a small share.
#[must_use]
pub fn is_torture() -> bool {
    results().is_some()
}

/// The result of a torture test. The test fails at the first lost, duplicated or different row, so
/// those counts are 0.
#[derive(Debug)]
pub struct TortureRow<'a> {
    /// The kind of fault.
    pub fault: &'a str,
    /// How often the test requested it.
    pub asked: usize,
    /// How often it occurred.
    pub fired: usize,
    /// The number of outputs compared with an undisturbed one.
    pub compared: usize,
    /// The operations that the fault hit, with their counts.
    pub struck: &'a BTreeMap<String, usize>,
}

impl TortureRow<'_> {
    /// Writes the row of `docs/torture.md` if all torture cases run.
    pub fn leave(&self) {
        let Some(dir) = results() else { return };
        let Self { fault, asked, fired, compared, struck } = self;
        let struck: Vec<String> =
            struck.iter().map(|(what, times)| format!("{what} {times}")).collect();
        let struck = struck.join(", ");
        let row = format!("| {fault} | {asked} | {fired} | {compared} | 0 | 0 | 0 | {struck} |\n");
        fs::create_dir_all(&dir).unwrap();
        let file = File::create(dir.join(format!("{fault}.md")));
        file.unwrap().write_all(row.as_bytes()).unwrap();
    }
}

/// A pseudorandom number generator with a fixed seed (Knuth's MMIX), so that runs are reproducible.
#[derive(Debug, Default)]
pub struct Draws(pub u64);

impl Draws {
    /// Returns the next number; its high bits are the most random.
    pub fn draw(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}

/// A generator of random delays.
#[derive(Debug)]
pub struct Instants {
    whole: Duration,
    draws: Draws,
}

impl Instants {
    /// Creates a generator of delays up to `whole`.
    #[must_use]
    pub fn within(whole: Duration) -> Self {
        Self { whole, draws: Draws(1) }
    }

    /// Returns a delay of at least a millisecond.
    pub fn draw(&mut self) -> Duration {
        let share = f64::from(u32::try_from(self.draws.draw() >> 40).unwrap()) / f64::from(1 << 24);
        self.whole.mul_f64(share).max(Duration::from_millis(1))
    }
}
