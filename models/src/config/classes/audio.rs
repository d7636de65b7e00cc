//! The published classes of feature extractors, by the features that they compute.

/// The kinds of audio features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AudioFeatures {
    /// A log-mel spectrogram of clips (`WhisperFeatureExtractor`, and the default if no class is
    /// named).
    LogMel,
    /// Raw samples.
    Samples,
    /// A log-mel spectrogram of one clip, repeated or truncated (`ClapFeatureExtractor`).
    RepeatedMel,
    /// Frames of the Universal Speech Model, with a mask.
    Usm,
    /// Frames that are stacked into features, with a mask.
    StackedFrames,
}

/// The known classes. Any other class is read as the first one.
const CLASSES: [(&str, AudioFeatures); 5] = [
    ("WhisperFeatureExtractor", AudioFeatures::LogMel),
    ("Wav2Vec2FeatureExtractor", AudioFeatures::Samples),
    ("ClapFeatureExtractor", AudioFeatures::RepeatedMel),
    ("Gemma3nAudioFeatureExtractor", AudioFeatures::Usm),
    ("Phi4MultimodalFeatureExtractor", AudioFeatures::StackedFrames),
];

impl AudioFeatures {
    /// Returns the features that a class computes.
    pub(crate) fn from_class(class: Option<&str>) -> Self {
        let known = CLASSES.iter().find(|(name, _)| Some(*name) == class);
        known.map_or(Self::LogMel, |(_, features)| *features)
    }

    /// Returns the class that computes these features.
    pub(crate) fn class(self) -> &'static str {
        CLASSES.iter().find(|(_, features)| *features == self).map_or("", |(name, _)| name)
    }
}
