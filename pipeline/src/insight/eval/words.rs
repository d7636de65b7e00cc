//! Word splitting, as in the reference implementation of each metric.

/// Words separated by white space. (jiwer keeps a lone tab or line break within a word, which would count the
/// layout of an answer as an error.)
pub(super) fn plain(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Words without case, punctuation and English articles (SQuAD's evaluation script, v1.1).
pub(super) fn squad(text: &str) -> Vec<String> {
    let text: String =
        text.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    // An article ends at a non-letter: the script drops the one in `l’a` and in `“the cat”`.
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_alphanumeric();
        let end = rest.find(|letter: char| letter.is_alphanumeric() != is_word);
        let (run, after) = rest.split_at(end.unwrap_or(rest.len()));
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    plain(&kept).into_iter().map(str::to_owned).collect()
}

/// Runs of Latin letters and digits in lower case (rouge-score 0.1.2, without a stemmer).
pub(super) fn rouge(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Words without case and without punctuation at their ends; CIDEr's own code calls the Penn Treebank
/// tokenizer and drops punctuation.
pub(super) fn cider(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split_whitespace();
    let bare = words.map(|word| word.trim_matches(|letter: char| letter.is_ascii_punctuation()));
    bare.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// mteval-v13a's tokens (sacreBLEU 2.5's `13a`): punctuation is separated, except for points and commas
/// between digits, and hyphens that do not follow a digit. A character consumed by a match of a rule is not
/// matched again by that rule, so in `..5` the second point stays with its digit.
pub(super) fn bleu(text: &str) -> Vec<String> {
    let text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut spaced = String::with_capacity(text.len() * 2);
    spaced.push(' ');
    for letter in text.chars() {
        match letter {
            '{'..='~' | '['..='`' | '!'..='&' | '('..='+' | ':'..='@' | '/' => {
                spaced.extend([' ', letter, ' ']);
            }
            _ => spaced.push(letter),
        }
    }
    spaced.push(' ');
    let is_point = |letter: char| matches!(letter, '.' | ',');
    let spaced = each_pair(&spaced, |first, second| {
        let found = !first.is_ascii_digit() && is_point(second);
        found.then_some([first, ' ', second, ' '])
    });
    let spaced = each_pair(&spaced, |first, second| {
        let found = is_point(first) && !second.is_ascii_digit();
        found.then_some([' ', first, ' ', second])
    });
    let spaced = each_pair(&spaced, |first, second| {
        (first.is_ascii_digit() && second == '-').then_some([first, ' ', second, ' '])
    });
    plain(&spaced).into_iter().map(str::to_owned).collect()
}

/// Replaces character pairs from left to right without overlap.
fn each_pair(text: &str, replace: impl Fn(char, char) -> Option<[char; 4]>) -> String {
    let mut replaced = String::with_capacity(text.len() * 2);
    let mut letters = text.chars().peekable();
    while let Some(first) = letters.next() {
        match letters.peek().and_then(|second| replace(first, *second)) {
            Some(four) => {
                replaced.extend(four);
                letters.next();
            }
            None => replaced.push(first),
        }
    }
    replaced
}
