//! The published classes of feature extractors, by what they compute.

/// What a feature extractor makes of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AudioFeatures {
    /// A log-mel spectrogram of clips (`WhisperFeatureExtractor`, and where no class is named).
    LogMel,
    /// Samples.
    Samples,
    /// A log-mel spectrogram of one clip, repeated or cut (`ClapFeatureExtractor`).
    RepeatedMel,
    /// Frames of the Universal Speech Model, with a mask.
    Usm,
    /// Frames of which several become one feature, with a mask.
    StackedFrames,
}

/// The known classes; any other is read as the first.
const CLASSES: [(&str, AudioFeatures); 5] = [
    ("WhisperFeatureExtractor", AudioFeatures::LogMel),
    ("Wav2Vec2FeatureExtractor", AudioFeatures::Samples),
    ("ClapFeatureExtractor", AudioFeatures::RepeatedMel),
    ("Gemma3nAudioFeatureExtractor", AudioFeatures::Usm),
    ("Phi4MultimodalFeatureExtractor", AudioFeatures::StackedFrames),
];

impl AudioFeatures {
    /// Returns what a class computes.
    pub(crate) fn from_class(class: Option<&str>) -> Self {
        let known = CLASSES.iter().find(|(name, _)| Some(*name) == class);
        known.map_or(Self::LogMel, |(_, features)| *features)
    }

    /// Returns the class that computes it.
    pub(crate) fn class(self) -> &'static str {
        CLASSES.iter().find(|(_, features)| *features == self).map_or("", |(name, _)| name)
    }
}
