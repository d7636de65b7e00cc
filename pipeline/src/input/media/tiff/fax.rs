//! Fax decoding (ITU-T T.4 and T.6) with the code tables of the `fax` crate.

use fax::{
    BitReader,
    maps::{Mode, black, mode, white},
};
use image::ImageResult;

use super::damaged;

/// The coding of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Runs; each row begins at a byte boundary.
    Huffman,
    /// Runs, with an end-of-line code before each row; with references, a bit after it says whether the row
    /// refers to the previous one.
    Group3 { has_references: bool },
    /// Each row refers to the previous one.
    Group4,
}

/// Decodes `height` rows of `width` pixels: one bit each, 1 for black, rows padded to whole bytes. Rows after
/// the end-of-block code are white.
pub(super) fn decode(
    encoded: &[u8],
    width: usize,
    height: usize,
    coding: Coding,
) -> ImageResult<Vec<u8>> {
    let row_bytes = width.div_ceil(8);
    let mut pixels = vec![0; row_bytes * height];
    let mut bits = Bits { bytes: encoded, position: 0 };
    let mut before = Vec::new();
    for (row_idx, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
        let changes = match coding {
            Coding::Huffman => {
                bits.position = bits.position.next_multiple_of(8);
                bits.runs(width)
            }
            Coding::Group3 { has_references } => {
                let n_ends = bits.skip_ends_of_line(has_references);
                if n_ends > 1 && row_idx > 0 {
                    break;
                }
                if has_references && !bits.take_bit() {
                    bits.changes(&before, width)
                } else {
                    bits.runs(width)
                }
            }
            Coding::Group4 if bits.peek(12) == Some(1) => break,
            Coding::Group4 => bits.changes(&before, width),
        };
        let Some(changes) = changes.filter(|_| bits.position <= encoded.len() * 8) else {
            return Err(damaged(format!("invalid fax code in row {row_idx}")));
        };
        for run in changes.chunks(2) {
            for column in run[0]..run.get(1).copied().unwrap_or(width) {
                row[column / 8] |= 0x80 >> (column % 8);
            }
        }
        before = changes;
    }
    Ok(pixels)
}

/// Encoded bits, followed by zeros.
struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl BitReader for Bits<'_> {
    type Error = ();

    fn peek(&self, bits: u8) -> Option<u16> {
        let byte = |idx: usize| u32::from(self.bytes.get(idx).copied().unwrap_or_default());
        let first = self.position / 8;
        let window = byte(first) << 16 | byte(first + 1) << 8 | byte(first + 2);
        let value = window >> (24 - self.position % 8 - usize::from(bits));
        u16::try_from(value & ((1 << bits) - 1)).ok()
    }

    fn consume(&mut self, bits: u8) -> Result<(), ()> {
        self.position += usize::from(bits);
        // Two rows of zeros after the last bit are not codes: without this check, reading them would not end.
        if self.position > (self.bytes.len() + 4) * 8 { Err(()) } else { Ok(()) }
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        // Less than 8.
        (self.position.next_multiple_of(8) - self.position).to_le_bytes()[0]
    }
}

impl Bits<'_> {
    fn take_bit(&mut self) -> bool {
        let bit = self.peek(1) == Some(1);
        self.position += 1;
        bit
    }

    /// Skips end-of-line codes (at least 11 zeros, then a one) and returns their number.
    fn skip_ends_of_line(&mut self, has_references: bool) -> usize {
        let mut n_ends = 0;
        // The bit after an end of line belongs to the row, so skip it only between two of them.
        loop {
            let start = self.position;
            if n_ends > 0 && has_references {
                self.position += 1;
            }
            if self.peek(11) != Some(0) {
                self.position = start;
                return n_ends;
            }
            while self.peek(1) == Some(0) {
                if self.consume(1).is_err() {
                    return n_ends;
                }
            }
            self.position += 1;
            n_ends += 1;
        }
    }

    /// Reads a run length.
    fn run(&mut self, is_black: bool) -> Option<usize> {
        let mut length = 0;
        loop {
            let part = if is_black { black::decode(self) } else { white::decode(self) }?;
            length += usize::from(part);
            if part < 64 {
                return Some(length);
            }
        }
    }

    /// Reads a row of runs and returns the columns where the colour changes, starting with white.
    fn runs(&mut self, width: usize) -> Option<Vec<usize>> {
        let (mut changes, mut column, mut is_black) = (Vec::new(), 0, false);
        while column < width {
            column += self.run(is_black)?;
            changes.push(column.min(width));
            is_black = !is_black;
        }
        Some(changes)
    }

    /// Reads a row relative to the changes of the row `before`.
    fn changes(&mut self, before: &[usize], width: usize) -> Option<Vec<usize>> {
        let (mut changes, mut column, mut is_black) = (Vec::new(), 0, false);
        let mut reference = 0_usize;
        let mut is_start = true;
        while column < width {
            // The first change of the previous row to the other colour, to the right of this column.
            reference = reference.saturating_sub(2);
            while before.get(reference).is_some_and(|change| {
                (reference % 2 == 1) != is_black
                    || (*change <= column && !(is_start && *change == 0))
            }) {
                reference += 1;
            }
            let [first, second] =
                [reference, reference + 1].map(|idx| before.get(idx).copied().unwrap_or(width));
            match mode::decode(self)? {
                Mode::Pass => column = second,
                Mode::Horizontal => {
                    for is_black in [is_black, !is_black] {
                        column = (column + self.run(is_black)?).min(width);
                        changes.push(column);
                    }
                }
                Mode::Vertical(offset) => {
                    let change = first.checked_add_signed(isize::from(offset))?;
                    if change < column || change > width {
                        return None;
                    }
                    column = change;
                    changes.push(column);
                    is_black = !is_black;
                }
                Mode::Extension | Mode::EOF => return None,
            }
            is_start = false;
        }
        Some(changes)
    }
}
