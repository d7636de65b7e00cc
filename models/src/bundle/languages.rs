//! Language names, and the language tokens of multilingual translation models.

use serde::Deserialize;

use super::{BundleFiles, start::unsupported};
use crate::config::BundleError;

/// The language tokens of a tokenizer: NLLB's (`deu_Latn`), mBART's (`de_DE`), M2M100's (`__de__`).
pub(super) struct Languages(Vec<(String, i64)>);

impl Languages {
    /// Reads `tokenizer.json`.
    pub(super) fn read(files: &BundleFiles) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Added {
            id: i64,
            content: String,
        }
        #[derive(Deserialize)]
        struct Tokenizer {
            #[serde(default)]
            added_tokens: Vec<Added>,
        }
        let tokenizer: Tokenizer = files.json("tokenizer.json")?;
        let tokens = tokenizer.added_tokens.into_iter();
        let languages = tokens.filter(|token| is_language(&token.content));
        Ok(Self(languages.map(|token| (token.content, token.id)).collect()))
    }

    /// Returns the ids of all language tokens.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.0.iter().map(|(_, id)| *id).collect()
    }

    /// Finds the token of a language by the model's code, a two-letter code or the English name.
    /// `key` is the job key named in errors.
    pub(super) fn token(&self, key: &'static str, language: &str) -> Result<i64, BundleError> {
        let name_or_code = language.trim().to_lowercase();
        let code = code_of(&name_or_code).unwrap_or(&name_or_code);
        let matches = |token: &str| {
            let token = token.trim_matches('_').to_lowercase();
            let short = token.split_once('_').map_or(token.as_str(), |(short, _)| short);
            token == name_or_code || short == code
        };
        let found = self.0.iter().find(|(token, _)| matches(token));
        found.map(|(_, id)| *id).ok_or_else(|| {
            let codes: Vec<&str> =
                self.0.iter().map(|(token, _)| token.trim_matches('_')).collect();
            let codes = if codes.is_empty() {
                "none, the tokenizer has no language tokens".to_owned()
            } else {
                codes.join(", ")
            };
            unsupported(key, language, &codes)
        })
    }
}

/// Returns whether a token has one of the three forms.
fn is_language(token: &str) -> bool {
    let letters = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    if let Some(code) = token.strip_prefix("__").and_then(|token| token.strip_suffix("__")) {
        return letters(code, &[2, 3]);
    }
    let Some((language, place)) = token.split_once('_') else { return false };
    let is_script = place.len() == 4
        && place.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase())
        && place.bytes().skip(1).all(|byte| byte.is_ascii_lowercase());
    let is_country = place.len() == 2 && place.bytes().all(|byte| byte.is_ascii_uppercase());
    (letters(language, &[3]) && is_script) || (letters(language, &[2]) && is_country)
}

/// Returns the code of a language by its English name in lower case.
pub(super) fn code_of(name: &str) -> Option<&'static str> {
    LANGUAGES.iter().find(|(_, other)| *other == name).map(|(code, _)| *code)
}

