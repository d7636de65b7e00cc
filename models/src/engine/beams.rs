//! Beam search, equivalent to transformers (`GenerationMixin._beam_search`, 4.57).
//!
//! Each row has several hypotheses. Each step extends all of them and keeps the best candidates:
//! finished ones are ranked by their length-penalized score, the others continue.

use super::{
    FinishReason, reduce,
    row::{Ended, Hypothesis, Row},
};

/// Options of beam search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// The number of beams per row; 1 disables beam search.
    pub n_beams: usize,
    /// The exponent of the length penalty: the score is the sum of log probabilities divided by the
    /// number of tokens to this power.
    pub length_penalty: f32,
    /// The condition under which a row is done.
    pub early_stopping: EarlyStopping,
    /// Whether log probabilities are normalized again after the constraints (`renormalize_logits`).
    pub renormalizes: bool,
}

/// The conditions under which a row with beams is done (`early_stopping` of transformers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As many hypotheses have finished as there are beams (`true`).
    Full,
    /// The best live hypothesis, at its current length, is worse than all finished ones (`false`).
    Heuristic,
    /// The best live hypothesis cannot beat the finished ones at any length up to the limit
    /// (`"never"`).
    Never,
}

impl Beams {
    /// A single beam: beam search is disabled.
    pub const OFF: Self = Self {
        n_beams: 1,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::Heuristic,
        renormalizes: false,
    };

    /// Computes the log probabilities that the search compares from the logits of a row (`[V]`):
    /// log-softmax, then constraints, then optional renormalization. Returns the log-sum-exp of the
    /// logits.
    pub(super) fn log_probs(
        self,
        scores: &[f32],
        log_probs: &mut Vec<f32>,
        constrain: impl FnOnce(&mut [f32]),
    ) -> f64 {
        log_probs.clear();
        log_probs.extend_from_slice(scores);
        let log_sum = normalize(log_probs);
        constrain(log_probs);
        if self.renormalizes {
            normalize(log_probs);
        }
        log_sum
    }
}

/// Subtracts the log-sum-exp and returns it. Leaves the scores unchanged if none is finite.
#[expect(clippy::cast_possible_truncation, reason = "log probabilities are f32 in the reference")]
fn normalize(scores: &mut [f32]) -> f64 {
    let log_sum = log_sum(scores);
    scores.iter_mut().for_each(|score| *score -= log_sum as f32);
    log_sum
}

/// Returns the log-sum-exp; 0 if no score is finite, and NaN if a score is NaN.
pub(super) fn log_sum(scores: &[f32]) -> f64 {
    match reduce::summary(scores) {
        Some(row) => row.log_sum,
        None if scores.iter().any(|score| score.is_nan()) => f64::NAN,
        None => 0.0,
    }
}

/// A candidate for the next token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// The index of the hypothesis that it extends.
    parent: usize,
    token_id: i64,
    score: f32,
    /// The natural log probability of the token under the model.
    logprob: f64,
    /// The natural log probability among the allowed tokens.
    allowed_logprob: f64,
}

/// The log-sum-exps of the scores of a hypothesis.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSums {
    /// Over the logits of the model.
    pub(super) raw: f64,
    /// Over the log probabilities of the search; 0 where it is not needed.
    pub(super) allowed: f64,
}

/// The best candidates of a step over all hypotheses of a row.
#[derive(Debug)]
pub(super) struct Candidates {
    n_max: usize,
    /// Sorted, best first.
    best: Vec<Candidate>,
}

impl Candidates {
    /// Keeps enough candidates that every beam can continue even if all end tokens are among the
    /// best.
    pub(super) fn new(beams: Beams, n_eos: usize) -> Self {
        Self { n_max: beams.n_beams * (n_eos + 1).max(2), best: Vec::new() }
    }

    /// Adds all extensions of a hypothesis, given its score and index, the log probabilities of the
    /// search and the logits of the model.
    pub(super) fn offer(
        &mut self,
        score: f32,
        parent: usize,
        log_probs: &[f32],
        raw: &[f32],
        log_sums: LogSums,
    ) {
        for (token_idx, log_prob) in log_probs.iter().enumerate() {
            let score = score + log_prob;
            let is_full = self.best.len() == self.n_max;
            let beats = |worst: &Candidate| score > worst.score;
            if !score.is_finite() || (is_full && !self.best.last().is_some_and(beats)) {
                continue;
            }
            let at = self.best.partition_point(|other| other.score >= score);
            self.best.truncate(self.n_max - 1);
            let token_id = i64::try_from(token_idx).unwrap_or(i64::MAX);
            let logprob = f64::from(raw[token_idx]) - log_sums.raw;
            let allowed_logprob = f64::from(*log_prob) - log_sums.allowed;
            self.best.insert(at, Candidate { parent, token_id, score, logprob, allowed_logprob });
        }
    }
}

/// Advances a row by one step and returns its result once it is done.
///
/// `check` returns the finish reason of a hypothesis that has ended. The result of a row is `None`
/// if every extension is forbidden.
pub(super) fn advance(
    beams: Beams,
    row: &mut Row,
    candidates: &Candidates,
    check: impl Fn(&[i64]) -> Option<FinishReason>,
) -> Option<Option<Ended>> {
    let n_generated = row.n_generated() + 1;
    let mut live = Vec::with_capacity(beams.n_beams);
    let was_full = row.ended.len() == beams.n_beams;
    for (rank, candidate) in candidates.best.iter().enumerate() {
        let parent = &row.live[candidate.parent];
        let mut token_ids = Vec::with_capacity(parent.token_ids.len() + 1);
        token_ids.extend_from_slice(&parent.token_ids);
        token_ids.push(candidate.token_id);
        let reason = check(&token_ids[row.n_prompt..]);
        let hypothesis = Hypothesis {
            logprob_sum: parent.logprob_sum + candidate.logprob,
            allowed_logprob_sum: parent.allowed_logprob_sum + candidate.allowed_logprob,
            score: candidate.score,
            parent: candidate.parent,
            token_ids,
        };
        match reason {
            None if live.len() < beams.n_beams => live.push(hypothesis),
            None => {}
            // Only the top `n_beams` candidates can finish; the rest only keep enough beams alive.
            Some(reason) if rank < beams.n_beams => {
                let is_closed = was_full && beams.early_stopping == EarlyStopping::Full;
                if row.can_improve && !is_closed {
                    let score = penalized(beams, candidate.score, n_generated);
                    row.ended.push(Ended { score, hypothesis, reason });
                }
            }
            Some(_) => {}
        }
    }
    // The sort is stable: among equal scores, the one that finished first wins.
    row.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
    row.ended.truncate(beams.n_beams);
    row.live = live;

    let is_full = row.ended.len() == beams.n_beams;
    if let (Some(best), Some(worst)) = (row.live.first(), row.ended.last().filter(|_| is_full)) {
        let could_be_longer =
            beams.early_stopping == EarlyStopping::Never && beams.length_penalty > 0.0;
        let length = if could_be_longer { row.max_new_tokens } else { n_generated };
        row.can_improve &= penalized(beams, best.score, length) > worst.score;
    }
    let is_closed = is_full && beams.early_stopping == EarlyStopping::Full;
    let is_done = row.live.is_empty() || !row.can_improve || is_closed;
    is_done.then(|| (!row.ended.is_empty()).then(|| row.ended.swap_remove(0)))
}

#[expect(clippy::cast_precision_loss, reason = "answers have far fewer than 2^24 tokens")]
fn penalized(beams: Beams, score: f32, n_generated: usize) -> f32 {
    score / (n_generated as f32).powf(beams.length_penalty)
}
