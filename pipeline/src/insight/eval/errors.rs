//! Error-rate metrics. Each row gives a sum and a count; the best of several references is used.

use std::collections::HashMap;

use strsim::generic_levenshtein;

use super::{Pair, words};

/// Word edits and reference words (jiwer 4's `wer`, except for white space: [`words::plain`]).
pub(super) fn words(pair: &Pair) -> Vec<f64> {
    let answer = words::plain(pair.answer());
    let edits = pair.references.iter().map(|reference| {
        let reference = words::plain(reference);
        (generic_levenshtein(&reference, &answer), reference.len())
    });
    best(edits)
}

/// Character edits and reference characters, without surrounding white space (jiwer 4's `cer`).
pub(super) fn characters(pair: &Pair) -> Vec<f64> {
    let letters = |text: &str| -> Vec<char> { text.trim().chars().collect() };
    let answer = letters(pair.answer());
    let edits = pair.references.iter().map(|reference| {
        let reference = letters(reference);
        (generic_levenshtein(&reference, &answer), reference.len())
    });
    best(edits)
}

/// Returns the pair of edits and length with the lowest rate.
fn best(edits: impl Iterator<Item = (usize, usize)>) -> Vec<f64> {
    let numbers = edits.map(|(edits, length)| (number(edits), number(length)));
    let rate = |(edits, length): &(f64, f64)| edits / length.max(1.0);
    let best = numbers.min_by(|a, b| rate(a).total_cmp(&rate(b)));
    best.map_or_else(|| vec![0.0, 0.0], |(edits, length)| vec![edits, length])
}

/// Whether the answer equals a reference (SQuAD).
pub(super) fn exact(pair: &Pair) -> Vec<f64> {
    let answer = words::squad(pair.answer());
    let is_right = pair.references.iter().any(|reference| words::squad(reference) == answer);
    vec![f64::from(u8::from(is_right)), 1.0]
}

/// The harmonic mean of word precision and recall (SQuAD).
pub(super) fn token_f1(pair: &Pair) -> Vec<f64> {
    let answer = words::squad(pair.answer());
    let f1 = |reference: &String| {
        let reference = words::squad(reference);
        let mut left: HashMap<&str, usize> = HashMap::new();
        for word in &reference {
            *left.entry(word).or_default() += 1;
        }
        let common = answer.iter().filter(|word| {
            left.get_mut(word.as_str()).is_some_and(|n| {
                let is_left = *n > 0;
                *n -= usize::from(is_left);
                is_left
            })
        });
        let common = number(common.count());
        let total = number(answer.len() + reference.len());
        if common == 0.0 { 0.0 } else { 2.0 * common / total }
    };
    vec![pair.references.iter().map(f1).fold(0.0, f64::max), 1.0]
}

#[expect(clippy::cast_precision_loss, reason = "counts of words are far below 2^52")]
pub(super) fn number(n: usize) -> f64 {
    n as f64
}
