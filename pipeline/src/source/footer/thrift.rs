//! Footers as they lie in a file, in Thrift's compact protocol, before the crate `parquet` reads them.
//!
//! Some writers used numbers of fields that the format gave to other fields later (Dremio 3 the one of
//! `bloom_filter_length`). Readers made by Thrift pass over fields of another type; the one of the crate does
//! not. And it calls itself for each level of columns within each other, however many a footer claims.

/// How deep structs and lists may lie in each other.
const DEPTH_MAX: usize = 32;

const BOOL: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const INTEGERS: [u8; 3] = [4, I32, I64];
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// The types of the fields 1 to 17 of `ColumnMetaData` (parquet.thrift, format 2.12).
const COLUMN_TYPES: [u8; 17] = [
    I32, LIST, LIST, I32, I64, I64, I64, LIST, I64, I64, I64, STRUCT, LIST, I64, I32, STRUCT,
    STRUCT,
];

/// The field of a file that holds its schema: groups and columns, each before those within it.
const SCHEMA: i16 = 2;
/// The field of a group of the schema that says how many groups and columns are in it.
const N_CHILDREN: i16 = 5;

/// What a struct on the way to the columns is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    SchemaElement,
    RowGroup,
    Chunk,
    Column,
    Other,
}

impl Kind {
    /// Returns what the structs of a field are.
    fn of_field(self, id: i16) -> Self {
        match (self, id) {
            (Self::File, SCHEMA) => Self::SchemaElement,
            (Self::File, 4) => Self::RowGroup,
            (Self::RowGroup, 1) => Self::Chunk,
            (Self::Chunk, 3) => Self::Column,
            _ => Self::Other,
        }
    }

    fn has(self, id: i16, found: u8) -> bool {
        let known = usize::try_from(id - 1).ok().and_then(|at| COLUMN_TYPES.get(at));
        self != Self::Column || known.is_none_or(|known| *known == found)
    }
}

/// Returns a footer, which is in Thrift's compact protocol, without the fields of its columns that have
/// another type than the format gives them; none where it has no such field, or cannot be read.
///
/// The protocol: <https://github.com/apache/thrift/blob/v0.22.0/doc/specs/thrift-compact-protocol.md>.
pub(super) fn without_foreign_fields(footer: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Copy { left: footer, ..Copy::default() };
    copy.structure(Kind::File, 0)?;
    (copy.n_dropped > 0).then_some(copy.out)
}

/// Returns how many levels of columns within each other a footer has, as far as it can be read.
pub(super) fn depth(footer: &[u8]) -> usize {
    let mut copy = Copy { left: footer, only_schema: true, ..Copy::default() };
    // The walk ends behind the schema.
    let _ended = copy.structure(Kind::File, 0);
    let mut left_in = vec![1_u64];
    let mut deepest = 0;
    for n_children in copy.children {
        while left_in.pop_if(|left| *left == 0).is_some() {}
        let Some(left) = left_in.last_mut() else { break };
        *left -= 1;
        left_in.push(n_children);
        deepest = deepest.max(left_in.len());
    }
    deepest
}

#[derive(Default)]
struct Copy<'a> {
    left: &'a [u8],
    out: Vec<u8>,
    n_dropped: usize,
    /// Whether only the schema is wanted.
    only_schema: bool,
    /// How many groups and columns are in each of the schema.
    children: Vec<u64>,
}

