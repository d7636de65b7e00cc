//! The sampler: chooses the next token of a row from its logits.

use std::cmp::Ordering;

use super::reduce;

/// Sampling options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The divisor of the logits; 0 is greedy decoding.
    pub temperature: f32,
    /// Keeps only the `k` most likely tokens.
    pub top_k: Option<usize>,
    /// Keeps the smallest set of most likely tokens whose probabilities reach this sum.
    pub top_p: Option<f32>,
    /// Keeps the tokens whose probability is at least this fraction of the highest one.
    pub min_p: Option<f32>,
}

impl Sampling {
    /// Greedy decoding.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: None, min_p: None };
}

/// A chosen token with its log probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) token_id: i64,
    /// The natural log probability before temperature and top-k/top-p.
    pub(super) logprob: f64,
    /// The natural log probability among the allowed tokens, if the sampler computes it.
    pub(super) allowed_logprob: Option<f64>,
}

/// A pseudo-random stream that belongs to one row.
///
/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): every
/// seed is a good seed, so row seeds may be consecutive.
#[derive(Clone, Debug)]
pub(super) struct RowRandom {
    state: u64,
}

impl RowRandom {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number in `[0, 1)` with 53 random bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A sampler with scratch buffers, so that a step does not allocate.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    /// Whether to compute the log probability among the allowed tokens, which costs one more sum.
    weighs_allowed: bool,
    candidates: Vec<(usize, f32)>,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self { sampling, weighs_allowed: false, candidates: Vec::new() }
    }

    /// Enables the log probability among the allowed tokens.
    pub(super) fn weighing_allowed(self) -> Self {
        Self { weighs_allowed: true, ..self }
    }

    /// Chooses from the model's logits `scores` (`[V]`), or from their values after the
    /// constraints, at `temperature`. Returns `None` if the best score is not finite.
    ///
    /// A draw depends only on the scores and the row's own stream. Among equal scores, the lower ID
    /// wins.
    pub(super) fn choose(
        &mut self,
        scores: &[f32],
        allowed: Option<&[f32]>,
        temperature: f32,
        random: &mut RowRandom,
    ) -> Option<Choice> {
        let raw = reduce::summary(scores)?;
        let (best_id, best_score) = match allowed {
            Some(allowed) => reduce::best(allowed)?,
            None => (raw.best_id, raw.best),
        };
        let allowed = allowed.unwrap_or(scores);
        let is_drawn = temperature > 0.0;
        let token_idx =
            if is_drawn { self.draw(allowed, best_score, temperature, random) } else { best_id };
        let allowed_logprob = self.weighs_allowed.then(|| {
            let kept: Vec<f32> = self.candidates.iter().map(|(_, score)| *score).collect();
            let kept = if is_drawn { &kept } else { allowed };
            f64::from(allowed[token_idx]) - reduce::log_sum_exp(kept, best_score)
        });
        Some(Choice {
            token_id: i64::try_from(token_idx).ok()?,
            logprob: f64::from(scores[token_idx]) - raw.log_sum,
            allowed_logprob,
        })
    }

    /// Draws an index after `temperature`, `top_k`, `top_p` and `min_p`, in the order of
    /// transformers. The kept tokens stay in `candidates`.
    ///
    /// Sorting the whole vocabulary takes most of the time of a draw, so the likely tokens are tried
    /// first. All tokens are sorted only if the filters keep, or the draw reaches, unlikely ones.
    fn draw(
        &mut self,
        scores: &[f32],
        best_score: f32,
        temperature: f32,
        random: &mut RowRandom,
    ) -> usize {
        let unit = random.next_unit();
        let weights = Weights { best_score, temperature };
        self.collect(scores, best_score + LIKELY_LOG_WEIGHT * temperature);
        let total = reduce::exp_sum(scores, best_score, temperature);
        if let Some(token_idx) = self.draw_from(weights, Tail::Hidden { total }, unit) {
            return token_idx;
        }
        self.collect(scores, f32::NEG_INFINITY);
        // Only rounding errors leave no token.
        let drawn = self.draw_from(weights, Tail::None, unit);
        drawn.or(self.candidates.last().map(|(token_idx, _)| *token_idx)).unwrap_or(0)
    }

    /// Collects the scores above `threshold`, best first.
    fn collect(&mut self, scores: &[f32], threshold: f32) {
        self.candidates.clear();
        let above = scores.iter().copied().enumerate().filter(|(_, score)| *score > threshold);
        self.candidates.extend(above);
        let by_score = |a: &(usize, f32), b: &(usize, f32)| -> Ordering {
            b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
        };
        if let Some(k) = self.sampling.top_k.filter(|k| (1..self.candidates.len()).contains(k)) {
            self.candidates.select_nth_unstable_by(k - 1, by_score);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(by_score);
    }

    /// Filters the collected candidates and draws one. Returns `None` if the result depends on the
    /// tokens of `tail`.
    fn draw_from(&mut self, weights: Weights, mut tail: Tail, unit: f64) -> Option<usize> {
        let Self { sampling, candidates, .. } = self;
        let weight = |score: f32| weights.of(score);
        let sum = |kept: &[(usize, f32)]| -> f64 { kept.iter().map(|(_, s)| weight(*s)).sum() };
        if let Some(k) = sampling.top_k.filter(|k| *k > 0) {
            if candidates.len() >= k {
                candidates.truncate(k);
                tail = Tail::None;
            } else if tail != Tail::None {
                return None;
            }
        }
        let mut total = match tail {
            Tail::Hidden { total } => total,
            Tail::None => sum(candidates),
        };
        if let Some(p) = sampling.top_p {
            let enough = total * f64::from(p);
            let mut kept = 0.0;
            let reached = candidates.iter().position(|(_, score)| {
                kept += weight(*score);
                kept >= enough
            });
            match reached {
                Some(last) => candidates.truncate(last + 1),
                None if tail != Tail::None => return None,
                None => {}
            }
            (total, tail) = (kept, Tail::None);
        }
        if let Some(p) = sampling.min_p {
            if tail != Tail::None && p.ln() <= LIKELY_LOG_WEIGHT {
                return None;
            }
            // The best token has weight 1, whatever was cut before.
            candidates.retain(|(_, score)| weight(*score) >= f64::from(p));
            total = sum(candidates);
        }
        let mut left = unit * total;
        for (token_idx, score) in candidates.iter() {
            left -= weight(*score);
            if left < 0.0 {
                return Some(*token_idx);
            }
        }
        None
    }
}

