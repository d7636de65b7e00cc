//! Reuse of answers for identical inputs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// Reuse of answers for identical inputs. An input is the prompt and the media; inputs are identical if all
/// their bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// Whether to deduplicate rows with the same input within a run.
    pub within_run: bool,
    /// A file, relative to the job file, that caches answers across runs. Jobs with the same model and
    /// options can share it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The maximum size of the store; beyond this, the least recently used answers are evicted.
    pub max_size: ByteSize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { within_run: true, store: None, max_size: ByteSize::mib(1024) }
    }
}

impl Reuse {
    /// Returns whether all options have their defaults.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the first invalid key and its problem.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let store = self.store.as_deref()?;
        if store.trim().is_empty() || store.contains("://") {
            let problem = format!("must be a path on a local disk, got `{store}`");
            return Some(("reuse.store", problem));
        }
        (self.max_size < ByteSize::mib(1))
            .then(|| ("reuse.max_size", format!("must be at least 1MiB, got {}", self.max_size)))
    }
}
