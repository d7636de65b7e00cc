//! Opens `tokenizer.json`, which is as untrusted as its bundle.
//!
//! Its rules run on every text, and some of them multiply what they are given: thirty rules `a` to `aa` make
//! a gigabyte of one letter, and `(?:(?=a)a{1000}){1000}` is compiled into millions of instructions. The
//! crate limits neither, so the rules are looked at before they are compiled.

use std::{sync::mpsc, thread, time::Duration};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Encoding, NormalizedString, Normalizer as _, Tokenizer};

use crate::{bundle::Bundle, config::BundleError, preprocess::ProcessError};

const FILE: &str = "tokenizer.json";

/// How long a tokenizer may take to load.
const LOAD_MAX: Duration = Duration::from_secs(60);

/// How many bytes all rules of one kind may make of a byte. Llama's make 12: they put `▁` before a text (4
/// bytes of one) and for each space (3 bytes of one). What Unicode's own forms do comes on top.
const GROWTH_MAX: u64 = 16;

/// How many times as long as a text its normalized form may be. NFD makes 3 bytes of one Hangul byte at most.
const NORMALIZED_MAX: usize = 4;

/// Up to this length, in bytes, a text is encoded without a look at its normalized form.
const SHORT_TEXT: usize = 64 << 10;

/// Bytes of memory that encoding a text takes per byte of it.
///
/// Measured with tokenizers 0.22 on a megabyte of words, letters, spaces, CJK and punctuation: 57 to 330 with
/// nine tokenizers of small vocabularies, and 51 per byte of the normalized form at the most.
pub const ENCODING_BYTES: u64 = 384;

/// The longest text that a table of characters ([`Precompiled`](tokenizers::normalizers::Precompiled))
/// may put in the place of one: that of NFKC has 33 bytes.
const CHARACTER_BYTES_MAX: usize = 64;

/// All regular expressions and replaced texts of a tokenizer, in bytes. The worst of this length were
/// compiled in 1.6 s and 88 MiB.
const PATTERN_BYTES_MAX: usize = 16 << 10;

/// The most regular expressions and replaced texts.
const PATTERNS_MAX: usize = 64;

/// The most copies that the counts of one regular expression, such as `{1,3}`, make of its parts.
const COPIES_MAX: u64 = 10_000;

/// The longest template around a text (`post_processor`), which is added to each, in bytes of JSON.
const POST_PROCESSOR_BYTES_MAX: usize = 1 << 20;

/// The parts of the file that have rules; the vocabulary only takes what it holds.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Reads the tokenizer of a bundle.
pub(super) fn open(bundle: &Bundle) -> Result<Tokenizer, BundleError> {
    let invalid = |message: String| BundleError::InvalidJson { file: FILE.to_owned(), message };
    let bytes = bundle.files.bytes(FILE)?.into_owned();
    let rules: Rules = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    check(&rules).map_err(too_costly)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("tokenizer".to_owned())
        .spawn(move || sender.send(Tokenizer::from_bytes(&bytes)).ok())
        .map_err(|error| invalid(format!("no thread can be started to read it: {error}")))?;
    match receiver.recv_timeout(LOAD_MAX) {
        Ok(tokenizer) => tokenizer.map_err(|error| invalid(error.to_string())),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(invalid("the tokenizers library panicked".to_owned()))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(too_costly(format!("it is not loaded after {} s", LOAD_MAX.as_secs())))
        }
    }
}

/// Encodes a text within [`ENCODING_BYTES`] per byte of it.
///
/// # Errors
///
/// [`ProcessError::Tokenizer`], also if the normalized form of a long text is too long.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    adds_special_tokens: bool,
) -> Result<Encoding, ProcessError> {
    let failed = |message: String| ProcessError::Tokenizer { message };
    if let Some(normalizer) = tokenizer.get_normalizer().filter(|_| text.len() > SHORT_TEXT) {
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).map_err(|error| failed(error.to_string()))?;
        let (before, after) = (text.len(), normalized.get().len());
        if after > before.saturating_mul(NORMALIZED_MAX) {
            return Err(failed(format!(
                "normalizing grows the text from {before} to {after} bytes, at most {NORMALIZED_MAX} times \
                 are allowed"
            )));
        }
    }
    let encoding = tokenizer.encode_fast(text, adds_special_tokens);
    encoding.map_err(|error| failed(error.to_string()))
}

fn too_costly(problem: String) -> BundleError {
    BundleError::TooCostly { file: FILE.to_owned(), problem }
}

