//! Numbers in media headers.

/// The byte order of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// Reads an unsigned integer of up to 8 bytes.
    pub(super) fn unsigned(self, bytes: &[u8]) -> u64 {
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, push),
            Self::Big => bytes.iter().fold(0, push),
        }
    }

    /// Reads an unsigned integer of 2 bytes.
    pub(super) fn short(self, bytes: &[u8]) -> u16 {
        let bytes = [bytes[0], bytes[1]];
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// Reads a signed integer of up to 8 bytes.
    pub(super) fn signed(self, bytes: &[u8]) -> i64 {
        let unused = 64 - 8 * bytes.len().clamp(1, 8);
        (self.unsigned(bytes) << unused).cast_signed() >> unused
    }
}

/// Returns the number in `n` bits from bit `at`, the highest bit first; bits after the last byte are 0.
pub(super) fn bits(bytes: &[u8], at: usize, n: usize) -> u64 {
    (at..at + n).fold(0, |number, bit| {
        let byte = bytes.get(bit / 8).copied().unwrap_or_default();
        number << 1 | u64::from(byte >> (7 - bit % 8) & 1)
    })
}