/// The natural log of the weight, relative to the best token, above which a token is likely: 1e-7.
const LIKELY_LOG_WEIGHT: f32 = -16.0;

/// The tokens that are not among the candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    /// None: all tokens are candidates, or the filters removed the others.
    None,
    /// All unlikely ones; `total` is the weight of all tokens, candidates included.
    Hidden { total: f64 },
}

/// The weights of tokens in a draw: 1 for the best one.
#[derive(Clone, Copy, Debug)]
struct Weights {
    best_score: f32,
    temperature: f32,
}

impl Weights {
    fn of(self, score: f32) -> f64 {
        f64::from((score - self.best_score) / self.temperature).exp()
    }
}

/// Returns the probability of a token under the model; 0 if it is outside the vocabulary.
pub(super) fn probability(scores: &[f32], token_id: i64) -> f64 {
    let score = usize::try_from(token_id).ok().and_then(|idx| scores.get(idx));
    let (Some(score), Some(row)) = (score, reduce::summary(scores)) else { return 0.0 };
    (f64::from(*score) - row.log_sum).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(sampling: Sampling, scores: &[f32], seed: u64) -> Option<i64> {
        let mut random = RowRandom::new(seed);
        let temperature = sampling.temperature;
        let chosen = Sampler::new(sampling).choose(scores, None, temperature, &mut random);
        chosen.map(|choice| choice.token_id)
    }

    #[test]
    fn ties_go_to_the_lower_id() {
        assert_eq!(choose(Sampling::GREEDY, &[1.0, 3.0, 3.0], 0), Some(1));
    }

    #[test]
    fn non_finite_scores_give_no_token() {
        assert_eq!(choose(Sampling::GREEDY, &[0.0, f32::NAN], 0), None);
        assert_eq!(choose(Sampling::GREEDY, &[f32::NEG_INFINITY; 2], 0), None);
    }

    #[test]
    fn a_logprob_is_the_softmax_of_the_raw_scores() {
        let scores = [0.0, (3.0_f32).ln()];
        let mut random = RowRandom::new(0);
        let choice =
            Sampler::new(Sampling::GREEDY).choose(&scores, None, 0.0, &mut random).unwrap();
        assert!((choice.logprob - (0.75_f64).ln()).abs() < 1e-6, "{}", choice.logprob);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None };
        let scores = [0.0, (3.0_f32).ln()];
        let hits = (0..4000).filter(|seed| choose(sampling, &scores, *seed) == Some(1)).count();
        assert!((2850..3150).contains(&hits), "{hits} of 4000, expected about 3000");
    }

    /// The reference is made by `tests/references/make_bundles/decoding_rules.py`.
    #[test]
    fn draws_follow_the_distribution_of_transformers() {
        let text = include_str!("../../../tests/references/decoding_rules.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
        let scores: Vec<f32> = numbers(&reference["scores"]).iter().map(|s| *s as f32).collect();
        for case in reference["draws"].as_array().unwrap() {
            #[expect(clippy::cast_possible_truncation, reason = "parameters are f32")]
            let number = |key: &str| case[key].as_f64().map(|number| number as f32);
            let sampling = Sampling {
                temperature: number("temperature").unwrap(),
                top_k: case["top_k"].as_u64().map(|k| usize::try_from(k).unwrap()),
                top_p: number("top_p"),
                min_p: number("min_p"),
            };
            let n_draws = 20_000;
            let mut counts = vec![0.0; scores.len()];
            for seed in 0..n_draws {
                let token_id = choose(sampling, &scores, seed).unwrap();
                counts[usize::try_from(token_id).unwrap()] += 1.0;
            }
            for (count, expected) in counts.iter().zip(numbers(&case["probabilities"])) {
                assert!(expected > 0.0 || *count == 0.0, "{case}: a filtered token was drawn");
                #[expect(clippy::cast_precision_loss, reason = "few draws")]
                let share = count / n_draws as f64;
                // Five standard deviations of a frequency of one half.
                assert!((share - expected).abs() < 0.018, "{case}: {share}, expected {expected}");
            }
        }
    }

    /// Draws from all tokens in one pass, as the filters are defined.
    fn plain_draw(sampling: Sampling, scores: &[f32], seed: u64) -> usize {
        let unit = RowRandom::new(seed).next_unit();
        let mut sampler = Sampler::new(sampling);
        let best_score = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        sampler.collect(scores, f32::NEG_INFINITY);
        let weights = Weights { best_score, temperature: sampling.temperature };
        sampler.draw_from(weights, Tail::None, unit).unwrap()
    }

    proptest! {
        /// Scores that spread over many times the range of likely tokens, or over less.
        #[test]
        fn likely_tokens_first_give_the_same_draw(
            scores in prop::collection::vec(-1.0_f32..1.0, 1..300),
            spread in prop_oneof![Just(0.5_f32), Just(10.0), Just(60.0)],
            top_k in prop::option::of(1_usize..50),
            top_p in prop::option::of(0.1_f32..1.0),
            min_p in prop::option::of(prop_oneof![Just(1e-9_f32), 0.01_f32..0.5]),
            seed: u64,
        ) {
            let scores: Vec<f32> = scores.iter().map(|score| score * spread).collect();
            let sampling = Sampling { temperature: 0.8, top_k, top_p, min_p };
            let drawn = choose(sampling, &scores, seed).unwrap();
            prop_assert_eq!(usize::try_from(drawn).unwrap(), plain_draw(sampling, &scores, seed));
        }

        #[test]
        fn top_k_of_one_is_greedy(
            scores in prop::collection::vec(-9.0_f32..9.0, 1..40),
            seed: u64,
        ) {
            let sampling = Sampling { temperature: 2.0, top_k: Some(1), top_p: None, min_p: None };
            prop_assert_eq!(
                choose(sampling, &scores, seed),
                choose(Sampling::GREEDY, &scores, seed)
            );
        }

        #[test]
        fn a_draw_stays_within_the_kept_tokens(
            scores in prop::collection::vec(-9.0_f32..9.0, 4..40),
            seed: u64,
        ) {
            let sampling =
                Sampling { temperature: 1.0, top_k: Some(3), top_p: Some(0.9), min_p: None };
            let token_id = choose(sampling, &scores, seed).unwrap();
            let score = scores[usize::try_from(token_id).unwrap()];
            let better = scores.iter().filter(|other| **other > score).count();
            prop_assert!(better < 3);
        }
    }
}
