//! The contracts of Legenda, which every other crate shares: the job file, the Arrow schemas of
//! answers and rejects, spans and the ledger, units.
//!
//! Nothing here reads a file, waits, or knows of ONNX Runtime.
//!
//! - [`cron`]: when a scheduled job is due.
//! - [`job`]: the job file, as a person writes it.
//! - [`table`]: what a run writes: answers and rejects as Arrow schemas.
//! - [`precision`]: how the weights of graphs are stored.
//! - [`span`]: the unit of commit, its identity and its name.
//! - [`ledger`]: the on-disk records of what is committed.
//! - [`suggest`]: the name that a misspelt one was meant to be.
//! - [`units`]: sizes with a unit, error budgets, periods.

pub mod cron;
pub mod flag;
pub mod job;
pub mod ledger;
pub mod precision;
pub mod span;
pub mod suggest;
pub mod table;
pub mod units;

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of `parts` as lower-case hex; each part is preceded by its length, so that
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

/// Ends a digest; returns it as lower-case hex.
#[must_use]
pub fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn digest_depends_on_where_parts_are_cut() {
        let whole: [&[u8]; 2] = [b"ab", b"c"];
        let moved: [&[u8]; 2] = [b"a", b"bc"];
        assert_ne!(sha256_hex(whole), sha256_hex(moved));
    }
}
