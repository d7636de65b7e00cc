//! The bytes of the tokens of a vocabulary, as the decoder of the tokenizer joins them.

use std::collections::BTreeSet;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::TextProcessor;
use crate::grammar::{GrammarError, TokenBytes};

/// The character that stands for a space in the vocabularies of SentencePiece.
const SPACE: char = '▁';

/// How the decoder of a tokenizer joins tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joining {
    /// Each character stands for a byte (`ByteLevel`).
    Bytes,
    /// `▁` is a space, and `<0x0A>` is a byte.
    Pieces,
}

impl TextProcessor {
    /// Returns the bytes of all tokens.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Tokenizer`] if tokens are not pieces of text, as in a vocabulary of words.
    pub(crate) fn token_bytes(&self) -> Result<TokenBytes, GrammarError> {
        token_bytes(&self.markup)
    }
}

fn token_bytes(tokenizer: &Tokenizer) -> Result<TokenBytes, GrammarError> {
    let joining = joining(tokenizer)?;
    let added = tokenizer.get_added_tokens_decoder();
    let vocab = tokenizer.get_vocab(true);
    let n_tokens = vocab.values().max().map_or(0, |id| *id as usize + 1);
    let mut tokens = vec![Vec::new(); n_tokens];
    for (piece, id) in &vocab {
        tokens[*id as usize] = match added.get(id) {
            Some(token) if token.special || is_marked(&token.content) => Vec::new(),
            Some(token) => token.content.clone().into_bytes(),
            None => bytes_of(piece, joining),
        };
    }
    Ok(TokenBytes { tokens, has_leading_space: joining == Joining::Pieces })
}

/// Returns whether an added token is a marker, although it is not declared as special.
fn is_marked(content: &str) -> bool {
    content.len() > 2 && content.starts_with('<') && content.ends_with('>')
}

fn bytes_of(piece: &str, joining: Joining) -> Vec<u8> {
    match joining {
        // A token with another character is not text.
        Joining::Bytes => piece.chars().map(byte_of).collect::<Option<_>>().unwrap_or_default(),
        Joining::Pieces => {
            match piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')) {
                Some(hex)
                    if hex.len() == 2
                        && let Ok(byte) = u8::from_str_radix(hex, 16) =>
                {
                    vec![byte]
                }
                _ => piece.replace(SPACE, " ").into_bytes(),
            }
        }
    }
}

/// Returns the byte that a character stands for.
///
/// # Source
///
/// `bytes_to_unicode` of GPT-2: printable characters of Latin-1 stand for themselves, the other bytes are
/// numbered from 256.
fn byte_of(c: char) -> Option<u8> {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(c);
    match u8::try_from(code) {
        Ok(byte) => is_itself(byte).then_some(byte),
        Err(_) => {
            let number = usize::try_from(code - 256).ok()?;
            (0..=u8::MAX).filter(|byte| !is_itself(*byte)).nth(number)
        }
    }
}

fn joining(tokenizer: &Tokenizer) -> Result<Joining, GrammarError> {
    let failed = |problem: String| GrammarError::Tokenizer { problem };
    let decoder = serde_json::to_value(tokenizer.get_decoder())
        .map_err(|error| failed(format!("its decoder cannot be read: {error}")))?;
    let mut kinds = BTreeSet::new();
    collect_kinds(&decoder, &mut kinds);
    if kinds.contains("ByteLevel") {
        Ok(Joining::Bytes)
    } else if kinds.contains("ByteFallback") || kinds.contains("Metaspace") {
        Ok(Joining::Pieces)
    } else {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        Err(failed(format!("its decoder ({kinds}) does not join tokens byte by byte")))
    }
}

/// Collects the types of a decoder and of those in it.
fn collect_kinds<'d>(decoder: &'d Value, kinds: &mut BTreeSet<&'d str>) {
    if let Some(kind) = decoder["type"].as_str() {
        kinds.insert(kind);
    }
    for inner in decoder["decoders"].as_array().into_iter().flatten() {
        collect_kinds(inner, kinds);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokenizers::Tokenizer;

    use super::{byte_of, token_bytes};

    fn tokenizer(decoder: Value, vocab: Value) -> Tokenizer {
        let json = json!({"added_tokens": [{"id": 0, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    #[test]
    fn every_byte_has_one_character() {
        let bytes: Vec<u8> = (0..0x200).filter_map(|code| byte_of(char::from_u32(code)?)).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(bytes.iter().collect::<std::collections::BTreeSet<_>>().len(), 256);
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('a')),
            (Some(b' '), Some(b'\n'), Some(b'a'))
        );
    }

    #[test]
    fn tokens_are_the_bytes_that_decoding_writes() {
        let vocab = json!({"<s>": 0, "Ġa": 1, "Ã": 2});
        let bytes = token_bytes(&tokenizer(
            json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": true}),
            vocab,
        ))
        .unwrap();
        assert_eq!(bytes.tokens, [b"".to_vec(), b" a".to_vec(), vec![0xC3]]);
        assert!(!bytes.has_leading_space);

        let vocab = json!({"<s>": 0, "▁a": 1, "<0xC3>": 2});
        let decoder =
            json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
        let bytes = token_bytes(&tokenizer(decoder, vocab)).unwrap();
        assert_eq!(bytes.tokens, [b"".to_vec(), b" a".to_vec(), vec![0xC3]]);
        assert!(bytes.has_leading_space);

        let words = tokenizer(
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"<s>": 0}),
        );
        assert!(token_bytes(&words).unwrap_err().to_string().contains("WordPiece"));
    }
}
