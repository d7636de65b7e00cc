//! Image file directories: the fields of a TIFF file and of EXIF.

use std::collections::BTreeMap;

use crate::input::media::number::ByteOrder;

/// Field types of TIFF 6.0 and BigTIFF, with the size of a value.
const BYTE: u16 = 1;
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const RATIONAL: u16 = 5;
const SIGNED_BYTE: u16 = 6;
const UNDEFINED: u16 = 7;
const SIGNED_SHORT: u16 = 8;
const SIGNED_LONG: u16 = 9;
const SIGNED_RATIONAL: u16 = 10;
const FLOAT: u16 = 11;
const DOUBLE: u16 = 12;
const IFD: u16 = 13;
const LONG8: u16 = 16;

/// Returns the size of a value of a field type.
fn value_bytes(kind: u16) -> Option<usize> {
    match kind {
        BYTE | ASCII | SIGNED_BYTE | UNDEFINED => Some(1),
        SHORT | SIGNED_SHORT => Some(2),
        LONG | SIGNED_LONG | FLOAT | IFD => Some(4),
        RATIONAL | SIGNED_RATIONAL | DOUBLE | LONG8 => Some(8),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Field<'a> {
    kind: u16,
    data: &'a [u8],
}

/// The first image file directory of a TIFF file or an EXIF block.
#[derive(Clone, Debug)]
pub(in crate::input::media) struct Directory<'a> {
    order: ByteOrder,
    fields: BTreeMap<u16, Field<'a>>,
}

impl<'a> Directory<'a> {
    /// Parses the directory that the header of `bytes` points to; `None` if `bytes` do not begin with a TIFF
    /// header.
    ///
    /// Malformed directories are treated like in Pillow (`ImageFileDirectory_v2.load`): the first of two
    /// fields with the same tag is used; fields of unknown types, and fields larger than the file, are
    /// skipped; parsing stops at a field whose values are beyond the end of the file.
    pub(in crate::input::media) fn first(bytes: &'a [u8]) -> Option<Self> {
        let order = match bytes.get(..2)? {
            b"II" => ByteOrder::Little,
            b"MM" => ByteOrder::Big,
            _ => return None,
        };
        // Pillow also accepts the version in the other byte order.
        let is_big = match bytes.get(2..4)? {
            [42, 0] | [0, 42] => false,
            [43, 0] | [0, 43] => true,
            _ => return None,
        };
        let offset = order.unsigned(if is_big { bytes.get(8..16)? } else { bytes.get(4..8)? });
        let mut directory = Self { order, fields: BTreeMap::new() };
        if let Ok(offset) = usize::try_from(offset) {
            let mut rest = bytes.get(offset..).unwrap_or_default();
            directory.read(bytes, &mut rest, is_big);
        }
        Some(directory)
    }

    /// Parses fields until one cannot be read.
    fn read(&mut self, bytes: &'a [u8], rest: &mut &'a [u8], is_big: bool) -> Option<()> {
        let (count_bytes, entry_bytes, inline_bytes) = if is_big { (8, 20, 8) } else { (2, 12, 4) };
        let order = self.order;
        let mut total_bytes = 0_usize;
        for _ in 0..order.unsigned(rest.split_off(..count_bytes)?) {
            let entry = rest.split_off(..entry_bytes)?;
            let tag = order.short(&entry[..2]);
            let kind = order.short(&entry[2..4]);
            let (count, inline) = entry[4..].split_at(inline_bytes);
            if self.fields.contains_key(&tag) {
                continue;
            }
            let Some(value_bytes) = value_bytes(kind) else { continue };
            let n_values = usize::try_from(order.unsigned(count)).unwrap_or(usize::MAX);
            let n_bytes = n_values.saturating_mul(value_bytes);
            let data = if n_bytes <= inline_bytes {
                &inline[..n_bytes]
            } else {
                total_bytes = total_bytes.saturating_add(n_bytes);
                if total_bytes > bytes.len() {
                    continue;
                }
                let start = usize::try_from(order.unsigned(inline)).ok()?;
                bytes.get(start..)?.get(..n_bytes)?
            };
            if !data.is_empty() {
                self.fields.insert(tag, Field { kind, data });
            }
        }
        Some(())
    }

    pub(super) fn order(&self) -> ByteOrder {
        self.order
    }

    pub(in crate::input::media) fn contains(&self, tag: u16) -> bool {
        self.fields.contains_key(&tag)
    }

    /// Returns the bytes of a field.
    pub(in crate::input::media) fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        self.fields.get(&tag).map(|field| field.data)
    }

    /// Returns the first value of a field of any numeric type; `None` for text and bytes.
    pub(in crate::input::media) fn number(&self, tag: u16) -> Option<f64> {
        let Field { kind, data, .. } = *self.fields.get(&tag)?;
        let value = data.get(..value_bytes(kind)?)?;
        let order = self.order;
        let (first, second) = value.split_at(value.len() / 2);
        Some(match kind {
            SHORT | LONG | IFD | LONG8 => order.unsigned(value) as f64,
            SIGNED_BYTE | SIGNED_SHORT | SIGNED_LONG => order.signed(value) as f64,
            RATIONAL => order.unsigned(first) as f64 / order.unsigned(second) as f64,
            SIGNED_RATIONAL => order.signed(first) as f64 / order.signed(second) as f64,
            FLOAT => f64::from(f32::from_bits(u32::try_from(order.unsigned(value)).ok()?)),
            DOUBLE => f64::from_bits(order.unsigned(value)),
            _ => return None,
        })
    }

    /// Returns the values of an integer field.
    pub(super) fn integers(&self, tag: u16) -> Option<Vec<u64>> {
        let Field { kind, data, .. } = *self.fields.get(&tag)?;
        let size = value_bytes(kind)?;
        matches!(kind, BYTE | SHORT | LONG | IFD | LONG8)
            .then(|| data.chunks_exact(size).map(|value| self.order.unsigned(value)).collect())
    }

    /// Returns the first value of an integer field.
    pub(super) fn integer(&self, tag: u16) -> Option<u64> {
        self.integers(tag)?.first().copied()
    }
}
