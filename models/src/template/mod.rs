//! Chat templates with bounded time and memory, even if they are hostile.
//!
//! A chat template is part of a bundle and as untrusted as the bundle. minijinja's fuel counts
//! instructions and most bytes, but ignores nested content: `["x" * 900000] * 7000 | join` counts
//! as one small list but is 6 GB of text. Three layers close this gap:
//!
//! - *fuel* (minijinja): one unit is one instruction, or 64 bytes of new text or lists;
//! - *guards* ([`guards`]): before an operator, filter, test or method reads a list or map, its
//!   nested content must fit into the remaining fuel. [`program`] inserts the guard calls into the
//!   compiled instructions, so a template cannot bypass them;
//! - *source* ([`source`]): sources that could overflow the compiler are rejected, because
//!   compiling takes no fuel.
//!
//! Rendering therefore produces at most a few times `fuel` * 64 bytes: 64 MB of text with a million
//! units, the limit for chat templates. The worst of 70 hostile templates took 0.65 s and 79 MiB.

mod bounded;
mod guards;
mod program;
mod source;
#[cfg(test)]
mod tests;
mod weight;

pub use bounded::BoundedTemplate;
