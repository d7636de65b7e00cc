//! Opens `tokenizer.json`, which is as untrusted as its bundle.
//!
//! Its rules run on every text, and some of them multiply their input: thirty rules `a` to `aa`
//! turn one letter into a gigabyte, and `(?:(?=a)a{1000}){1000}` is compiled into millions of
//! instructions. The crate limits neither, so the rules are checked before they are compiled.

use std::{sync::mpsc, thread, time::Duration};

use base64::Engine as _;
use legenda_schemas::cause::Cause;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Encoding, NormalizedString, Normalizer as _, Tokenizer};

use crate::{bundle::Bundle, config::BundleError, preprocess::ProcessError};

const FILE: &str = "tokenizer.json";

/// The timeout for loading a tokenizer.
const LOAD_MAX: Duration = Duration::from_secs(60);

/// The maximum growth factor in bytes of all rules of one kind. Llama's rules reach 12: they add
/// `▁` before a text (factor 4) and for each space (factor 3). Growth by Unicode normalisation
/// forms is not included.
const GROWTH_MAX: u64 = 16;

/// The maximum ratio of normalised to original text length. NFD expands Hangul by at most a factor
/// of 3.
const NORMALIZED_MAX: usize = 4;

/// The maximum length in bytes of texts that are encoded without checking their normalised form.
const SHORT_TEXT: usize = 64 << 10;

/// The memory for encoding a text, in bytes per byte of text.
///
/// Measured with tokenizers 0.22 on a megabyte of words, letters, spaces, CJK and punctuation: 57
/// to 330 with nine tokenizers of small vocabularies, and at most 51 per byte of the normalised
/// form.
pub const ENCODING_BYTES: u64 = 384;

/// The maximum length of a replacement in a character table
/// ([`Precompiled`](tokenizers::normalizers::Precompiled)). That of NFKC has 33 bytes.
const CHARACTER_BYTES_MAX: usize = 64;

/// The maximum total size in bytes of the regular expressions and replaced texts of a tokenizer.
/// The worst case of this size was compiled in 1.6 s and 88 MiB.
const PATTERN_BYTES_MAX: usize = 16 << 10;

/// The maximum number of regular expressions and replaced texts.
const PATTERNS_MAX: usize = 64;

/// The maximum number of copies that the counts of one regular expression, such as `{1,3}`, make of
/// its parts.
const COPIES_MAX: u64 = 10_000;

/// The maximum size of the template around a text (`post_processor`), which is added to each text,
/// in bytes of JSON.
const POST_PROCESSOR_BYTES_MAX: usize = 1 << 20;

/// The sections of the file that have rules. The vocabulary only uses memory in proportion to its
/// size.
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
    let invalid = |source: Cause| BundleError::InvalidJson { file: FILE.to_owned(), source };
    let bytes = bundle.files.bytes(FILE)?.into_owned();
    let rules: Rules = serde_json::from_slice(&bytes).map_err(|error| invalid(error.into()))?;
    check(&rules).map_err(too_costly)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("tokenizer".to_owned())
        .spawn(move || sender.send(Tokenizer::from_bytes(&bytes)).ok())
        .map_err(|error| invalid(format!("failed to start a thread to load it: {error}").into()))?;
    match receiver.recv_timeout(LOAD_MAX) {
        Ok(tokenizer) => tokenizer.map_err(invalid),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(invalid("the tokenizers library panicked".into()))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(too_costly(format!("loading timed out after {} s", LOAD_MAX.as_secs())))
        }
    }
}

