//! The automaton of a form: which bytes may follow, and how an answer ends soonest.

use std::sync::Arc;

use legenda_schemas::answer::Form;

use super::{
    GrammarError,
    compile::{Node, nodes_of},
    frame::{Frame, Move},
};

/// A compiled form.
#[derive(Clone, Debug)]
pub struct Automaton {
    nodes: Arc<[Node]>,
    form: Form,
}

/// What is written of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// From the whole answer inwards; the last frame is the innermost value.
    frames: Vec<Frame>,
}

impl PartialEq for Automaton {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

impl Automaton {
    /// Compiles a form.
    ///
    /// # Errors
    ///
    /// [`GrammarError::Regex`] if a regular expression is invalid, too large or matches nothing.
    pub fn new(form: &Form) -> Result<Self, GrammarError> {
        Ok(Self { nodes: nodes_of(form)?.into(), form: form.clone() })
    }

    /// Returns the state of an empty answer. With `takes_space`, one space may precede the answer.
    #[must_use]
    pub fn start(&self, takes_space: bool) -> State {
        let mut frames = vec![Frame::Begin { node: self.nodes.len() - 1 }];
        if takes_space {
            frames.push(Frame::Space);
        }
        State { frames }
    }

    /// Returns the state after a byte; `None` if no valid answer continues so.
    #[must_use]
    pub fn step(&self, state: &State, byte: u8) -> Option<State> {
        let mut frames = state.frames.clone();
        loop {
            let last = frames.last_mut()?;
            match last.after(&self.nodes, byte) {
                Move::To(frame) => *last = frame,
                Move::End => {
                    frames.pop();
                }
                Move::EndBefore => {
                    frames.pop();
                    continue;
                }
                Move::Inside(frame, node) => {
                    *last = frame;
                    frames.push(Frame::Begin { node });
                }
                Move::InsideWith(frame, node) => {
                    *last = frame;
                    frames.push(Frame::Begin { node });
                    continue;
                }
                Move::Invalid => return None,
            }
            return Some(State { frames });
        }
    }

    /// Returns a state from which texts of up to `n_bytes` continue as from this one. Within long strings, many
    /// states have the same.
    pub(super) fn equivalent(&self, state: &State, n_bytes: usize) -> State {
        let mut frames = state.frames.clone();
        if let Some(last) = frames.last_mut() {
            *last = last.equivalent(&self.nodes, n_bytes);
        }
        State { frames }
    }

    /// Returns whether the answer is valid as it is.
    #[must_use]
    pub fn is_complete(&self, state: &State) -> bool {
        state.frames.iter().all(|frame| frame.may_end(&self.nodes))
    }

    /// Returns a short text that completes the answer; the shortest, except that `null` is preferred where it
    /// is valid.
    #[must_use]
    pub fn rest(&self, state: &State) -> Vec<u8> {
        let mut rest = Vec::new();
        for frame in state.frames.iter().rev() {
            frame.finish(&self.nodes, &mut rest);
        }
        rest
    }

    /// Returns whether a whole text is a valid answer.
    #[must_use]
    pub fn accepts(&self, text: &str) -> bool {
        let state = text.bytes().try_fold(self.start(false), |state, byte| self.step(&state, byte));
        state.is_some_and(|state| self.is_complete(&state))
    }
}
