//! The automaton as `toktrie` walks it: numbered states, each step computed once.

use std::collections::HashMap;

use toktrie::Recognizer;

use super::{Automaton, State};

/// The maximum number of numbered states. Each takes 1 KiB.
const STATES_MAX: usize = 8_192;

/// A step that has not been computed.
const UNKNOWN: u32 = u32::MAX;
/// A step that leads nowhere.
const NOWHERE: u32 = u32::MAX - 1;

/// The states that were visited, and the steps between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Visited {
    states: Vec<State>,
    numbers: HashMap<State, u32>,
    steps: Vec<[u32; 256]>,
}

impl Visited {
    /// Makes space for the states of another walk.
    fn trim(&mut self) {
        if self.states.len() > STATES_MAX {
            *self = Self::default();
        }
    }

    fn number(&mut self, state: State) -> u32 {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = u32::try_from(self.states.len()).unwrap_or(NOWHERE);
        self.states.push(state.clone());
        self.numbers.insert(state, number);
        self.steps.push([UNKNOWN; 256]);
        number
    }

    fn step(&mut self, automaton: &Automaton, number: u32, byte: u8) -> Option<u32> {
        let (from, at) = (number as usize, usize::from(byte));
        let mut next = self.steps[from][at];
        if next == UNKNOWN {
            let state = automaton.step(&self.states[from], byte);
            next = state.map_or(NOWHERE, |state| self.number(state));
            self.steps[from][at] = next;
        }
        (next != NOWHERE).then_some(next)
    }
}

/// A walk through the vocabulary from one state.
pub(super) struct Walk<'a> {
    automaton: &'a Automaton,
    visited: &'a mut Visited,
    stack: Vec<u32>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(automaton: &'a Automaton, visited: &'a mut Visited, state: &State) -> Self {
        visited.trim();
        let stack = vec![visited.number(state.clone())];
        Self { automaton, visited, stack }
    }
}

impl Recognizer for Walk<'_> {
    fn pop_bytes(&mut self, num: usize) {
        self.stack.truncate(self.stack.len() - num);
    }

    fn collapse(&mut self) {
        self.stack.drain(..self.stack.len() - 1);
    }

    fn trie_finished(&mut self) {
        self.stack.truncate(1);
    }

    fn try_push_byte(&mut self, byte: u8) -> bool {
        let last = self.stack[self.stack.len() - 1];
        match self.visited.step(self.automaton, last, byte) {
            Some(next) => {
                self.stack.push(next);
                true
            }
            None => false,
        }
    }
}
