//! Around a run: looks at tables, jobs and outputs, and batch files of the OpenAI API as jobs.

pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod first_row;
pub(crate) mod inspect;
pub(crate) mod openai;
pub(crate) mod preview;
pub(crate) mod verify;
