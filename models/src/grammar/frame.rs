//! The frames of a state: values that have begun, from the whole answer inwards.

use regex_automata::util::primitives::StateID;

use super::{
    compile::{Key, Kind, Node},
    number::{self, Digits},
};

/// The character that fills a string up to its minimum length when an answer is closed.
pub(super) const FILLER: u8 = b'-';

/// A value that has begun, or is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    /// One optional space, which is not part of the answer.
    Space,
    /// The value of a node is next.
    Begin { node: usize },
    /// Inside `null`.
    Null { n_bytes: usize },
    /// Inside a text that matches a pattern.
    Raw { node: usize, state: StateID },
    /// Inside a string that matches a pattern.
    Quoted { node: usize, state: StateID, n_bytes: u32 },
    /// Inside a string.
    Text { node: usize, n_chars: u32, part: Part },
    /// Inside a number.
    Number { node: usize, digits: Digits },
    /// Inside an array, after `n_items` items.
    List { node: usize, n_items: u32 },
    /// Inside an object, before the key `next` or a later one, of which `n_bytes` are written.
    Object { node: usize, next: usize, is_first: bool, n_bytes: usize },
}

/// The part of a character that is next in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Its first byte.
    First,
    /// The character after a backslash.
    Escaped,
    /// One of `n_left` further bytes; the next is from `low` to `high`.
    Tail { n_left: u8, low: u8, high: u8 },
}

/// What a byte does to the innermost frame.
pub(super) enum Move {
    /// The frame changes.
    To(Frame),
    /// The value ends with the byte.
    End,
    /// The value ended before the byte.
    EndBefore,
    /// The frame changes, and the value of a node is next.
    Inside(Frame, usize),
    /// The frame changes, and the byte begins the value of a node.
    InsideWith(Frame, usize),
    /// The byte is not valid.
    Invalid,
}

impl Frame {
    /// Returns what a byte does to the frame.
    pub(super) fn after(self, nodes: &[Node], byte: u8) -> Move {
        match self {
            Self::Space if byte == b' ' => Move::End,
            Self::Space => Move::EndBefore,
            Self::Begin { node } => Self::begun(nodes, node, byte).map_or(Move::Invalid, Move::To),
            Self::Null { n_bytes } => match b"null".get(n_bytes) {
                Some(expected) if *expected != byte => Move::Invalid,
                Some(_) if n_bytes == 3 => Move::End,
                Some(_) => Move::To(Self::Null { n_bytes: n_bytes + 1 }),
                None => Move::Invalid,
            },
            Self::Raw { node, state } => {
                let Kind::Raw(pattern) = &nodes[node].kind else { return Move::Invalid };
                match pattern.step(state, byte) {
                    Some(state) => Move::To(Self::Raw { node, state }),
                    None if pattern.is_match(state) => Move::EndBefore,
                    None => Move::Invalid,
                }
            }
            Self::Quoted { node, state, n_bytes } => {
                let Kind::Quoted { pattern, bytes_max } = &nodes[node].kind else {
                    return Move::Invalid;
                };
                if byte == b'"' && pattern.is_match(state) {
                    return Move::End;
                }
                let next = pattern.step(state, byte).filter(|next| {
                    (n_bytes + 1).saturating_add(pattern.distance(*next)) <= *bytes_max
                });
                next.map_or(Move::Invalid, |state| {
                    Move::To(Self::Quoted { node, state, n_bytes: n_bytes + 1 })
                })
            }
            Self::Text { node, n_chars, part } => in_text(nodes, (node, n_chars, part), byte),
            Self::Number { node, digits } => {
                let Kind::Number(shape) = &nodes[node].kind else { return Move::Invalid };
                match number::step(shape, digits, byte) {
                    Some(digits) => Move::To(Self::Number { node, digits }),
                    None if number::is_whole(shape, digits) => Move::EndBefore,
                    None => Move::Invalid,
                }
            }
            Self::List { node, n_items } => {
                let Kind::List { item, items_min, items_max } = nodes[node].kind else {
                    return Move::Invalid;
                };
                let more = Self::List { node, n_items: n_items + 1 };
                match byte {
                    b']' if n_items >= items_min => Move::End,
                    _ if n_items >= items_max => Move::Invalid,
                    b',' if n_items > 0 => Move::Inside(more, item),
                    _ if n_items == 0 => Move::InsideWith(more, item),
                    _ => Move::Invalid,
                }
            }
            Self::Object { node, next, is_first, n_bytes } => {
                let Kind::Object(keys) = &nodes[node].kind else { return Move::Invalid };
                let left = &keys[next..];
                if byte == b'}' && n_bytes == 0 && !left.iter().any(|key| key.is_required) {
                    return Move::End;
                }
                let n_open =
                    left.iter().position(|key| key.is_required).map_or(left.len(), |n| n + 1);
                let written = |key: &Key, at: usize| byte_of(key, is_first, at);
                let found = left[..n_open].iter().position(|key| {
                    (0..n_bytes).all(|at| written(key, at) == written(&left[0], at))
                        && written(key, n_bytes) == Some(byte)
                });
                let Some(found) = found else { return Move::Invalid };
                let key = &left[found];
                let next = next + found;
                if written(key, n_bytes + 1).is_some() {
                    return Move::To(Self::Object { node, next, is_first, n_bytes: n_bytes + 1 });
                }
                let after = Self::Object { node, next: next + 1, is_first: false, n_bytes: 0 };
                Move::Inside(after, key.node)
            }
        }
    }