/// Returns what is wrong with rules, if they may take too much time or memory.
fn check(rules: &Rules) -> Result<(), String> {
    let mut patterns = Patterns::default();
    for (part, rules) in [
        ("normalizer", &rules.normalizer),
        ("pre_tokenizer", &rules.pre_tokenizer),
        ("decoder", &rules.decoder),
    ] {
        let growth = growth(rules, &mut patterns)?;
        if growth > GROWTH_MAX {
            return Err(format!(
                "its `{part}` makes up to {growth} bytes of one, at most {GROWTH_MAX} are allowed; \
                 remove rules of `Replace` or `Prepend`"
            ));
        }
    }
    let template = rules.post_processor.to_string().len();
    if template > POST_PROCESSOR_BYTES_MAX {
        return Err(format!(
            "its `post_processor` has {template} bytes, at most {POST_PROCESSOR_BYTES_MAX} are read"
        ));
    }
    Ok(())
}

/// What was seen of regular expressions and replaced texts.
#[derive(Default)]
struct Patterns {
    count: usize,
    bytes: usize,
}

impl Patterns {
    fn add(&mut self, pattern: &str) -> Result<(), String> {
        self.count += 1;
        self.bytes += pattern.len();
        if self.count > PATTERNS_MAX || self.bytes > PATTERN_BYTES_MAX {
            return Err(format!(
                "it has more than {PATTERNS_MAX} patterns or {PATTERN_BYTES_MAX} bytes of them; remove some"
            ));
        }
        Ok(())
    }

    fn add_regex(&mut self, regex: &str) -> Result<(), String> {
        self.add(regex)?;
        let copies = copies(regex);
        if copies > COPIES_MAX {
            return Err(format!(
                "the counts of the regular expression `{}` make {copies} copies, at most {COPIES_MAX} are \
                 allowed; count less",
                regex.chars().take(40).collect::<String>()
            ));
        }
        Ok(())
    }
}

/// Returns how many bytes rules make of one at most, in a row; takes in their patterns.
///
/// The kinds of rules are told by their keys, as the crate also takes rules without `type`.
fn growth(rules: &Value, patterns: &mut Patterns) -> Result<u64, String> {
    let mut growth: u64 = 1;
    match rules {
        Value::Array(rules) => {
            for rule in rules {
                growth = growth.saturating_mul(self::growth(rule, patterns)?);
            }
        }
        Value::Object(rule) => {
            let content = rule.get("content").and_then(Value::as_str).map_or(0, str::len) as u64;
            if let Some(pattern) = rule.get("pattern") {
                let text = pattern.as_str().or_else(|| pattern["String"].as_str());
                if let Some(text) = text {
                    patterns.add(text)?;
                    // An empty text is found before each character.
                    growth = match text.len() as u64 {
                        0 => content + 1,
                        len => content.div_ceil(len).max(1),
                    };
                }
                if let Some(regex) = pattern["Regex"].as_str() {
                    patterns.add_regex(regex)?;
                    growth = if may_match_nothing(regex) { content + 1 } else { content.max(1) };
                }
            }
            if let Some(prefix) = rule.get("prepend").and_then(Value::as_str) {
                growth = growth.saturating_mul(prefix.len() as u64 + 1);
            }
            if let Some(table) = rule.get("precompiled_charsmap").and_then(Value::as_str) {
                let longest = longest_character(table);
                if longest > CHARACTER_BYTES_MAX {
                    growth = growth.saturating_mul(longest as u64);
                }
            }
            for inner in rule.values().filter(|inner| inner.is_array() || inner.is_object()) {
                growth = growth.saturating_mul(self::growth(inner, patterns)?);
            }
        }
        _ => {}
    }
    Ok(growth)
}

/// Returns whether a regular expression may be found where there is no text, so before each character.
fn may_match_nothing(regex: &str) -> bool {
    let signs = [
        "*", "?", "|", "^", "$", "{0", "{,", "()", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\K",
    ];
    // Or with a part of which another has nothing.
    regex.is_empty() || regex.contains("\\1") || signs.iter().any(|sign| regex.contains(sign))
}

