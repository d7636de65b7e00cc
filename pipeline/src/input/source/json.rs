//! A JSON scanner: finds the extents of values and checks that a text is well formed.
//!
//! Values are slices of the text, so numbers keep their digits and objects their spelling.

use std::borrow::Cow;

/// The maximum nesting of objects and lists.
pub(super) const DEPTH_MAX: u32 = 128;

/// The reason a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("invalid JSON at byte {at}: {problem}")]
    At { at: usize, problem: &'static str },
    #[error("JSON is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
}

/// Calls `member` with the name and the raw text of every member of the object `text`.
///
/// # Errors
///
/// [`Malformed`] if it is not an object.
pub(super) fn object<'a>(
    text: &'a str,
    mut member: impl FnMut(Cow<'a, str>, &'a str),
) -> Result<(), Malformed> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_space();
    cursor.expect(b'{', "expected an object")?;
    if !cursor.ends(b'}') {
        loop {
            let name = cursor.name()?;
            cursor.skip_space();
            let start = cursor.at;
            cursor.skip_value(1)?;
            member(name, &text[start..cursor.at]);
            if !cursor.continues(b'}')? {
                break;
            }
        }
    }
    cursor.finish()
}

/// Calls `item` with the raw text of every item of the list `text`.
///
/// # Errors
///
/// [`Malformed`] if it is not a list.
pub(super) fn list<'a>(text: &'a str, mut item: impl FnMut(&'a str)) -> Result<(), Malformed> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_space();
    cursor.expect(b'[', "expected a list")?;
    if !cursor.ends(b']') {
        loop {
            cursor.skip_space();
            let start = cursor.at;
            cursor.skip_value(1)?;
            item(&text[start..cursor.at]);
            if !cursor.continues(b']')? {
                break;
            }
        }
    }
    cursor.finish()
}

/// Returns a value as text: a string without quotes and escapes, any other value as written.
///
/// # Errors
///
/// An invalid escape.
pub(super) fn text_of(value: &str) -> Result<Cow<'_, str>, String> {
    match value.strip_prefix('"') {
        Some(text) if value.contains('\\') => serde_json::from_str(value)
            .map(Cow::Owned)
            .map_err(|_| format!("unpaired surrogate: `{}`", short(text))),
        Some(text) => Ok(Cow::Borrowed(text.strip_suffix('"').unwrap_or(text))),
        None => Ok(Cow::Borrowed(value)),
    }
}

