//! Raw footers in Thrift's compact protocol, before the `parquet` crate parses them.
//!
//! Some writers used field ids that the format later assigned to other fields (Dremio 3 the one of
//! `bloom_filter_length`). Thrift-generated readers skip fields of another type; the crate's reader does
//! not. It also recurses for each nesting level of columns, however many a footer claims.

use crate::input::source::compact::{Compact, I32, I64, LIST, STRUCT};

/// The maximum nesting of skipped structs and lists.
const DEPTH_MAX: usize = 32;

/// The types of the fields 1 to 17 of `ColumnMetaData` (parquet.thrift, format 2.12).
const COLUMN_TYPES: [u8; 17] = [
    I32, LIST, LIST, I32, I64, I64, I64, LIST, I64, I64, I64, STRUCT, LIST, I64, I32, STRUCT,
    STRUCT,
];

/// The schema field of a file: groups and columns in depth-first order.
const SCHEMA: (i64, u8) = (2, LIST);
/// The field of a schema group with the number of its children.
const N_CHILDREN: (i64, u8) = (5, I32);
/// The path from a file to its columns: row groups, column chunks, column metadata.
const TO_COLUMNS: [(i64, u8); 3] = [(4, LIST), (1, LIST), (3, STRUCT)];

/// Returns the nesting depth of columns in a footer, as far as it can be parsed.
pub(super) fn depth(footer: &[u8]) -> usize {
    let mut children = Vec::new();
    // Keep what was parsed before an error.
    let _read = read_children(footer, &mut children);
    let mut left_in = vec![1_u64];
    let mut deepest = 0;
    for n_children in children {
        while left_in.pop_if(|left| *left == 0).is_some() {}
        let Some(left) = left_in.last_mut() else { break };
        *left -= 1;
        left_in.push(n_children);
        deepest = deepest.max(left_in.len());
    }
    deepest
}

/// Reads the number of children of each schema element.
fn read_children(footer: &[u8], children: &mut Vec<u64>) -> Option<()> {
    let mut input = Compact::new(footer);
    let mut last = 0;
    while let Some(field) = input.field(&mut last)? {
        if field != SCHEMA {
            input.skip(field.1, DEPTH_MAX)?;
            continue;
        }
        let (n_items, _) = input.list()?;
        for _ in 0..n_items {
            children.push(0);
            let mut last = 0;
            while let Some(field) = input.field(&mut last)? {
                if field == N_CHILDREN {
                    // Treat negative counts as zero.
                    *children.last_mut()? = u64::try_from(input.integer()?).unwrap_or_default();
                } else {
                    input.skip(field.1, DEPTH_MAX)?;
                }
            }
        }
        break;
    }
    Some(())
}

/// Returns a footer without column fields of the wrong type; `None` if it has no such field or cannot be
/// parsed.
pub(super) fn without_foreign_fields(footer: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Copy { footer, input: Compact::new(footer), out: Vec::new(), n_copied: 0 };
    copy.structure(&TO_COLUMNS)?;
    if copy.n_copied == 0 {
        return None;
    }
    copy.out.extend_from_slice(footer.get(copy.n_copied..)?);
    Some(copy.out)
}

/// A copy of a footer with parts left out.
struct Copy<'a> {
    footer: &'a [u8],
    input: Compact<&'a [u8]>,
    out: Vec<u8>,
    /// The number of input bytes that were copied or left out.
    n_copied: usize,
}

impl Copy<'_> {
    fn at(&self) -> Option<usize> {
        usize::try_from(self.input.n_read).ok()
    }

    /// Walks a struct from which `path` leads to columns.
    fn structure(&mut self, path: &[(i64, u8)]) -> Option<()> {
        let Some((step, rest)) = path.split_first() else { return self.column() };
        let mut last = 0;
        while let Some(field) = self.input.field(&mut last)? {
            if field != *step {
                self.input.skip(field.1, DEPTH_MAX)?;
            } else if field.1 == STRUCT {
                self.structure(rest)?;
            } else {
                let (n_items, kind) = self.input.list()?;
                for _ in 0..n_items {
                    match kind {
                        STRUCT => self.structure(rest)?,
                        kind => self.input.skip_item(kind, DEPTH_MAX)?,
                    }
                }
            }
        }
        Some(())
    }

    /// Removes fields from a column. A field header encodes the difference to the previous id, so the field
    /// after a removed one gets a new header.
    fn column(&mut self) -> Option<()> {
        let (mut last, mut is_behind) = (0, false);
        let mut start = self.at()?;
        while let Some((id, kind)) = self.input.field(&mut last)? {
            let known = usize::try_from(id - 1).ok().and_then(|at| COLUMN_TYPES.get(at));
            let is_foreign = known.is_some_and(|known| *known != kind);
            if is_foreign || is_behind {
                self.out.extend_from_slice(self.footer.get(self.n_copied..start)?);
                self.n_copied = self.at()?;
            }
            if is_behind && !is_foreign {
                self.put_head(id, kind)?;
            }
            self.input.skip(kind, DEPTH_MAX)?;
            if is_foreign {
                self.n_copied = self.at()?;
            }
            is_behind = is_foreign;
            start = self.at()?;
        }
        Some(())
    }

    /// Writes a field header with its absolute id.
    fn put_head(&mut self, id: i64, kind: u8) -> Option<()> {
        self.out.push(kind);
        let mut zigzag = u16::try_from(id).ok()?.checked_mul(2)?;
        while zigzag >= 0x80 {
            self.out.push(zigzag.to_le_bytes()[0] | 0x80);
            zigzag >>= 7;
        }
        self.out.push(zigzag.to_le_bytes()[0]);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{depth, without_foreign_fields};

    /// A footer with one column that has the fields `column`.
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
        // Fields of other structs are not checked.
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
