//! Texts as words, as each metric's reference cuts them.

/// Words between white space.
pub(super) fn plain(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Words without case, punctuation and English articles (SQuAD's evaluation script, v1.1).
pub(super) fn squad(text: &str) -> Vec<String> {
    let text: String =
        text.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    let words = text.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.map(str::to_owned).collect()
}

/// Runs of Latin letters and digits, lower case (rouge-score 0.1.2, without a stemmer).
pub(super) fn rouge(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Words without case and punctuation at their ends: where CIDEr's own code calls the Penn Treebank
/// tokenizer and drops punctuation.
pub(super) fn cider(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split_whitespace();
    let bare = words.map(|word| word.trim_matches(|letter: char| letter.is_ascii_punctuation()));
    bare.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// mteval-v13a's tokens (sacreBLEU 2.5's `13a`): punctuation stands alone, but for points and commas
/// between digits, and hyphens that do not follow a digit.
pub(super) fn bleu(text: &str) -> Vec<String> {
    let text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let letters: Vec<char> = format!(" {text} ").chars().collect();
    let mut spaced = String::with_capacity(text.len() * 2);
    let is_digit = |at: Option<&char>| at.is_some_and(char::is_ascii_digit);
    for (idx, &letter) in letters.iter().enumerate() {
        let before = idx.checked_sub(1).and_then(|at| letters.get(at));
        let after = letters.get(idx + 1);
        match letter {
            '{'..='~' | '['..='`' | '!'..='&' | '('..='+' | ':'..='@' | '/' => {
                spaced.extend([' ', letter, ' ']);
            }
            '.' | ',' => {
                if is_digit(before) && is_digit(after) {
                    spaced.push(letter);
                } else {
                    spaced.extend([' ', letter, ' ']);
                }
            }
            '-' if is_digit(before) => spaced.extend([' ', letter, ' ']),
            _ => spaced.push(letter),
        }
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}
