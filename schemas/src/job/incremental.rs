//! What a run does again of what earlier runs have done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which files of the source a run reads when earlier runs have written to the same output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Incremental {
    /// Those that are new; answers to others stay, even where a file has changed or gone.
    New,
    /// Those that are new or have changed; the output follows the source, so answers to files that
    /// have gone go too.
    #[default]
    Changed,
    /// All of them, once the run before is whole.
    All,
}
