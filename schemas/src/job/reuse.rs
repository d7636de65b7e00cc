//! Which answers need not be computed, because there are answers to the same input.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// Which answers need not be computed, because the same input was answered before. An input is what
/// the model is given, prompt and media; it is the same where every byte of it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// Whether rows of a run with the same input are computed once.
    pub within_run: bool,
    /// The file that keeps answers from run to run, relative to the job file: whatever job asks the
    /// same of the same model finds them there. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The most bytes of that file; of more, the answers that were wanted longest ago go.
    pub max_size: ByteSize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { within_run: true, store: None, max_size: ByteSize::mib(1024) }
    }
}

impl Reuse {
    /// Returns whether nothing was said.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the key that cannot be meant, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let store = self.store.as_deref()?;
        if store.trim().is_empty() || store.contains("://") {
            let problem = format!("is `{store}`: name a file on a local disk, or remove the key");
            return Some(("reuse.store", problem));
        }
        (self.max_size < ByteSize::mib(1))
            .then(|| ("reuse.max_size", format!("is {}: write \"1MiB\" or more", self.max_size)))
    }
}
