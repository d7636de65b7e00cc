//! The files that say how media are prepared.

use serde_json::Value;

use super::BundleFiles;
use crate::config::BundleError;

/// The files that configure media preprocessing: sections of the first, or else the second.
const PROCESSOR_FILES: [&str; 2] = ["processor_config.json", "preprocessor_config.json"];
const PROCESSOR_PARTS: [&str; 2] = ["image_processor", "feature_extractor"];

impl BundleError {
    /// Corrects the file and key of an error to those that configure media preprocessing.
    pub(crate) fn in_processor_files(mut self, files: &BundleFiles) -> Self {
        let read = |file: &str| files.json_if_there::<Value>(file).ok().flatten();
        let has_parts =
            |config: &Value| PROCESSOR_PARTS.iter().any(|part| config[*part].is_object());
        let [whole, alone] = PROCESSOR_FILES.map(read);
        let (actual, is_at_root) = match (whole, alone) {
            (Some(whole), _) if has_parts(&whole) => (PROCESSOR_FILES[0], false),
            (_, Some(alone)) => (PROCESSOR_FILES[1], !has_parts(&alone)),
            _ => return self,
        };
        match &mut self {
            Self::UnsupportedOption { file, key, .. } if PROCESSOR_FILES.contains(file) => {
                *file = actual;
                let mut parts = PROCESSOR_PARTS.iter().filter(|_| is_at_root);
                if let Some(rest) = parts.find_map(|part| key.strip_prefix(part)?.strip_prefix('.'))
                {
                    *key = rest.to_owned();
                }
            }
            Self::Inconsistent { file, .. } if PROCESSOR_FILES.contains(file) => *file = actual,
            _ => {}
        }
        self
    }
}
