//! The shared types of Legenda: the job file, the Arrow schemas of answers and rejects, spans, ledger
//! records, and units.
//!
//! This crate does no I/O and does not depend on ONNX Runtime.
//!
//! - [`answer`]: the form of typed answers.
//! - [`cause`]: the causes of errors, and their text.
//! - [`cron`]: cron patterns and time zones.
//! - [`flag`]: the flags of answers.
//! - [`job`]: the job file.
//! - [`ledger`]: the on-disk records of committed spans.
//! - [`precision`]: the precision of graph weights.
//! - [`span`]: the unit of commit, its identity and its name.
//! - [`suggest`]: suggestions for misspelled names.
//! - [`table`]: the Arrow schemas of answers and rejects.
//! - [`units`]: byte sizes, error budgets and durations.

pub mod answer;
pub mod cause;
pub mod cron;
pub mod flag;
pub mod job;
pub mod ledger;
pub mod precision;
#[cfg(test)]
mod reference;
pub mod span;
pub mod suggest;
pub mod table;
pub mod units;

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of `parts` as lowercase hex. Each part is prefixed with its length, so that
/// `["ab", "c"]` and `["a", "bc"]` differ.
#[must_use]
pub fn sha256_hex<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(hasher)
}

/// Finalizes a digest and returns it as lowercase hex.
#[must_use]
pub fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn the_digest_depends_on_part_boundaries() {
        let first: [&[u8]; 2] = [b"ab", b"c"];
        let second: [&[u8]; 2] = [b"a", b"bc"];
        assert_ne!(sha256_hex(first), sha256_hex(second));
    }
}
