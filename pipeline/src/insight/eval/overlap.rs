//! Overlap metrics between answer and reference.

use std::collections::{HashMap, HashSet};

use super::{Pair, errors::number, words};

type Counts<T> = HashMap<Vec<T>, f64>;

/// Counts the n-grams of `items`.
fn ngrams<T: Clone + Eq + std::hash::Hash>(items: &[T], n: usize) -> Counts<T> {
    let mut counts = Counts::new();
    for run in items.windows(n) {
        *counts.entry(run.to_vec()).or_default() += 1.0;
    }
    counts
}

/// The maximum n-gram length in words of BLEU and CIDEr.
const WORDS_MAX: usize = 4;

/// The sums of BLEU: matches and n-grams for each length, then the lengths of answer and closest reference.
pub(super) fn bleu(pair: &Pair) -> Vec<f64> {
    let answer = words::bleu(pair.answer());
    let references: Vec<Vec<String>> =
        pair.references.iter().map(|reference| words::bleu(reference)).collect();
    let mut sums = Vec::with_capacity(2 * WORDS_MAX + 2);
    for n in 1..=WORDS_MAX {
        let counts = ngrams(&answer, n);
        let reference_counts: Vec<Counts<String>> =
            references.iter().map(|reference| ngrams(reference, n)).collect();
        let matches = counts.iter().map(|(run, count)| {
            let most = reference_counts.iter().filter_map(|counts| counts.get(run));
            count.min(most.copied().fold(0.0, f64::max))
        });
        sums.push(matches.sum());
        sums.push(counts.values().sum());
    }
    let closest = references
        .iter()
        .map(Vec::len)
        .min_by_key(|length| (length.abs_diff(answer.len()), *length));
    sums.extend([number(answer.len()), number(closest.unwrap_or(0))]);
    sums
}

/// BLEU from its sums (Papineni et al. 2002), with sacreBLEU's exponential smoothing of lengths without a
/// match.
pub(super) fn bleu_score(sums: &[f64]) -> f64 {
    let [runs @ .., answer, reference] = sums else { return 0.0 };
    if runs.first().is_none_or(|matches| *matches == 0.0) {
        return 0.0;
    }
    let (mut logs, mut n_lengths, mut smooth) = (0.0, 0.0, 1.0);
    for pair in runs.chunks_exact(2) {
        let (matches, total) = (pair[0], pair[1]);
        if total == 0.0 {
            // sacreBLEU's corpus score has no shorter average: it is 0 then.
            return 0.0;
        }
        let precision = if matches == 0.0 {
            smooth *= 2.0;
            1.0 / (smooth * total)
        } else {
            matches / total
        };
        logs += precision.ln();
        n_lengths += 1.0;
    }
    let brevity = if answer < reference { (1.0 - reference / answer).exp() } else { 1.0 };
    100.0 * brevity * (logs / n_lengths).exp()
}

/// The maximum n-gram length in characters of chrF.
const CHARACTERS_MAX: usize = 6;
/// The weight of recall relative to precision in chrF.
const BETA: f64 = 2.0;

/// The sums of chrF: n-grams of the answer, n-grams of the reference, and matches, for each length, with the
/// best of several references.
pub(super) fn chrf(pair: &Pair) -> Vec<f64> {
    let letters = |text: &str| -> Vec<char> {
        text.chars().filter(|letter| !letter.is_whitespace()).collect()
    };
    let answer = letters(pair.answer());
    let sums = |reference: &String| -> Vec<f64> {
        let reference = letters(reference);
        let mut sums = Vec::with_capacity(3 * CHARACTERS_MAX);
        for n in 1..=CHARACTERS_MAX {
            let (a, b) = (ngrams(&answer, n), ngrams(&reference, n));
            let matches =
                a.iter().map(|(run, count)| count.min(b.get(run).copied().unwrap_or(0.0)));
            let matches: f64 = matches.sum();
            // N-grams longer than the reference do not count against the answer.
            let answer_sum = if b.is_empty() { 0.0 } else { a.values().sum() };
            sums.extend([answer_sum, b.values().sum(), matches]);
        }
        sums
    };
    let reference_counts = pair.references.iter().map(sums);
    let best = reference_counts
        .reduce(|best, next| if chrf_score(&next) > chrf_score(&best) { next } else { best });
    best.unwrap_or_default()
}