impl Copy<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.left.split_first()?;
        self.left = rest;
        Some(byte)
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

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
    }

    fn copy_varint(&mut self) -> Option<u64> {
        let value = self.varint()?;
        self.put_varint(value);
        Some(value)
    }

    fn copy_bytes(&mut self, n_bytes: u64) -> Option<()> {
        let (bytes, rest) = self.left.split_at_checked(usize::try_from(n_bytes).ok()?)?;
        self.out.extend_from_slice(bytes);
        self.left = rest;
        Some(())
    }

    fn structure(&mut self, kind: Kind, depth: usize) -> Option<()> {
        let (mut id, mut last_put) = (0_i16, 0_i16);
        if kind == Kind::SchemaElement {
            self.children.push(0);
        }
        loop {
            let head = self.byte()?;
            let (step, found) = (i16::from(head >> 4), head & 0x0F);
            if found == 0 {
                self.out.push(0);
                return Some(());
            }
            id = if step == 0 { zigzag(self.varint()?)? } else { id.checked_add(step)? };
            let before = self.out.len();
            match id.checked_sub(last_put) {
                Some(step @ 1..=15) => self.out.push(u8::try_from(step).ok()? << 4 | found),
                _ => {
                    self.out.push(found);
                    self.put_varint(u64::from(((id << 1) ^ (id >> 15)).cast_unsigned()));
                }
            }
            if !BOOL.contains(&found) {
                let value = self.value(found, kind.of_field(id), depth + 1)?;
                if (kind, id) == (Kind::SchemaElement, N_CHILDREN)
                    && let Some(n_children) = self.children.last_mut()
                {
                    // Zigzag; less than none is none.
                    *n_children = if value & 1 == 0 { value >> 1 } else { 0 };
                }
                if self.only_schema && (kind, id) == (Kind::File, SCHEMA) {
                    return None;
                }
            }
            if kind.has(id, found) {
                last_put = id;
            } else {
                self.out.truncate(before);
                self.n_dropped += 1;
            }
        }
    }

    /// Copies a value; returns a whole number as it is encoded.
    fn value(&mut self, found: u8, kind: Kind, depth: usize) -> Option<u64> {
        if depth > DEPTH_MAX {
            return None;
        }
        if INTEGERS.contains(&found) {
            return self.copy_varint();
        }
        self.other_value(found, kind, depth).map(|()| 0)
    }

    fn other_value(&mut self, found: u8, kind: Kind, depth: usize) -> Option<()> {
        match found {
            1 | 2 | BYTE => self.copy_bytes(1),
            DOUBLE => self.copy_bytes(8),
            BINARY => {
                let n_bytes = self.copy_varint()?;
                self.copy_bytes(n_bytes)
            }
            LIST | SET => {
                let head = self.byte()?;
                self.out.push(head);
                let n_items = match head >> 4 {
                    15 => self.copy_varint()?,
                    n_items => u64::from(n_items),
                };
                (0..n_items).try_for_each(|_| self.value(head & 0x0F, kind, depth + 1).map(drop))
            }
            MAP => {
                let n_items = self.copy_varint()?;
                if n_items == 0 {
                    return Some(());
                }
                let types = self.byte()?;
                self.out.push(types);
                (0..n_items).try_for_each(|_| {
                    self.value(types >> 4, Kind::Other, depth + 1)?;
                    self.value(types & 0x0F, Kind::Other, depth + 1).map(drop)
                })
            }
            STRUCT => self.structure(kind, depth),
            _ => None,
        }
    }
}

fn zigzag(value: u64) -> Option<i16> {
    let value = u16::try_from(value).ok()?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{depth, without_foreign_fields};

    /// A footer with one column whose fields are `column`.
    fn footer(column: &[u8]) -> Vec<u8> {
        // Field 4: a list of a struct, whose field 1 is a list of a struct, whose field 3 is a struct.
        let head = [0x49, 0x1C, 0x19, 0x1C, 0x3C];
        [&head[..], column, &[0, 0, 0, 0]].concat()
    }

    #[test]
    fn fields_of_other_types_are_left_out() {
        // 14 (i64), 15 (i32), 40 (i64, beyond what is known).
        let sound = [0xE6, 2, 0x15, 4, 0x06, 80, 6];
        assert_eq!(without_foreign_fields(&footer(&sound)), None);
        // 15 is a list of a struct with a bool and a text.
        let foreign = [0xE6, 2, 0x19, 0x1C, 0x11, 0x18, 1, b'x', 0, 0x06, 80, 6];
        let left_out = [0xE6, 2, 0x06, 80, 6];
        assert_eq!(without_foreign_fields(&footer(&foreign)), Some(footer(&left_out)));
        // Fields of other structs are not looked at.
        assert_eq!(without_foreign_fields(&foreign), None);
        for end in 0..footer(&foreign).len() {
            assert_eq!(without_foreign_fields(&footer(&foreign)[..end]), None);
        }
    }

    #[test]
    fn columns_within_each_other_are_counted() {
        // Field 2: a list of structs with the field 5.
        let file = |children: &[u8]| {
            let n_items = u8::try_from(children.len()).unwrap();
            let elements = children.iter().flat_map(|n| [0x55, n << 1, 0]);
            [0x29, 0xFC, n_items].into_iter().chain(elements).chain([0]).collect::<Vec<u8>>()
        };
        for (children, levels) in [
            (&[][..], 0),
            (&[0], 2),
            (&[2, 0, 0], 3),
            (&[2, 1, 0, 0], 4),
            (&[1, 1, 1, 1, 0], 6),
            (&[1, 0, 1, 1, 1], 3),
        ] {
            assert_eq!(depth(&file(children)), levels, "{children:?}");
        }
        assert_eq!(depth(&file(&[1; 120])), 121);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _copied = without_foreign_fields(&bytes);
            let _levels = depth(&bytes);
            let _of_structs = without_foreign_fields(&vec![0x1C; 100_000]);
        }
    }
}
