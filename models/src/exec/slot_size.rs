//! The number of rows decoded together: as many as fit in memory, depending on the decoder's
//! dialect.

use super::sizes::CACHE_BLOCK_TOKENS;
use crate::{bundle::Bundle, graph::Dialect};

/// The maximum of the automatic number of slots.
///
/// On one core the default model generates 2300 tokens per CPU-second with 8 slots, 3300 with 16
/// and 3500 with 32 (256 positions, ONNX Runtime 1.31.1): beyond 16, attention over all positions
/// consumes the gain.
const DEFAULT_SLOTS_MAX: usize = 16;

/// The same for `GroupQueryAttention`, which reads the positions in use only: a decoder of 135M
/// parameters generates 111 tokens per CPU-second with 16 slots and 130 with 32.
const DEFAULT_SLOTS_MAX_GQA: usize = 32;

/// The number of rows of a decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowCount {
    /// The number set by the job.
    Fixed(usize),
    /// As many as fit in memory, at most [`DEFAULT_SLOTS_MAX`].
    Fitting {
        /// The memory limit in bytes; unlimited by default.
        bytes_max: Option<usize>,
    },
}

/// Returns the number of rows that share a cache in a dialect, as many as are fast.
pub(super) fn shared_rows(dialect: Dialect) -> usize {
    if dialect == Dialect::InPlaceMask { DEFAULT_SLOTS_MAX_GQA } else { DEFAULT_SLOTS_MAX }
}

impl RowCount {
    /// Returns the limit of a cache whose rows share it, if the number of rows is not set.
    pub(super) fn shared_bytes(self) -> Option<usize> {
        match self {
            Self::Fixed(_) => None,
            Self::Fitting { bytes_max } => bytes_max,
        }
    }

    /// Returns the number of rows, given the bytes per row.
    pub(super) fn rows(self, bytes_per_row: usize) -> usize {
        match self {
            Self::Fixed(rows) => rows,
            Self::Fitting { bytes_max } => {
                let fitting = bytes_max.map_or(usize::MAX, |bytes| bytes / bytes_per_row.max(1));
                fitting.clamp(1, DEFAULT_SLOTS_MAX)
            }
        }
    }
}

/// The memory that the live rows of a decoder share.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedMemory {
    /// The maximum size in bytes.
    pub(super) bytes_max: usize,
    /// The peak size in bytes of a row without tokens.
    pub(super) row_bytes: usize,
    /// The peak size in bytes of a token of a row.
    pub(super) token_bytes: usize,
}

impl SharedMemory {
    /// Returns the number of rows of `n_tokens` that fit, at least 1 and at most `slots`.
    pub(super) fn rows(self, n_tokens: usize, slots: usize) -> usize {
        let bytes = n_tokens.saturating_mul(self.token_bytes).saturating_add(self.row_bytes);
        (self.bytes_max / bytes.max(1)).clamp(1, slots.max(1))
    }
}

/// The memory of one row in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBytes {
    /// The KV cache of one slot.
    slot: usize,
    /// The KV cache of one token.
    token: usize,
    /// The encoder states of one slot, with their keys and values.
    encoder: usize,
    /// The encoder states alone.
    states: usize,
    /// The embeddings of a prompt; 0 if prompts are token ids.
    prompt: usize,
}

impl RowBytes {
    /// Returns the memory of a row of `context_tokens`. Prompts may be embeddings.
    pub(super) fn new(bundle: &Bundle, context_tokens: usize, embeds_prompts: bool) -> Self {
        Self {
            slot: bundle.kv_bytes_per_slot(context_tokens).max(1),
            token: bundle.kv_bytes_per_slot(CACHE_BLOCK_TOKENS) / CACHE_BLOCK_TOKENS,
            encoder: bundle.source_bytes_per_slot(context_tokens),
            states: bundle.state_bytes_per_slot(context_tokens),
            prompt: if embeds_prompts { bundle.embed_bytes(context_tokens) } else { 0 },
        }
    }

    /// Returns the memory that rows of one slot share in a dialect. `slots` rows may hold their encoder
    /// states while they wait.
    pub(super) fn shared(self, dialect: Dialect, bytes_max: usize, slots: usize) -> SharedMemory {
        // An in-place cache may take the place of another one of the same size.
        let is_in_place = matches!(dialect, Dialect::InPlace | Dialect::InPlaceMask);
        let copies = if is_in_place { 2 } else { 3 };
        SharedMemory {
            bytes_max: bytes_max.saturating_sub(slots.saturating_mul(self.states)),
            row_bytes: self.encoder.saturating_mul(2),
            token_bytes: self.token.saturating_mul(copies),
        }
    }

    /// Returns the peak memory in bytes of a row with `n_beams` slots in a dialect.
    pub(super) fn held(self, dialect: Dialect, n_beams: usize) -> usize {
        let slots = self.slot.saturating_mul(n_beams);
        match dialect {
            // Beam search holds a copy while beams change slots.
            Dialect::InPlace | Dialect::InPlaceMask if n_beams > 1 => slots.saturating_mul(5) / 2,
            // While the cache doubles, the old one is still held.
            Dialect::InPlace | Dialect::InPlaceMask => slots.saturating_mul(3) / 2,
            // The cache is an input and an output of a step, and is copied once more while rows
            // join. A prompt waits as embeddings and is copied into a batch. The encoder states do
            // not grow, but are copied when rows leave.
            Dialect::Growing | Dialect::Shifted | Dialect::Cohort => slots
                .saturating_mul(3)
                .saturating_add(self.prompt.saturating_mul(2))
                .saturating_add(self.encoder.saturating_mul(n_beams).saturating_mul(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: RowBytes = RowBytes { slot: 1000, token: 10, encoder: 70, states: 20, prompt: 5 };

    #[test]
    fn a_row_is_sized_by_its_dialect() {
        for dialect in [Dialect::InPlace, Dialect::InPlaceMask] {
            assert_eq!(ROW.held(dialect, 1), 1500, "{dialect:?}");
            assert_eq!(ROW.held(dialect, 2), 5000, "{dialect:?}");
        }
        for dialect in [Dialect::Growing, Dialect::Shifted, Dialect::Cohort] {
            assert_eq!(ROW.held(dialect, 1), 3000 + 10 + 140, "{dialect:?}");
            assert_eq!(ROW.held(dialect, 2), 6000 + 10 + 280, "{dialect:?}");
        }
    }

    #[test]
    fn long_rows_leave_room_for_fewer() {
        let row = RowBytes { slot: 640, token: 10, encoder: 50, states: 10, prompt: 0 };
        let shared = row.shared(Dialect::Cohort, 10_000 + 160, 16);
        // 100 bytes for the encoder and 30 for each token.
        assert_eq!([10, 30, 330, 100_000].map(|n| shared.rows(n, 16)), [16, 10, 1, 1]);
    }

    #[test]
    fn rows_fit_in_memory() {
        let rows = |bytes_max| RowCount::Fitting { bytes_max }.rows(1500);
        assert_eq!(rows(Some(4600)), 3);
        assert_eq!(rows(Some(10)), 1);
        assert_eq!(rows(None), DEFAULT_SLOTS_MAX);
        assert_eq!(RowCount::Fixed(99).rows(1500), 99);
    }
}