    /// Returns the frame with the fewest characters from which texts of up to `n_bytes` continue as from this one.
    pub(super) fn equivalent(self, nodes: &[Node], n_bytes: usize) -> Self {
        if let Self::Text { node, n_chars, part } = self
            && let Kind::Text { chars_min, chars_max } = nodes[node].kind
            && n_chars > chars_min
            && n_chars as usize + n_bytes < chars_max as usize
        {
            return Self::Text { node, n_chars: chars_min, part };
        }
        self
    }

    /// Returns the frame of a value after its first byte.
    fn begun(nodes: &[Node], node: usize, byte: u8) -> Option<Self> {
        if nodes[node].is_nullable && byte == b'n' {
            return Some(Self::Null { n_bytes: 1 });
        }
        match &nodes[node].kind {
            Kind::Raw(pattern) => {
                Some(Self::Raw { node, state: pattern.step(pattern.start(), byte)? })
            }
            Kind::Quoted { pattern, .. } if byte == b'"' => {
                Some(Self::Quoted { node, state: pattern.start(), n_bytes: 0 })
            }
            Kind::Text { .. } if byte == b'"' => {
                Some(Self::Text { node, n_chars: 0, part: Part::First })
            }
            Kind::Number(shape) => {
                let digits = number::step(shape, Digits::default(), byte)?;
                Some(Self::Number { node, digits })
            }
            Kind::List { .. } if byte == b'[' => Some(Self::List { node, n_items: 0 }),
            Kind::Object(_) if byte == b'{' => {
                Some(Self::Object { node, next: 0, is_first: true, n_bytes: 0 })
            }
            _ => None,
        }
    }

    /// Returns whether the value may end here without another byte.
    pub(super) fn may_end(self, nodes: &[Node]) -> bool {
        match self {
            Self::Space => true,
            Self::Begin { node } => match &nodes[node].kind {
                Kind::Raw(pattern) => pattern.is_match(pattern.start()),
                _ => false,
            },
            Self::Raw { node, state } => match &nodes[node].kind {
                Kind::Raw(pattern) => pattern.is_match(state),
                _ => false,
            },
            Self::Number { node, digits } => match &nodes[node].kind {
                Kind::Number(shape) => number::is_whole(shape, digits),
                _ => false,
            },
            _ => false,
        }
    }