/// Returns the longest text in a table of characters: the length of a trie, the trie, then texts that end
/// with a zero. What cannot be decoded here counts as endless.
fn longest_character(table: &str) -> usize {
    let Ok(table) = base64::engine::general_purpose::STANDARD.decode(table) else {
        return usize::MAX;
    };
    let Some((len, rest)) = table.split_first_chunk() else { return 0 };
    let texts = rest.get(u32::from_le_bytes(*len) as usize..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// Returns the product of all counts in a regular expression, as if each stood within the last.
fn copies(regex: &str) -> u64 {
    let counts = regex.split('{').skip(1).filter_map(|rest| {
        let (count, _) = rest.split_once('}')?;
        // `{2}`, `{2,}`, `{2,5}`, `{,5}`; not `\p{Lu}` or `\x{1F600}`.
        let is_count = !count.is_empty()
            && count.bytes().all(|byte| byte.is_ascii_digit() || b", ".contains(&byte));
        let ends = count.split(',').filter_map(|end| {
            let end = end.trim();
            (!end.is_empty()).then(|| end.parse::<u64>().unwrap_or(u64::MAX))
        });
        is_count.then(|| ends.max().unwrap_or(1).max(1))
    });
    counts.fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use tokenizers::Tokenizer;

    use super::{Rules, SHORT_TEXT, check, copies, encode};

    fn problem(part: &str, rule: Value) -> String {
        let mut rules = json!({"model": {}});
        rules[part] = rule;
        let rules: Rules = serde_json::from_value(rules).unwrap();
        check(&rules).err().unwrap_or_default()
    }

    fn replace(from: &str, to: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": from}, "content": to})
    }

    #[test]
    fn rules_that_double_a_text_over_and_over_are_refused() {
        let doubling = vec![replace("a", "aa"); 30];
        let hostile = [
            json!({"type": "Sequence", "normalizers": doubling}),
            json!({"type": "Sequence", "normalizers": [
                {"type": "Sequence", "normalizers": vec![replace("a", "aa"); 4]},
                {"type": "Sequence", "normalizers": vec![replace("a", "aa"); 4]},
            ]}),
            replace("", &"x".repeat(64)),
            json!({"type": "Replace", "pattern": {"Regex": "q*"}, "content": "x".repeat(64)}),
            json!({"type": "Sequence", "normalizers": vec![
                json!({"type": "Replace", "pattern": {"Regex": "(?=q)"}, "content": "x"}); 5]}),
            json!({"type": "Prepend", "prepend": "x".repeat(64)}),
        ];
        for rule in hostile {
            let found = problem("normalizer", rule.clone());
            assert!(found.contains("bytes of one, at most 16"), "{rule}: {found}");
        }
        let decoder = json!({"type": "Sequence", "decoders": vec![replace("a", "aa"); 8]});
        assert!(problem("decoder", decoder).contains("`decoder` makes up to 256 bytes of one"));
    }

    #[test]
    fn rules_of_published_tokenizers_pass() {
        let llama = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]});
        let xlm_r = json!({"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": "ALQC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]});
        let clip = json!({"type": "Sequence", "normalizers": [{"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}]});
        for rule in [llama, xlm_r, clip, Value::Null] {
            assert_eq!(problem("normalizer", rule.clone()), "", "{rule}");
        }
        let split = |regex: &str| {
            json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false}]})
        };
        let gpt4 =
            "(?i:'s|'t|'re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+";
        assert_eq!(problem("pre_tokenizer", split(gpt4)), "");
        let counted = problem("pre_tokenizer", split("(?:(?=a)(?:a{1000}){1000}){1000}"));
        assert!(counted.contains("1000000000 copies"), "{counted}");
        let long = problem("pre_tokenizer", split(&"a|".repeat(40_000)));
        assert!(long.contains("16384 bytes"), "{long}");
    }

    #[test]
    fn tables_of_long_texts_and_long_templates_are_refused() {
        let table = [4_u32.to_le_bytes().as_slice(), &[0; 4], &[b'x'; 65], &[0]].concat();
        let table = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, table);
        let rule = json!({"type": "Precompiled", "precompiled_charsmap": table});
        assert!(problem("normalizer", rule).contains("up to 65 bytes of one"));
        let template = json!({"type": "TemplateProcessing", "single": vec!["x"; 400_000]});
        assert!(problem("post_processor", template).contains("`post_processor` has"));
        let many = vec![replace("a", "b"); 65];
        assert!(problem("normalizer", json!({"normalizers": many})).contains("more than 64"));
    }

    #[test]
    fn a_long_text_that_grows_when_normalized_is_refused() {
        let tokenizer = |normalizer: Value| {
            let json = json!({"added_tokens": [], "normalizer": normalizer, "pre_tokenizer": null,
                "post_processor": null, "decoder": null,
                "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}});
            Tokenizer::from_bytes(json.to_string()).unwrap()
        };
        let fivefold = tokenizer(replace("a", "aaaaa"));
        assert!(encode(&fivefold, &"a".repeat(SHORT_TEXT), false).is_ok());
        let refused = encode(&fivefold, &"a".repeat(SHORT_TEXT + 1), false).unwrap_err();
        assert!(refused.to_string().contains("from 65537 to 327685 bytes"), "{refused}");
        assert!(encode(&fivefold, &"b".repeat(SHORT_TEXT + 1), false).is_ok());
        let decomposed = tokenizer(json!({"type": "NFD"}));
        assert!(encode(&decomposed, &"\u{1103}각".repeat(SHORT_TEXT / 4), false).is_ok());
    }

    #[test]
    fn counts_are_told_from_classes() {
        for (regex, expected) in [
            ("\\p{N}{1,3}|\\p{Lu}", 3),
            ("a{2,}b{,5}", 10),
            ("\\x{1F600}{4}", 4),
            ("{", 1),
            ("a{99999999999999999999}", u64::MAX),
        ] {
            assert_eq!(copies(regex), expected, "{regex}");
        }
    }
}