/// Truncates a cell for a message.
pub(super) fn short(cell: &str) -> String {
    const CHARS: usize = 40;
    let mut short: String = cell.chars().take(CHARS).collect();
    if cell.chars().nth(CHARS).is_some() {
        short.push('\u{2026}');
    }
    short
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error<T>(&self, problem: &'static str) -> Result<T, Malformed> {
        let problem = if self.at >= self.text.len() { "unexpected end of text" } else { problem };
        Err(Malformed::At { at: self.at, problem })
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return self.error(problem);
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes `byte` if it comes next.
    fn ends(&mut self, byte: u8) -> bool {
        self.skip_space();
        let ends = self.peek() == Some(byte);
        self.at += usize::from(ends);
        ends
    }

    /// Returns whether another value follows; else the list or object has ended with `end`.
    fn continues(&mut self, end: u8) -> Result<bool, Malformed> {
        if self.ends(end) {
            return Ok(false);
        }
        self.expect(b',', "expected a comma, or the end of the list or object")?;
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.error("unexpected text after the value")
        }
    }

    /// Parses the name of a member and the colon.
    fn name(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.skip_space();
        let start = self.at;
        self.skip_string()?;
        let name = &self.text[start..self.at];
        self.skip_space();
        self.expect(b':', "expected a colon")?;
        let wrong = Malformed::At { at: start, problem: "unpaired surrogate" };
        text_of(name).map_err(|_| wrong)
    }

    /// Skips a value within `depth` objects and lists. It does not recurse, so that no value exhausts the
    /// stack.
    fn skip_value(&mut self, depth: u32) -> Result<(), Malformed> {
        // A bit per open object or list: set for objects.
        let (mut open, mut n_open) = (0_u128, 0_u32);
        loop {
            self.skip_space();
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => {
                    if depth + n_open >= DEPTH_MAX {
                        return Err(Malformed::TooDeep);
                    }
                    self.at += 1;
                    let is_object = byte == b'{';
                    if !self.ends(if is_object { b'}' } else { b']' }) {
                        open = open << 1 | u128::from(is_object);
                        n_open += 1;
                        if is_object {
                            self.skip_name()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => self.skip_string()?,
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.skip_word("true")?,
                Some(b'f') => self.skip_word("false")?,
                Some(b'n') => self.skip_word("null")?,
                _ => return self.error("expected a value"),
            }
            // After a value.
            loop {
                if n_open == 0 {
                    return Ok(());
                }
                let is_object = open & 1 == 1;
                if self.continues(if is_object { b'}' } else { b']' })? {
                    if is_object {
                        self.skip_name()?;
                    }
                    break;
                }
                open >>= 1;
                n_open -= 1;
            }
        }
    }

    fn skip_name(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        self.skip_string()?;
        self.skip_space();
        self.expect(b':', "expected a colon")
    }

    fn skip_string(&mut self) -> Result<(), Malformed> {
        self.expect(b'"', "expected a string")?;
        let bytes = self.text.as_bytes();
        loop {
            let plain =
                bytes[self.at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            self.at = plain.map_or(bytes.len(), |n| self.at + n);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    let n_bytes = match &bytes[self.at + 1..] {
                        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
                        [b'u', hex @ ..]
                            if hex.iter().take(4).filter(|b| b.is_ascii_hexdigit()).count()
                                == 4 =>
                        {
                            6
                        }
                        _ => return self.error("invalid escape"),
                    };
                    self.at += n_bytes;
                }
                _ => return self.error("control character in a string"),
            }
        }
    }

    fn skip_number(&mut self) -> Result<(), Malformed> {
        let text = self.text.as_bytes();
        self.at += usize::from(text[self.at] == b'-');
        let digits =
            |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let n_whole = digits(self.at);
        if n_whole == 0 || (n_whole > 1 && text[self.at] == b'0') {
            return self.error("invalid number");
        }
        self.at += n_whole;
        if self.peek() == Some(b'.') {
            self.at += 1;
            match digits(self.at) {
                0 => return self.error("invalid number"),
                n_digits => self.at += n_digits,
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            match digits(self.at) {
                0 => return self.error("invalid number"),
                n_digits => self.at += n_digits,
            }
        }
        Ok(())
    }

    fn skip_word(&mut self, word: &str) -> Result<(), Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return self.error("expected a value");
        }
        self.at += word.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::{Malformed, list, object, text_of};

    /// Parses a value with the functions under test.
    fn read(text: &str) -> Option<Value> {
        match text.as_bytes().first()? {
            b'{' => {
                let mut members = Map::new();
                let mut is_sound = true;
                object(text, |name, value| match read(value) {
                    Some(value) => drop(members.insert(name.into_owned(), value)),
                    None => is_sound = false,
                })
                .ok()?;
                is_sound.then_some(Value::Object(members))
            }
            b'[' => {
                let mut items = Vec::new();
                list(text, |item| items.push(read(item))).ok()?;
                items.into_iter().collect::<Option<_>>().map(Value::Array)
            }
            b'"' => text_of(text).ok().map(|text| Value::from(text.into_owned())),
            _ => serde_json::from_str(text).ok(),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // serde_json does not preserve every digit of a float.
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_found(value in prop::collection::btree_map(any::<String>(), any_value(), 0..5)) {
            let value = Value::Object(value.into_iter().collect());
            prop_assert_eq!(read(&value.to_string()), Some(value.clone()));
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let found = object(&pretty, |_, text| assert!(!text.starts_with(' ')));
            prop_assert_eq!(found, Ok(()));
        }

        #[test]
        fn the_same_texts_are_json_as_for_serde(
            text in "\\{\"a\": ?[-+0-9.eE\"\\\\u\\[\\]{}:, abtrueflsn\n\u{1}\u{e4}]{0,12}\\}?",
        ) {
            let expected = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(object(&text, |_, _| ()).is_ok(), expected, "{}", text);
        }
    }

    #[test]
    fn every_plane_is_read_from_surrogate_pairs() {
        for plane in 0..17_u32 {
            for low in [0x10, 0x7ff, 0xd7ff, 0xfffd] {
                let Some(expected) = char::from_u32(plane << 16 | low) else { continue };
                let escaped: String = expected
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect();
                let text = format!("\"a{escaped}b\"");
                assert_eq!(text_of(&text).unwrap(), format!("a{expected}b"), "{text}");
            }
        }
        for lone in ["\\ud842", "\\udfb7", "\\ud842x", "\\ud842\\u0041", "\\udfb7\\ud842"] {
            let error = text_of(&format!("\"{lone}\"")).map(|text| text.into_owned()).unwrap_err();
            assert!(error.contains("unpaired surrogate"), "{error}");
        }
    }

    #[test]
    fn depth_is_limited() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested =
                |depth: usize| format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
            assert_eq!(object(&nested(127), |_, _| ()), Ok(()));
            for depth in [128, 30_000] {
                assert_eq!(object(&nested(depth), |_, _| ()), Err(Malformed::TooDeep));
            }
            let open_only = format!("{{\"a\":{}", open.repeat(30_000));
            assert_eq!(object(&open_only, |_, _| ()), Err(Malformed::TooDeep));
        }
    }
}