    /// Appends the shortest text that ends the value.
    pub(super) fn finish(self, nodes: &[Node], text: &mut Vec<u8>) {
        match self {
            Self::Space => {}
            Self::Begin { node } => text.extend_from_slice(&nodes[node].shortest),
            Self::Null { n_bytes } => text.extend_from_slice(&b"null"[n_bytes..]),
            Self::Raw { node, state } => {
                if let Kind::Raw(pattern) = &nodes[node].kind {
                    text.extend(pattern.rest(state));
                }
            }
            Self::Quoted { node, state, .. } => {
                if let Kind::Quoted { pattern, .. } = &nodes[node].kind {
                    text.extend(pattern.rest(state));
                    text.push(b'"');
                }
            }
            Self::Text { node, n_chars, part } => {
                match part {
                    Part::First => {}
                    Part::Escaped => text.push(b'n'),
                    Part::Tail { n_left, low, .. } => {
                        text.push(low);
                        text.extend(std::iter::repeat_n(0x80, usize::from(n_left - 1)));
                    }
                }
                if let Kind::Text { chars_min, .. } = nodes[node].kind {
                    let n_missing = chars_min.saturating_sub(n_chars) as usize;
                    text.extend(std::iter::repeat_n(FILLER, n_missing));
                }
                text.push(b'"');
            }
            Self::Number { node, digits } => {
                if let Kind::Number(shape) = &nodes[node].kind {
                    text.extend(number::rest(shape, digits).unwrap_or_default().into_bytes());
                }
            }
            Self::List { node, n_items } => {
                if let Kind::List { item, items_min, .. } = nodes[node].kind {
                    for number in n_items..items_min {
                        if number > 0 {
                            text.push(b',');
                        }
                        text.extend_from_slice(&nodes[item].shortest);
                    }
                }
                text.push(b']');
            }
            Self::Object { node, mut next, mut is_first, n_bytes } => {
                let Kind::Object(keys) = &nodes[node].kind else { return };
                if n_bytes > 0 {
                    let key = &keys[next];
                    text.extend((n_bytes..).map_while(|at| byte_of(key, is_first, at)));
                    text.extend_from_slice(&nodes[key.node].shortest);
                    (next, is_first) = (next + 1, false);
                }
                for key in keys[next..].iter().filter(|key| key.is_required) {
                    text.extend((0..).map_while(|at| byte_of(key, is_first, at)));
                    text.extend_from_slice(&nodes[key.node].shortest);
                    is_first = false;
                }
                text.push(b'}');
            }
        }
    }
}

/// Returns a byte of a key with the comma before it.
fn byte_of(key: &Key, is_first: bool, at: usize) -> Option<u8> {
    match (is_first, at) {
        (true, at) => key.text.get(at).copied(),
        (false, 0) => Some(b','),
        (false, at) => key.text.get(at - 1).copied(),
    }
}

/// Returns what a byte does in a string.
fn in_text(nodes: &[Node], (node, n_chars, part): (usize, u32, Part), byte: u8) -> Move {
    let Kind::Text { chars_min, chars_max } = nodes[node].kind else { return Move::Invalid };
    let to = |n_chars: u32, part: Part| Move::To(Frame::Text { node, n_chars, part });
    match part {
        Part::First => match byte {
            b'"' if n_chars >= chars_min => Move::End,
            b'"' | 0..=0x1F => Move::Invalid,
            _ if n_chars >= chars_max => Move::Invalid,
            b'\\' => to(n_chars + 1, Part::Escaped),
            0x20..=0x7F => to(n_chars + 1, Part::First),
            _ => match tail_after(byte) {
                Some(tail) => to(n_chars + 1, tail),
                None => Move::Invalid,
            },
        },
        Part::Escaped => match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => to(n_chars, Part::First),
            _ => Move::Invalid,
        },
        Part::Tail { n_left, low, high } => {
            if !(low..=high).contains(&byte) {
                Move::Invalid
            } else if n_left == 1 {
                to(n_chars, Part::First)
            } else {
                to(n_chars, Part::Tail { n_left: n_left - 1, low: 0x80, high: 0xBF })
            }
        }
    }
}

/// Returns the bytes that follow the first byte of a character in UTF-8 (The Unicode Standard, table 3-7).
fn tail_after(first: u8) -> Option<Part> {
    let (n_left, low, high) = match first {
        0xC2..=0xDF => (1, 0x80, 0xBF),
        0xE0 => (2, 0xA0, 0xBF),
        0xE1..=0xEC | 0xEE..=0xEF => (2, 0x80, 0xBF),
        0xED => (2, 0x80, 0x9F),
        0xF0 => (3, 0x90, 0xBF),
        0xF1..=0xF3 => (3, 0x80, 0xBF),
        0xF4 => (3, 0x80, 0x8F),
        _ => return None,
    };
    Some(Part::Tail { n_left, low, high })
}
