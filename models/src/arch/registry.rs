//! Finds the architecture that a bundle's configs declare.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, EmbeddingSpec, GenaiModel, StartScheme, Wiring, audio_llm, causal, embed,
    seq2seq, vlm,
};

/// All architectures, in the order in which they are listed.
static ALL: [&Architecture; 23] = [
    &vlm::LEGENDA,
    &vlm::LLAVA,
    &vlm::IDEFICS3,
    &vlm::PALIGEMMA,
    &vlm::GEMMA3,
    &vlm::GEMMA3N,
    &vlm::QWEN2_VL,
    &vlm::PHI4_MM,
    &audio_llm::ULTRAVOX,
    &audio_llm::VOXTRAL,
    &causal::CAUSAL,
    &seq2seq::TEXT,
    &seq2seq::IMAGE_CAPTIONER,
    &seq2seq::DONUT,
    &seq2seq::BLIP,
    &seq2seq::FLORENCE2,
    &seq2seq::WHISPER,
    &seq2seq::MOONSHINE,
    &embed::SENTENCE,
    &embed::CLIP,
    &embed::SIGLIP,
    &embed::OTHER_DUAL,
    &embed::CLAP,
];

/// The keys of `config.json` that determine the architecture, and with it the other keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Declaration {
    architectures: Vec<String>,
    model_type: String,
    pub(crate) is_encoder_decoder: bool,
    encoder: Value,
}

impl Declaration {
    /// Returns the declaration of an architecture with this name.
    pub(crate) fn new(name: String, is_encoder_decoder: bool) -> Self {
        Self { architectures: vec![name], is_encoder_decoder, ..Self::default() }
    }

    /// Returns the first entry of `architectures`, or the model type if there is none.
    pub(crate) fn name(&self) -> &str {
        self.architectures.first().unwrap_or(&self.model_type)
    }

    fn is_named_in(&self, architecture: &Architecture) -> bool {
        architecture.names.exact.contains(&self.name())
    }

    /// Returns whether the encoder matches the one that the architecture requires, if any.
    fn has_encoder_of(&self, architecture: &Architecture) -> bool {
        let own = self.encoder["model_type"].as_str().unwrap_or_default();
        architecture.names.encoder.is_none_or(|encoder| own.contains(encoder))
    }

    fn ends_as(&self, architecture: &Architecture) -> bool {
        let is_declared = architecture.seq2seq().is_none() || self.is_encoder_decoder;
        let mut suffixes = architecture.names.suffixes.iter();
        is_declared && suffixes.any(|suffix| self.name().ends_with(suffix))
    }
}

/// Returns the architecture of a generative model. Exact names take precedence over suffixes.
pub(crate) fn find(declaration: &Declaration) -> Option<&'static Architecture> {
    let generating = || ALL.iter().filter(|one| !matches!(one.wiring, Wiring::Embedding(_)));
    // Among architectures of the same name, the one that requires an encoder takes precedence.
    let exact = generating()
        .filter(|one| declaration.is_named_in(one) && declaration.has_encoder_of(one))
        .max_by_key(|one| one.names.encoder.is_some());
    exact.or_else(|| generating().find(|one| declaration.ends_as(one))).copied()
}

/// Returns the architecture of a `model.type` of onnxruntime-genai, and the keys missing from that
/// layout.
pub(crate) fn find_genai(
    model_type: &str,
    has_embedding: bool,
) -> Option<(&'static Architecture, &'static GenaiModel)> {
    let is_meant = |model: &&GenaiModel| {
        model.model_type == model_type && (has_embedding || !model.needs_embedding)
    };
    ALL.iter().find_map(|one| one.genai.iter().find(is_meant).map(|model| (*one, model)))
}

/// Returns the architecture of sentence encoders.
pub(crate) fn sentence_encoder() -> &'static Architecture {
    &embed::SENTENCE
}

/// Returns the architecture of dual encoders of images and text.
pub(crate) fn image_dual_encoder(model_type: &str) -> &'static Architecture {
    let is_meant =
        |one: &&&Architecture| is_dual(one, "image") && one.names.exact.contains(&model_type);
    ALL.iter().find(is_meant).copied().unwrap_or(&embed::OTHER_DUAL)
}