/// The codes and English names of the languages that Whisper was trained on, with aliases
/// (`LANGUAGES` and `TO_LANGUAGE_CODE` of transformers 4.57).
#[rustfmt::skip]
const LANGUAGES: [(&str, &str); 112] = [
    ("en", "english"), ("zh", "chinese"), ("de", "german"), ("es", "spanish"), ("ru", "russian"),
    ("ko", "korean"), ("fr", "french"), ("ja", "japanese"), ("pt", "portuguese"),
    ("tr", "turkish"), ("pl", "polish"), ("ca", "catalan"), ("nl", "dutch"), ("ar", "arabic"),
    ("sv", "swedish"), ("it", "italian"), ("id", "indonesian"), ("hi", "hindi"),
    ("fi", "finnish"), ("vi", "vietnamese"), ("he", "hebrew"), ("uk", "ukrainian"),
    ("el", "greek"), ("ms", "malay"), ("cs", "czech"), ("ro", "romanian"), ("da", "danish"),
    ("hu", "hungarian"), ("ta", "tamil"), ("no", "norwegian"), ("th", "thai"), ("ur", "urdu"),
    ("hr", "croatian"), ("bg", "bulgarian"), ("lt", "lithuanian"), ("la", "latin"),
    ("mi", "maori"), ("ml", "malayalam"), ("cy", "welsh"), ("sk", "slovak"), ("te", "telugu"),
    ("fa", "persian"), ("lv", "latvian"), ("bn", "bengali"), ("sr", "serbian"),
    ("az", "azerbaijani"), ("sl", "slovenian"), ("kn", "kannada"), ("et", "estonian"),
    ("mk", "macedonian"), ("br", "breton"), ("eu", "basque"), ("is", "icelandic"),
    ("hy", "armenian"), ("ne", "nepali"), ("mn", "mongolian"), ("bs", "bosnian"),
    ("kk", "kazakh"), ("sq", "albanian"), ("sw", "swahili"), ("gl", "galician"),
    ("mr", "marathi"), ("pa", "punjabi"), ("si", "sinhala"), ("km", "khmer"), ("sn", "shona"),
    ("yo", "yoruba"), ("so", "somali"), ("af", "afrikaans"), ("oc", "occitan"),
    ("ka", "georgian"), ("be", "belarusian"), ("tg", "tajik"), ("sd", "sindhi"),
    ("gu", "gujarati"), ("am", "amharic"), ("yi", "yiddish"), ("lo", "lao"), ("uz", "uzbek"),
    ("fo", "faroese"), ("ht", "haitian creole"), ("ps", "pashto"), ("tk", "turkmen"),
    ("nn", "nynorsk"), ("mt", "maltese"), ("sa", "sanskrit"), ("lb", "luxembourgish"),
    ("my", "myanmar"), ("bo", "tibetan"), ("tl", "tagalog"), ("mg", "malagasy"),
    ("as", "assamese"), ("tt", "tatar"), ("haw", "hawaiian"), ("ln", "lingala"), ("ha", "hausa"),
    ("ba", "bashkir"), ("jw", "javanese"), ("su", "sundanese"), ("yue", "cantonese"),
    ("my", "burmese"), ("ca", "valencian"), ("nl", "flemish"), ("ht", "haitian"),
    ("lb", "letzeburgesch"), ("ps", "pushto"), ("pa", "panjabi"), ("ro", "moldavian"),
    ("ro", "moldovan"), ("si", "sinhalese"), ("es", "castilian"), ("zh", "mandarin"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_found_by_code_or_name() {
        let languages = |tokens: &[&str]| {
            Languages(tokens.iter().map(|token| (*token).to_owned()).zip(1..).collect())
        };
        let mbart = languages(&["de_DE", "en_XX", "zh_CN"]);
        let token = |languages: &Languages, name| languages.token("task.language", name).ok();
        assert_eq!(token(&mbart, "German"), Some(1));
        assert_eq!(token(&mbart, "en"), Some(2));
        assert_eq!(token(&mbart, "zh_cn"), Some(3));
        assert_eq!(token(&languages(&["__de__", "__ast__"]), "ast"), Some(2));
        let nllb = languages(&["deu_Latn", "zho_Hans", "zho_Hant"]);
        assert_eq!(token(&nllb, "zho_Hant"), Some(3));
        let error = nllb.token("task.target_language", "tlh").unwrap_err().to_string();
        assert!(error.ends_with("deu_Latn, zho_Hans, zho_Hant"), "{error}");
        let known = ["__de__", "deu_Latn", "de_DE"];
        assert!(known.iter().all(|token| is_language(token)));
        let others = ["<s>", "__emoji__", "de_de", "Deu_Latn", "deu_latn", "mask"];
        assert!(!others.iter().any(|token| is_language(token)));
    }
}
