//! Short names for models of the Hub.

use legenda_schemas::job::TaskKind;

use super::HubRepo;

/// A model of the Hub with a short name.
///
/// None of them has been fetched and run by the tests of this repository, which have no access to the Hub;
/// their architectures are tested with small models of the same layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// The short name.
    pub name: &'static str,
    /// The repository, `owner/name`.
    pub repo: &'static str,
    /// The branch, tag or commit. `main` is the newest version; its commit is in the answers.
    pub revision: &'static str,
    /// The number of parameters, as published.
    pub parameters: &'static str,
    /// The licence of the weights, as published; the model card is binding.
    pub licence: &'static str,
    /// The tasks.
    pub tasks: &'static [TaskKind],
    /// What it is good at.
    pub good_at: &'static str,
}

const SEES: &[TaskKind] = &[TaskKind::Caption, TaskKind::Answer, TaskKind::Generate];
const CAPTIONS: &[TaskKind] = &[TaskKind::Caption];
const HEARS: &[TaskKind] = &[TaskKind::Transcribe];
const READS: &[TaskKind] = &[TaskKind::Answer, TaskKind::Generate];
const EMBEDS: &[TaskKind] = &[TaskKind::Embed];

const fn known(
    name: &'static str,
    repo: &'static str,
    parameters: &'static str,
    licence: &'static str,
    tasks: &'static [TaskKind],
    good_at: &'static str,
) -> KnownModel {
    KnownModel { name, repo, revision: HubRepo::MAIN, parameters, licence, tasks, good_at }
}

/// The models with a short name.
pub const KNOWN_MODELS: &[KnownModel] = &[
    known(
        "smolvlm",
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "256M",
        "Apache-2.0",
        SEES,
        "captions and questions about images on a CPU",
    ),
    known(
        "smolvlm-500m",
        "HuggingFaceTB/SmolVLM-500M-Instruct",
        "500M",
        "Apache-2.0",
        SEES,
        "the same, more accurate",
    ),
    known(
        "florence-2",
        "onnx-community/Florence-2-base-ft",
        "230M",
        "MIT",
        CAPTIONS,
        "captions, text in images (OCR), objects and their regions",
    ),
    known(
        "vit-gpt2",
        "Xenova/vit-gpt2-image-captioning",
        "239M",
        "Apache-2.0",
        CAPTIONS,
        "short captions",
    ),
    known(
        "whisper-tiny.en",
        "onnx-community/whisper-tiny.en",
        "39M",
        "Apache-2.0",
        HEARS,
        "fast transcripts and subtitles of English",
    ),
    known(
        "whisper-tiny",
        "onnx-community/whisper-tiny",
        "39M",
        "Apache-2.0",
        HEARS,
        "fast transcripts and subtitles in many languages",
    ),
    known(
        "whisper-base",
        "onnx-community/whisper-base",
        "74M",
        "Apache-2.0",
        HEARS,
        "transcripts and subtitles in many languages",
    ),
    known(
        "whisper-small",
        "onnx-community/whisper-small",
        "244M",
        "Apache-2.0",
        HEARS,
        "the same, more accurate",
    ),
    known(
        "whisper-large-v3-turbo",
        "onnx-community/whisper-large-v3-turbo",
        "809M",
        "MIT",
        HEARS,
        "accurate transcripts and subtitles, with a GPU",
    ),
    known(
        "moonshine-tiny",
        "onnx-community/moonshine-tiny-ONNX",
        "27M",
        "MIT",
        HEARS,
        "the fastest transcripts of English; no timestamps",
    ),
    known(
        "moonshine-base",
        "onnx-community/moonshine-base-ONNX",
        "62M",
        "MIT",
        HEARS,
        "fast transcripts of English; no timestamps",
    ),
    known(
        "smollm2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M",
        "Apache-2.0",
        READS,
        "short questions about texts",
    ),
    known(
        "minilm",
        "Xenova/all-MiniLM-L6-v2",
        "23M",
        "Apache-2.0",
        EMBEDS,
        "embeddings of English sentences, 384 dimensions",
    ),
    known(
        "bge-small",
        "Xenova/bge-small-en-v1.5",
        "33M",
        "MIT",
        EMBEDS,
        "embeddings of English texts for search, 384 dimensions",
    ),
    known(
        "e5-small",
        "Xenova/multilingual-e5-small",
        "118M",
        "MIT",
        EMBEDS,
        "embeddings of texts in many languages, 384 dimensions",
    ),
    known(
        "clip",
        "Xenova/clip-vit-base-patch32",
        "151M",
        "not stated",
        EMBEDS,
        "embeddings of images and texts in one space, 512 dimensions",
    ),
    known(
        "siglip",
        "Xenova/siglip-base-patch16-224",
        "203M",
        "Apache-2.0",
        EMBEDS,
        "embeddings of images and texts in one space, 768 dimensions",
    ),
    known(
        "clap",
        "Xenova/clap-htsat-unfused",
        "153M",
        "Apache-2.0",
        EMBEDS,
        "embeddings of audio and texts in one space, 512 dimensions",
    ),
];

impl KnownModel {
    /// Returns the model with this short name, if there is one.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KNOWN_MODELS.iter().find(|known| known.name == name)
    }

    /// Returns the name for `model.bundle` that the short name stands for.
    #[must_use]
    pub fn uri(&self) -> String {
        match self.revision {
            HubRepo::MAIN => format!("{}{}", HubRepo::SCHEME, self.repo),
            revision => format!("{}{}@{revision}", HubRepo::SCHEME, self.repo),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HubRepo, KNOWN_MODELS, KnownModel};

    #[test]
    fn every_short_name_is_unique_and_names_a_model_of_the_hub() {
        for (idx, known) in KNOWN_MODELS.iter().enumerate() {
            assert!(KNOWN_MODELS[..idx].iter().all(|other| other.name != known.name));
            let repo: HubRepo = known.uri().parse().unwrap();
            assert_eq!((repo.name(), repo.folder()), (known.repo, None));
            assert!(!known.tasks.is_empty());
        }
        assert_eq!(KnownModel::find("minilm").unwrap().uri(), "hf://Xenova/all-MiniLM-L6-v2");
        assert_eq!(KnownModel::find("Minilm"), None);
    }
}
