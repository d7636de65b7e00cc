//! What the tests of torture have in common: how much of it is asked for, instants by chance, and the
//! rows of `docs/torture.md`.

use std::{collections::BTreeMap, fs, fs::File, io::Write, path::PathBuf, time::Duration};

fn results() -> Option<PathBuf> {
    std::env::var_os("LEGENDA_TORTURE").map(PathBuf::from)
}

/// Returns whether all of the torture is asked for (`just torture`), and not a small share.
#[must_use]
pub fn is_torture() -> bool {
    results().is_some()
}

/// What a test of torture did. It has stopped at the first row lost, doubled or different, so these are
/// 0.
#[derive(Debug)]
pub struct TortureRow<'a> {
    /// What went wrong.
    pub fault: &'a str,
    /// How often it was asked for.
    pub asked: usize,
    /// How often it happened.
    pub fired: usize,
    /// How many outputs were compared with an undisturbed one.
    pub compared: usize,
    /// What it struck, and how often.
    pub struck: &'a BTreeMap<String, usize>,
}

impl TortureRow<'_> {
    /// Leaves the row of `docs/torture.md`, where torture is asked for.
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

/// Numbers by chance: the same ones every time (Knuth, MMIX), so that a run can be made again.
#[derive(Debug, Default)]
pub struct Draws(pub u64);

impl Draws {
    /// Returns the next number, whose high bits are the better ones.
    pub fn draw(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}

/// Instants by chance.
#[derive(Debug)]
pub struct Instants {
    whole: Duration,
    draws: Draws,
}

impl Instants {
    /// Draws instants within `whole`.
    #[must_use]
    pub fn within(whole: Duration) -> Self {
        Self { whole, draws: Draws(1) }
    }

    /// Draws one, of at least a millisecond.
    pub fn draw(&mut self) -> Duration {
        let share = f64::from(u32::try_from(self.draws.draw() >> 40).unwrap()) / f64::from(1 << 24);
        self.whole.mul_f64(share).max(Duration::from_millis(1))
    }
}
