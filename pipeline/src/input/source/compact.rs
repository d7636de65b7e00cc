//! Thrift's compact protocol, the encoding of Parquet footers and page headers.
//!
//! <https://github.com/apache/thrift/blob/v0.22.0/doc/specs/thrift-compact-protocol.md>

use std::io::Read;

/// Type ids of the protocol.
const BYTE: u8 = 3;
const I16: u8 = 4;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
pub(super) const STRUCT: u8 = 12;

/// A reader of the compact protocol; its methods return `None` for invalid input.
pub(super) struct Compact<R> {
    from: R,
    /// The number of bytes read.
    pub(super) n_read: u64,
}

impl<R: Read> Compact<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, n_read: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte).ok()?;
        self.n_read += 1;
        Some(byte[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn integer(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Returns the id and type of the next field; `Some(None)` at the end of the struct.
    pub(super) fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        let delta = i64::from(byte >> 4);
        *last = if delta == 0 { self.integer()? } else { last.checked_add(delta)? };
        Some(Some((*last, byte & 15)))
    }

    /// Returns the length and item type of a list or set.
    pub(super) fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let n_items = match head >> 4 {
            15 => self.varint()?,
            n_items => u64::from(n_items),
        };
        Some((n_items, head & 15))
    }

    /// Skips the value of a field with at most `depth` levels of nesting.
    pub(super) fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // A boolean is encoded in the type itself.
            1 | 2 => {}
            BYTE => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => self.skip_bytes(8)?,
            BINARY => {
                let n_bytes = self.varint()?;
                self.skip_bytes(n_bytes)?;
            }
            LIST | SET => {
                let (n_items, kind) = self.list()?;
                (0..n_items).try_for_each(|_| self.skip_item(kind, depth))?;
            }
            MAP => {
                let n_items = self.varint()?;
                let kinds = if n_items == 0 { 0 } else { self.byte()? };
                (0..n_items).try_for_each(|_| {
                    self.skip_item(kinds >> 4, depth)?;
                    self.skip_item(kinds & 15, depth)
                })?;
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Skips an item of a list, set or map.
    pub(super) fn skip_item(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => self.byte().map(drop),
            kind => self.skip(kind, depth),
        }
    }

    fn skip_bytes(&mut self, n_bytes: u64) -> Option<()> {
        let n_skipped = std::io::copy(&mut self.from.by_ref().take(n_bytes), &mut std::io::sink());
        self.n_read += n_bytes;
        (n_skipped.ok()? == n_bytes).then_some(())
    }
}
