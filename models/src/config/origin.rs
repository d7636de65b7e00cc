//! The place that a config was read from, for errors about it.

use super::BundleError;

/// The file that has the configs of media as sections, in the newest layout.
const SECTIONS: &str = "processor_config.json";

/// The file, and the section of it, that the config of a medium was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfigOrigin {
    file: &'static str,
    /// `None` if the config is the whole file.
    section: Option<&'static str>,
}

impl ConfigOrigin {
    /// The config is a whole file.
    pub(crate) const fn file(file: &'static str) -> Self {
        Self { file, section: None }
    }

    /// The config is a section of a file.
    pub(crate) const fn section(file: &'static str, section: &'static str) -> Self {
        Self { file, section: Some(section) }
    }

    /// Returns the origin of an image processor in the newest layout.
    pub(super) const fn image_processor() -> Self {
        Self::section(SECTIONS, "image_processor")
    }

    /// Returns the origin of a feature extractor in the newest layout.
    pub(super) const fn feature_extractor() -> Self {
        Self::section(SECTIONS, "feature_extractor")
    }

    /// Returns the error for an unsupported value of a key of this config.
    pub(crate) fn unsupported(
        self,
        key: &str,
        value: impl Into<String>,
        supported: impl Into<String>,
    ) -> BundleError {
        BundleError::UnsupportedOption {
            file: self.file,
            key: match self.section {
                Some(section) => format!("{section}.{key}"),
                None => key.to_owned(),
            },
            value: value.into(),
            supported: supported.into(),
        }
    }

    /// Returns the error for keys of this config that contradict each other.
    pub(crate) fn inconsistent(self, problem: impl Into<String>) -> BundleError {
        BundleError::Inconsistent { file: self.file, problem: problem.into() }
    }
}
