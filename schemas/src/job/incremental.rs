//! The choice of source files when earlier runs wrote to the same output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The source files to read when earlier runs wrote to the same output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Incremental {
    /// New files. Answers to other files are kept, even if a file changed or was deleted.
    New,
    /// New and changed files. The output follows the source: answers to deleted files are removed.
    #[default]
    Changed,
    /// All files, once the previous run is complete.
    All,
}
