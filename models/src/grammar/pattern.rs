//! Regular expressions as automata over bytes, with the distance of each state to a match.

use std::{collections::VecDeque, fmt};

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start},
};

use super::GrammarError;

/// The maximum memory of an automaton.
const SIZE_MAX: usize = 8 << 20;

/// The maximum memory for its construction.
const CONSTRUCTION_MAX: usize = 64 << 20;

/// The distance of a state from which no match can be reached.
const UNREACHABLE: u32 = u32::MAX;

/// A regular expression that a text matches as a whole.
#[derive(Clone)]
pub(super) struct Pattern {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    /// The number of bytes from each state to a match.
    distances: Vec<u32>,
    /// Whether the text is the inside of a JSON string without escapes.
    is_quoted: bool,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pattern").field("states", &self.distances.len()).finish_non_exhaustive()
    }
}

impl Pattern {
    /// Compiles a regular expression.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Regex`].
    pub(super) fn new(regex: &str, is_quoted: bool) -> Result<Self, GrammarError> {
        let failed = |source| GrammarError::Regex { regex: regex.to_owned(), source };
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(SIZE_MAX))
            .determinize_size_limit(Some(CONSTRUCTION_MAX));
        let dfa = dense::Builder::new()
            .configure(config)
            .thompson(thompson::Config::new().nfa_size_limit(Some(SIZE_MAX)))
            .build(regex)
            .map_err(|error| failed(Box::new(error).into()))?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|error| failed(Box::new(error).into()))?;
        let mut pattern = Self { dfa, start, distances: Vec::new(), is_quoted };
        pattern.distances = pattern.measured();
        if pattern.distance(start) == UNREACHABLE {
            return Err(failed("no text matches it".into()));
        }
        Ok(pattern)
    }

    /// Returns the expression of a text of which any part matches `regex`.
    pub(super) fn anywhere(regex: &str) -> String {
        format!("(?s:.)*(?:{regex})(?s:.)*")
    }

    /// Returns the state before the first byte.
    pub(super) fn start(&self) -> StateID {
        self.start
    }

    /// Returns the state after a byte, if a match is still possible.
    pub(super) fn step(&self, state: StateID, byte: u8) -> Option<StateID> {
        let next = self.next(state, byte)?;
        (self.distance(next) != UNREACHABLE).then_some(next)
    }

    /// Returns whether the text so far matches.
    pub(super) fn is_match(&self, state: StateID) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }

    /// Returns the number of bytes that a match still needs.
    pub(super) fn distance(&self, state: StateID) -> u32 {
        self.distances.get(self.idx(state)).copied().unwrap_or(UNREACHABLE)
    }

    /// Returns the shortest text that completes a match.
    pub(super) fn rest(&self, mut state: StateID) -> Vec<u8> {
        let mut rest = Vec::new();
        while self.distance(state) > 0 {
            let closer = (0..=u8::MAX).find_map(|byte| {
                let next = self.step(state, byte)?;
                (self.distance(next) < self.distance(state)).then_some((byte, next))
            });
            let Some((byte, next)) = closer else { break };
            rest.push(byte);
            state = next;
        }
        rest
    }

    fn next(&self, state: StateID, byte: u8) -> Option<StateID> {
        let is_escaped = byte < 0x20 || byte == b'"' || byte == b'\\';
        if self.is_quoted && is_escaped {
            return None;
        }
        let next = self.dfa.next_state(state, byte);
        (!self.dfa.is_dead_state(next) && !self.dfa.is_quit_state(next)).then_some(next)
    }

    fn idx(&self, state: StateID) -> usize {
        state.as_usize() >> self.dfa.stride2()
    }

    /// Measures the distance of each state: backwards, from the states that match.
    fn measured(&self) -> Vec<u32> {
        let mut states = vec![self.start];
        let mut sources: Vec<Vec<StateID>> = Vec::new();
        let mut is_known: Vec<bool> = Vec::new();
        let grow = |list: &mut Vec<bool>, idx: usize| {
            if list.len() <= idx {
                list.resize(idx + 1, false);
            }
        };
        grow(&mut is_known, self.idx(self.start));
        is_known[self.idx(self.start)] = true;
        let mut at = 0;
        while let Some(state) = states.get(at).copied() {
            at += 1;
            for byte in 0..=u8::MAX {
                let Some(next) = self.next(state, byte) else { continue };
                let idx = self.idx(next);
                grow(&mut is_known, idx);
                if sources.len() <= idx {
                    sources.resize(idx + 1, Vec::new());
                }
                if sources[idx].last() != Some(&state) {
                    sources[idx].push(state);
                }
                if !is_known[idx] {
                    is_known[idx] = true;
                    states.push(next);
                }
            }
        }
        let mut distances = vec![UNREACHABLE; is_known.len()];
        let mut queue: VecDeque<StateID> =
            states.into_iter().filter(|state| self.is_match(*state)).collect();
        for state in &queue {
            distances[self.idx(*state)] = 0;
        }
        while let Some(state) = queue.pop_front() {
            let distance = distances[self.idx(state)] + 1;
            for source in sources.get(self.idx(state)).into_iter().flatten() {
                if distances[self.idx(*source)] == UNREACHABLE {
                    distances[self.idx(*source)] = distance;
                    queue.push_back(*source);
                }
            }
        }
        distances
    }
}
