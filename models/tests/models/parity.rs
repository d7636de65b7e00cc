//! Rows of the table in `docs/parity.md`: every bundle that was compared with its reference, and
//! its speed.
//!
//! `just parity-table` sets `LEGENDA_PARITY` to a folder for them and generates the table.

use std::{
    env,
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use legenda_models::{Bundle, BundleSource};
use serde_json::json;

use crate::device::device;

/// The counts of compared rows and tokens, and the time that the model took.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    n_rows: usize,
    n_tokens: usize,
    took: Duration,
}

impl Tally {
    /// Adds equal rows with their generated tokens.
    pub(crate) fn add(&mut self, n_rows: usize, n_tokens: usize, took: Duration) {
        self.n_rows += n_rows;
        self.n_tokens += n_tokens;
        self.took += took;
    }

    /// Writes the row of a bundle if a folder is set.
    pub(crate) fn note(&self, name: &str, bundle: &Path, compared: &str) {
        let Some(folder) = env::var_os("LEGENDA_PARITY") else { return };
        let opened = Bundle::open(&BundleSource::Directory(bundle.to_owned())).unwrap();
        let has = |file: &str| bundle.join(file).try_exists().unwrap();
        let layout = if has("export.json") {
            "transformers"
        } else if has("config.json") {
            "transformers.js, optimum"
        } else {
            "onnxruntime-genai"
        };
        let line = json!({
            "name": name,
            "architecture": opened.architecture(),
            "layout": layout,
            "dialect": opened.dialect(),
            "rewritten": legenda_models::rewritings(&opened).join(", "),
            "device": device().as_str(),
            "precision": opened.precision().unwrap(),
            "compared": compared,
            "rows": self.n_rows,
            "tokens": self.n_tokens,
            "seconds": self.took.as_secs_f64(),
        });
        fs::create_dir_all(&folder).unwrap();
        let file = format!("{}.json", name.replace(' ', "-"));
        let mut file = File::create(Path::new(&folder).join(file)).unwrap();
        file.write_all(line.to_string().as_bytes()).unwrap();
    }
}