/// chrF from its sums (Popović 2015); averages precision and recall of each length like sacreBLEU 2.5.
pub(super) fn chrf_score(sums: &[f64]) -> f64 {
    let (mut precision, mut recall, mut n_lengths) = (0.0, 0.0, 0.0);
    for run in sums.chunks_exact(3) {
        let (answer, reference, matches) = (run[0], run[1], run[2]);
        if answer > 0.0 && reference > 0.0 {
            precision += matches / answer;
            recall += matches / reference;
            n_lengths += 1.0;
        }
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / n_lengths, recall / n_lengths);
    let heavier = BETA * BETA;
    100.0 * (1.0 + heavier) * precision * recall / (heavier * precision + recall)
}

/// The F1 of the longest common subsequence (Lin 2004), with the best of several references.
pub(super) fn rouge_l(pair: &Pair) -> Vec<f64> {
    let answer = words::rouge(pair.answer());
    let f1 = |reference: &String| {
        let reference = words::rouge(reference);
        let common = common_subsequence(&answer, &reference);
        if common == 0 {
            0.0
        } else {
            2.0 * number(common) / number(answer.len() + reference.len())
        }
    };
    vec![pair.references.iter().map(f1).fold(0.0, f64::max), 1.0]
}

fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for one in a {
        let mut diagonal = 0;
        for (idx, other) in b.iter().enumerate() {
            let above = row[idx + 1];
            row[idx + 1] = if one == other { diagonal + 1 } else { above.max(row[idx]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The width of CIDEr-D's length penalty (pycocoevalcap's default).
const SIGMA: f64 = 6.0;

/// CIDEr-D of each row (Vedantam et al. 2015), with document frequencies from the references of all
/// rows.
pub(super) fn cider(pairs: &[Pair]) -> Vec<Vec<f64>> {
    let runs = |text: &str| -> Vec<Counts<String>> {
        let words = words::cider(text);
        (1..=WORDS_MAX).map(|n| ngrams(&words, n)).collect()
    };
    let references: Vec<Vec<Vec<Counts<String>>>> = pairs
        .iter()
        .map(|pair| pair.references.iter().map(|reference| runs(reference)).collect())
        .collect();
    let mut rows_with: HashMap<&Vec<String>, f64> = HashMap::new();
    for reference_rows in &references {
        let seen: HashSet<&Vec<String>> =
            reference_rows.iter().flatten().flat_map(|counts| counts.keys()).collect();
        for run in seen {
            *rows_with.entry(run).or_default() += 1.0;
        }
    }
    let log_rows = number(pairs.len()).ln();
    let weigh = |counts: &Counts<String>| -> Counts<String> {
        let weight =
            |run: &Vec<String>| log_rows - rows_with.get(run).copied().unwrap_or(0.0).max(1.0).ln();
        counts.iter().map(|(run, count)| (run.clone(), count * weight(run))).collect()
    };
    let norm = |weights: &Counts<String>| weights.values().map(|w| w * w).sum::<f64>().sqrt();
    // As in the reference implementation, the length of a text is its number of word pairs.
    let length = |counts: &[Counts<String>]| counts[1].values().sum::<f64>();
    let score = |(pair, reference_rows): (&Pair, &Vec<Vec<Counts<String>>>)| {
        let answer = runs(pair.answer());
        let weighed: Vec<Counts<String>> = answer.iter().map(weigh).collect();
        let similarity = |reference: &Vec<Counts<String>>| {
            let delta = length(&answer) - length(reference);
            let penalty = (-(delta * delta) / (2.0 * SIGMA * SIGMA)).exp();
            let score_of_length = |(a, counts): (&Counts<String>, &Counts<String>)| {
                let b = weigh(counts);
                let common = a.iter().map(|(run, weight)| {
                    let other = b.get(run).copied().unwrap_or(0.0);
                    weight.min(other) * other
                });
                let norms = norm(a) * norm(&b);
                let common: f64 = common.sum();
                penalty * if norms > 0.0 { common / norms } else { common }
            };
            weighed.iter().zip(reference).map(score_of_length).sum::<f64>() / number(WORDS_MAX)
        };
        let sum: f64 = reference_rows.iter().map(similarity).sum();
        vec![10.0 * sum / number(reference_rows.len().max(1)), 1.0]
    };
    pairs.iter().zip(&references).map(score).collect()
}
