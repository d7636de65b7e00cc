//! Answers of a declared form: which tokens may follow, and how to end an answer early.
//!
//! A form is compiled to one automaton over bytes ([`Automaton`]). The mask of a step is the set of tokens of
//! the vocabulary whose bytes the automaton accepts ([`Grammar::mask`]), and the same automaton knows the
//! shortest text that completes an answer, so that an answer near its token limit is closed in time. The crate
//! `toktrie` walks the vocabulary.

mod automaton;
mod compile;
mod error;
mod frame;
mod grammar;
mod number;
mod pattern;
#[cfg(test)]
mod tests;
mod walk;

pub use automaton::{Automaton, State};
pub use error::GrammarError;
pub use grammar::{Grammar, TokenBytes};