/// Encodes a text within [`ENCODING_BYTES`] per byte of it.
///
/// # Errors
///
/// [`ProcessError::Tokenizer`], also if the normalised form of a long text is too long.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    adds_special_tokens: bool,
) -> Result<Encoding, ProcessError> {
    let failed = |source: Cause| ProcessError::Tokenizer { source };
    if let Some(normalizer) = tokenizer.get_normalizer().filter(|_| text.len() > SHORT_TEXT) {
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).map_err(failed)?;
        let (before, after) = (text.len(), normalized.get().len());
        if after > before.saturating_mul(NORMALIZED_MAX) {
            let problem = format!(
                "normalisation grows the text from {before} to {after} bytes, more than {NORMALIZED_MAX} \
                 times"
            );
            return Err(failed(problem.into()));
        }
    }
    let encoding = tokenizer.encode_fast(text, adds_special_tokens);
    encoding.map_err(failed)
}

fn too_costly(problem: String) -> BundleError {
    BundleError::TooCostly { file: FILE.to_owned(), problem }
}

/// Returns an error if the rules may take too much time or memory.
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
                "`{part}` grows a text by a factor of up to {growth}, the maximum is {GROWTH_MAX}; \
                 remove `Replace` or `Prepend` rules"
            ));
        }
    }
    let template = rules.post_processor.to_string().len();
    if template > POST_PROCESSOR_BYTES_MAX {
        return Err(format!(
            "`post_processor` has {template} bytes, the maximum is {POST_PROCESSOR_BYTES_MAX}"
        ));
    }
    Ok(())
}

/// The regular expressions and replaced texts seen so far.
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
                "more than {PATTERNS_MAX} patterns or {PATTERN_BYTES_MAX} bytes of them; remove some"
            ));
        }
        Ok(())
    }

    fn add_regex(&mut self, regex: &str) -> Result<(), String> {
        self.add(regex)?;
        let copies = copies(regex);
        if copies > COPIES_MAX {
            return Err(format!(
                "the counts of the regular expression `{}` make {copies} copies, the maximum is \
                 {COPIES_MAX}; use smaller counts",
                regex.chars().take(40).collect::<String>()
            ));
        }
        Ok(())
    }
}

/// Returns the maximum growth factor of a sequence of rules, and records their patterns.
///
/// Rules are identified by their keys, because the crate also accepts rules without `type`.
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
                    // An empty pattern matches before each character.
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

/// Returns whether a regular expression may match the empty string, and so before each character.
fn may_match_nothing(regex: &str) -> bool {
    let signs = [
        "*", "?", "|", "^", "$", "{0", "{,", "()", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\K",
    ];
    // Or contains a part that may match nothing.
    regex.is_empty() || regex.contains("\\1") || signs.iter().any(|sign| regex.contains(sign))
}

/// Returns the length of the longest text in a character table: the length of a trie, the trie,
/// then zero-terminated texts. A table that cannot be decoded counts as unlimited.
fn longest_character(table: &str) -> usize {
    let Ok(table) = base64::engine::general_purpose::STANDARD.decode(table) else {
        return usize::MAX;
    };
    let Some((len, rest)) = table.split_first_chunk() else { return 0 };
    let texts = rest.get(u32::from_le_bytes(*len) as usize..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// Returns the product of all counts in a regular expression, as if they were nested.
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
    use legenda_schemas::cause::chain;
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
    fn rules_that_grow_a_text_exponentially_are_refused() {
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
            assert!(found.contains("the maximum is 16"), "{rule}: {found}");
        }
        let decoder = json!({"type": "Sequence", "decoders": vec![replace("a", "aa"); 8]});
        assert!(
            problem("decoder", decoder).contains("`decoder` grows a text by a factor of up to 256")
        );
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
        assert!(problem("normalizer", rule).contains("a factor of up to 65"));
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
        assert!(chain(&refused).contains("from 65537 to 327685 bytes"), "{refused:?}");
        assert!(encode(&fivefold, &"b".repeat(SHORT_TEXT + 1), false).is_ok());
        let decomposed = tokenizer(json!({"type": "NFD"}));
        assert!(encode(&decomposed, &"\u{1103}각".repeat(SHORT_TEXT / 4), false).is_ok());
    }

    #[test]
    fn counts_are_distinguished_from_classes() {
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