/// Returns the architecture of dual encoders of audio and text, if the name is known.
pub(crate) fn audio_dual_encoder(name: &str) -> Option<&'static Architecture> {
    let is_meant = |one: &&&Architecture| is_dual(one, "audio") && one.names.exact.contains(&name);
    ALL.iter().find(is_meant).copied()
}

fn is_dual(architecture: &Architecture, modality: &str) -> bool {
    match architecture.wiring {
        Wiring::Embedding(EmbeddingSpec::Dual(dual)) => dual.modality == modality,
        _ => false,
    }
}

/// Returns all architectures in listing order.
pub(crate) fn supported() -> impl Iterator<Item = &'static Architecture> {
    ALL.into_iter()
}

/// Returns the models that are prompted with a language and a task token.
pub(crate) fn speech_models() -> String {
    let is_speech =
        |one: &&Architecture| one.seq2seq().is_some_and(|spec| spec.start == StartScheme::Speech);
    supported().filter(is_speech).map(|one| one.models).collect::<Vec<_>>().join(", ")
}

/// Returns the names of the supported models for error messages.
pub(crate) fn supported_models() -> String {
    let named = |one: &Architecture| {
        let suffixes: Vec<String> =
            one.names.suffixes.iter().map(|suffix| format!("…{suffix}")).collect();
        match suffixes.as_slice() {
            [] => one.models.to_owned(),
            _ => format!("{} ({})", one.models, suffixes.join(", ")),
        }
    };
    supported().map(named).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn models(config: Value) -> Option<&'static str> {
        find(&serde_json::from_value(config).unwrap()).map(|one| one.models)
    }

    #[test]
    fn every_exact_name_finds_its_architecture() {
        for one in supported().filter(|one| !matches!(one.wiring, Wiring::Embedding(_))) {
            for name in one.names.exact {
                let encoder = json!({ "model_type": one.names.encoder });
                let declared = json!({ "architectures": [name], "encoder": encoder });
                assert_eq!(models(declared), Some(one.models), "{name}");
                let declared = json!({ "model_type": name, "encoder": encoder });
                assert_eq!(models(declared), Some(one.models), "{name}");
            }
        }
    }

    #[test]
    fn suffixes_match_unknown_names() {
        let ends = |name: &str| models(json!({ "architectures": [name] }));
        assert_eq!(ends("LlamaForCausalLM"), Some(causal::CAUSAL.models));
        assert_eq!(ends("GPT2LMHeadModel"), Some(causal::CAUSAL.models));
        assert_eq!(ends("T5ForConditionalGeneration"), None);
        assert_eq!(ends("BertModel"), None, "it does not generate");
        let t5 =
            json!({ "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true });
        assert_eq!(models(t5), Some(seq2seq::TEXT.models));
    }

    #[test]
    fn architectures_of_one_name_differ_by_encoder() {
        let with = |encoder: &str| {
            let encoder = json!({ "model_type": encoder });
            models(json!({ "architectures": ["VisionEncoderDecoderModel"], "encoder": encoder }))
        };
        assert_eq!(with("donut-swin"), Some(seq2seq::DONUT.models));
        assert_eq!(with("vit"), Some(seq2seq::IMAGE_CAPTIONER.models));
    }

    #[test]
    fn a_genai_type_without_an_embedding_graph_is_a_text_decoder() {
        let name = |model_type, has_embedding| {
            find_genai(model_type, has_embedding).map(|(_, model)| model.name)
        };
        assert_eq!(name("gemma3", true), Some("Gemma3ForConditionalGeneration"));
        assert_eq!(name("gemma3", false), None);
        assert_eq!(name("whisper", false), Some("WhisperForConditionalGeneration"));
    }

    #[test]
    fn a_dual_encoder_is_found_by_its_model_type() {
        assert_eq!(image_dual_encoder("siglip").models, embed::SIGLIP.models);
        assert_eq!(image_dual_encoder("chinese_clip").models, embed::OTHER_DUAL.models);
        assert!(audio_dual_encoder("ClapModel").is_some());
        assert!(audio_dual_encoder("CLIPModel").is_none());
    }
}
