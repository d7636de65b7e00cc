//! A form over the tokens of a model.

use std::{collections::HashMap, fmt, sync::Arc};

use toktrie::{SimpleVob, TokRxInfo, TokTrie};

use super::{
    Automaton, GrammarError, State,
    walk::{Visited, Walk},
};

/// The maximum number of masks that are kept. One of 150,000 tokens takes 19 KiB.
const MASKS_MAX: usize = 512;

/// The bytes of the tokens of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBytes {
    /// The bytes of each token, by id; none if the token is not text.
    pub tokens: Vec<Vec<u8>>,
    /// Whether a text begins with a space that is not part of it.
    pub has_leading_space: bool,
}

/// A form over the tokens of a model, with the masks of states that have occurred.
#[derive(Clone)]
pub struct Grammar {
    automaton: Automaton,
    trie: TokTrie,
    eos_token_ids: Vec<i64>,
    has_leading_space: bool,
    visited: Visited,
    masks: HashMap<State, Arc<SimpleVob>>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar")
            .field("automaton", &self.automaton)
            .field("tokens", &self.trie.vocab_size())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        self.automaton == other.automaton && self.eos_token_ids == other.eos_token_ids
    }
}

impl Grammar {
    /// Creates a grammar over a vocabulary.
    ///
    /// # Errors
    ///
    /// [`GrammarError`] if there is no end token or the vocabulary cannot write the shortest answer.
    pub fn new(
        automaton: Automaton,
        vocabulary: &TokenBytes,
        eos_token_ids: Vec<i64>,
    ) -> Result<Self, GrammarError> {
        let tokenizer = |problem: &str| GrammarError::Tokenizer { problem: problem.to_owned() };
        let vocab_size = u32::try_from(vocabulary.tokens.len())
            .map_err(|_| tokenizer("its vocabulary is too large"))?;
        let first_eos = eos_token_ids.first().and_then(|id| u32::try_from(*id).ok());
        let Some(first_eos) = first_eos.filter(|_| vocab_size > 0) else {
            return Err(tokenizer("it has no end token"));
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, first_eos), &vocabulary.tokens);
        let grammar = Self {
            automaton,
            trie,
            eos_token_ids,
            has_leading_space: vocabulary.has_leading_space,
            visited: Visited::default(),
            masks: HashMap::new(),
        };
        let start = grammar.start();
        if grammar.closing(&start).is_none() {
            let shortest = grammar.automaton.rest(&start);
            let text = String::from_utf8_lossy(&shortest).into_owned();
            return Err(GrammarError::Unwritable { text });
        }
        Ok(grammar)
    }

    /// Returns the state of an empty answer.
    #[must_use]
    pub fn start(&self) -> State {
        self.automaton.start(self.has_leading_space)
    }

    /// Returns the state after a token; `None` if the token is not valid. An end token changes nothing.
    #[must_use]
    pub fn after(&self, state: &State, token_id: i64) -> Option<State> {
        if self.eos_token_ids.contains(&token_id) {
            return self.automaton.is_complete(state).then(|| state.clone());
        }
        let bytes = self.bytes(token_id)?;
        bytes.iter().try_fold(state.clone(), |state, byte| self.automaton.step(&state, *byte))
    }

    /// Sets the scores of tokens that are not valid to -inf.
    pub fn mask(&mut self, state: &State, scores: &mut [f32]) {
        let mask = self.valid(state);
        let words = mask.as_slice();
        for (idx, score) in scores.iter_mut().enumerate() {
            let is_valid = words.get(idx / 32).is_some_and(|word| word >> (idx % 32) & 1 == 1);
            if !is_valid {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    fn valid(&mut self, state: &State) -> Arc<SimpleVob> {
        let state = &self.automaton.equivalent(state, self.trie.max_token_len());
        if let Some(mask) = self.masks.get(state) {
            return Arc::clone(mask);
        }
        let mut mask = self.trie.alloc_token_set();
        let mut walk = Walk::new(&self.automaton, &mut self.visited, state);
        self.trie.add_bias(&mut walk, &mut mask, &[]);
        if self.automaton.is_complete(state) {
            for id in self.eos_token_ids.iter().filter_map(|id| u32::try_from(*id).ok()) {
                if (id as usize) < self.trie.vocab_size() {
                    mask.allow_token(id);
                }
            }
        }
        if self.masks.len() == MASKS_MAX {
            self.masks.clear();
        }
        let mask = Arc::new(mask);
        self.masks.insert(state.clone(), Arc::clone(&mask));
        mask
    }

    /// Returns the tokens that complete an answer, end token included; `None` if the vocabulary lacks a byte.
    #[must_use]
    pub fn closing(&self, state: &State) -> Option<Vec<i64>> {
        let rest = self.automaton.rest(state);
        let token_ids = self.trie.greedy_tokenize(&rest);
        let n_bytes: usize = token_ids.iter().map(|id| self.trie.token_len(*id)).sum();
        // The trie skips bytes that no token has.
        if n_bytes != rest.len() {
            return None;
        }
        let end = self.eos_token_ids.first().copied();
        Some(token_ids.into_iter().map(i64::from).chain(end).collect())
    }

    /// Returns the text of an answer.
    #[must_use]
    pub fn text(&self, token_ids: &[i64]) -> String {
        let bytes: Vec<u8> =
            token_ids.iter().filter_map(|id| self.bytes(*id)).flatten().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        match text.strip_prefix(' ') {
            Some(text) if self.has_leading_space => text.to_owned(),
            _ => text.into_owned(),
        }
    }

    /// Returns the bytes of a token; `None` if it is not text.
    fn bytes(&self, token_id: i64) -> Option<&[u8]> {
        let id =
            u32::try_from(token_id).ok().filter(|id| (*id as usize) < self.trie.vocab_size())?;
        Some(self.trie.token(id)).filter(|bytes| !bytes.is_empty())
    }
}
