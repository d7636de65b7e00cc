//! `genai_config.json`, the only config of onnxruntime-genai, translated to the files that it
//! replaces.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{BundleFiles, extensions};
use crate::{
    arch::{Declaration, find_genai},
    config::{
        Adapters, BundleError, ConfigOrigin, GenerationConfig, ImageProcessorConfig, ModelConfig,
        ProcessorConfig, SoundConfig,
    },
};

const FILE: &str = "genai_config.json";

/// `genai_config.json` (0.18).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GenaiConfig {
    model: Map<String, Value>,
    /// The keys of `generation_config.json`.
    #[serde(default)]
    pub(super) search: GenerationConfig,
}

/// The vocabulary size of the English-only Whisper models, whose tokenizer still has language
/// tokens (`is_multilingual` of `whisper/model.py`, OpenAI).
const ENGLISH_VOCABULARY: i64 = 51_864;

/// The latest first timestamp in steps of 20 ms: one second (`max_initial_timestamp` of
/// `whisper/decoding.py`, OpenAI; all published generation configs have the same value).
const MAX_INITIAL_TIMESTAMP: i64 = 50;

impl GenaiConfig {
    /// Reads the file if it replaces `config.json`, or if it describes the graphs of a multimodal
    /// model.
    pub(super) fn read(files: &BundleFiles) -> Result<Option<Self>, BundleError> {
        let Some(config) = files.json_if_there::<Value>(FILE)? else { return Ok(None) };
        if files.has("config.json")? {
            // Both layouts may coexist. The layout whose graphs exist is used.
            let model = &config["model"];
            let decoder = model["decoder"]["filename"].as_str();
            let decoder = decoder.filter(|_| model["embedding"].is_object());
            if decoder.map(|file| files.has(file)).transpose()? != Some(true) {
                return Ok(None);
            }
        }
        serde_json::from_value(config).map(Some).map_err(|error| invalid(FILE, error))
    }

    /// Returns whether a separate graph merges media features into the embeddings.
    fn is_multimodal(&self) -> bool {
        self.model.get("embedding").is_some_and(Value::is_object)
    }

    /// Returns a key of a section of `model`.
    fn part(&self, part: &str, key: &str) -> Option<&Value> {
        self.model.get(part).and_then(|part| part.get(key))
    }

    fn model_type(&self) -> &str {
        self.model.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the equivalent declaration of `config.json`.
    pub(super) fn declaration(&self) -> Declaration {
        let model_type = self.model_type();
        let is_multimodal = self.is_multimodal();
        match find_genai(model_type, is_multimodal) {
            Some((architecture, model)) => {
                Declaration::new(model.name.to_owned(), architecture.seq2seq().is_some())
            }
            None if is_multimodal => Declaration::new(model_type.to_owned(), false),
            None => Declaration::new(format!("{model_type}ForCausalLM"), false),
        }
    }

    /// Sets the graph file names in `files`: older builders name graphs after the model.
    pub(super) fn name_graphs(&self, files: &mut BundleFiles) -> Result<(), BundleError> {
        let graphs: &[(&str, &'static str)] = match self.declaration().is_encoder_decoder {
            true => &[("encoder", "encoder"), ("decoder", "decoder")],
            false if self.is_multimodal() => &[
                ("decoder", "decoder_model_merged"),
                ("embedding", "embed_tokens"),
                ("vision", "vision_encoder"),
                ("speech", "audio_encoder"),
            ],
            false => &[("decoder", "model")],
        };
        for (part, graph) in graphs {
            let stages = self.part(part, "pipeline").and_then(Value::as_array);
            if let Some(stages) = stages.filter(|stages| !stages.is_empty()) {
                return Err(BundleError::UnsupportedOption {
                    file: FILE,
                    key: format!("model.{part}.pipeline"),
                    value: format!("{} stages", stages.len()),
                    supported: "one graph, as `filename`".to_owned(),
                });
            }
            let file = self.part(part, "filename").and_then(Value::as_str);
            file.map_or(Ok(()), |file| files.name_graph(graph, file))?;
        }
        Ok(())
    }

    /// Returns the decoder's adapter files for prompts with images, and for prompts with audio.
    fn adapters(&self) -> Adapters {
        let file = |part| self.part(part, "adapter_filename").and_then(Value::as_str);
        Adapters {
            image: file("vision").map(str::to_owned),
            audio: file("speech").map(str::to_owned),
        }
    }

    /// Returns the equivalent decoder config of `config.json`.
    pub(super) fn decoder_config(&self, files: &BundleFiles) -> Result<ModelConfig, BundleError> {
        let mut model = self.model.clone();
        if let Some(Value::Object(vision)) = model.remove("vision") {
            model.insert("vision_config".to_owned(), Value::Object(vision));
        }
        // The placeholder tokens default to those hard-coded in onnxruntime-genai, found by name.
        let known = find_genai(self.model_type(), self.is_multimodal());
        let marks = known.map_or(&[][..], |(_, model)| model.tokens);
        if !marks.is_empty() {
            let tokens = Tokens::read(files)?;
            for (key, token) in marks {
                if let Some(id) = tokens.id(token) {
                    model.entry(*key).or_insert_with(|| id.into());
                }
            }
        }
        // The decoder's keys are in `decoder`, those of vocabulary and context one level above.
        if let Some(Value::Object(mut decoder)) = model.remove("decoder") {
            for key in ["vocab_size", "context_length"] {
                decoder.extend(model.get(key).map(|value| (key.to_owned(), value.clone())));
            }
            model.insert("text_config".to_owned(), Value::Object(decoder));
        }
        let config: ModelConfig =
            serde_json::from_value(Value::Object(model)).map_err(|error| invalid(FILE, error))?;
        Ok(ModelConfig { adapters: self.adapters(), ..config })
    }

    /// Returns the placeholder tokens, which the model must not generate: the embedding graph would
    /// look for their features.
    pub(super) fn marks(&self, config: &ModelConfig) -> impl Iterator<Item = i64> {
        let marks = [config.image_token_id, config.audio_token_id];
        marks.into_iter().flatten().filter(|_| self.is_multimodal())
    }

    /// Returns the equivalent processor config, from the lists of operations that replace it.
    pub(super) fn processor_config(
        &self,
        files: &BundleFiles,
    ) -> Result<ProcessorConfig, BundleError> {
        let file = |part: &str, default: &'static str| -> Option<String> {
            let part = self.model.get(part).filter(|part| part.is_object())?;
            Some(part["config_filename"].as_str().unwrap_or(default).to_owned())
        };
        let origin = |file: &str| ConfigOrigin::file(extensions::known(file));
        let mut config = ProcessorConfig::default();
        if let Some(file) = file("vision", "processor_config.json") {
            let read: ImageProcessorConfig =
                serde_json::from_value(extensions::image_processor(files, &file)?)
                    .map_err(|error| invalid(&file, error))?;
            config.image_processor = Some(read.with_origin(origin(&file)));
        }
        if let Some(file) = file("speech", extensions::AUDIO_FILE) {
            let read: SoundConfig =
                serde_json::from_value(extensions::stacked_frames_extractor(files, &file)?)
                    .map_err(|error| invalid(&file, error))?;
            config.feature_extractor = Some(read.with_origin(origin(&file)));
        }
        Ok(config)
    }

    /// Returns the equivalent Whisper `config.json`: sizes and special tokens. The roles of the
    /// tokens follow from their names in `tokenizer.json`, as no other file states them.
    pub(super) fn speech_config(&self, files: &BundleFiles) -> Result<Value, BundleError> {
        let model = |key: &str| self.model.get(key).cloned().unwrap_or_default();
        let (decoder, encoder) = (model("decoder"), model("encoder"));
        let extractor = extensions::log_mel_extractor(files)?;
        let frames = extractor["n_samples"].as_u64().zip(extractor["hop_length"].as_u64());
        let mut config = json!({
            "decoder_layers": decoder["num_hidden_layers"],
            "decoder_attention_heads": decoder["num_attention_heads"],
            "decoder_num_key_value_heads": decoder["num_key_value_heads"],
            "head_dim": decoder["head_size"],
            "d_model": decoder["hidden_size"],
            "vocab_size": model("vocab_size"),
            "max_target_positions": model("context_length"),
            // The encoder outputs one position per two frames.
            "max_source_positions": frames.map(|(samples, hop)| samples / hop.max(1) / 2),
            "encoder": { "hidden_size": encoder["hidden_size"] },
            "eos_token_id": model("eos_token_id"),
            "bos_token_id": model("bos_token_id"),
            "pad_token_id": model("pad_token_id"),
            "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
        });
        let tokens = Tokens::read(files)?;
        let start =
            tokens.id("<|startoftranscript|>").ok_or_else(|| BundleError::Inconsistent {
                file: "tokenizer.json",
                problem: "missing token `<|startoftranscript|>`, which starts an answer".to_owned(),
            })?;
        config["decoder_start_token_id"] = start.into();
        config["no_timestamps_token_id"] = tokens.id("<|notimestamps|>").into();
        config["prev_sot_token_id"] = tokens.id("<|startofprev|>").into();
        let is_multilingual = model("vocab_size") != ENGLISH_VOCABULARY;
        config["is_multilingual"] = is_multilingual.into();
        if let Some(translate) = tokens.id("<|translate|>").filter(|_| is_multilingual) {
            config["task_to_id"] =
                json!({ "translate": translate, "transcribe": tokens.id("<|transcribe|>") });
            // The language tokens are between the start token and the task tokens.
            let languages = tokens.0.iter().filter(|token| {
                (start + 1..translate).contains(&token.id) && token.content != "<|transcribe|>"
            });
            let languages = languages.map(|token| (token.content.clone(), token.id.into()));
            config["lang_to_id"] = Value::Object(languages.collect());
        }
        Ok(config)
    }
}

fn invalid(file: &str, error: serde_json::Error) -> BundleError {
    BundleError::InvalidJson { file: file.to_owned(), source: error.into() }
}

/// The added tokens of `tokenizer.json`.
struct Tokens(Vec<Token>);

#[derive(Deserialize)]
struct Token {
    id: i64,
    content: String,
}

impl Tokens {
    fn read(files: &BundleFiles) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Tokenizer {
            #[serde(default)]
            added_tokens: Vec<Token>,
        }
        files.json::<Tokenizer>("tokenizer.json").map(|tokenizer| Self(tokenizer.added_tokens))
    }

    fn id(&self, content: &str) -> Option<i64> {
        self.0.iter().find(|token| token.content == content).map(|token| token.id)
    }
}

#[cfg(test)]
mod tests {
    use legenda_schemas::precision::PrecisionChoice;

    use super::*;

    const GENAI: &str = r#"{"model": {"type": "whisper", "vocab_size": VOCABULARY,
        "context_length": 448, "eos_token_id": 0, "decoder": {"num_hidden_layers": 2,
        "num_attention_heads": 4, "head_size": 8, "hidden_size": 32}}}"#;
    const PROCESSOR: &str = r#"{"feature_extraction": {"sequence": [
        {"operation": {"type": "AudioDecoder"}},
        {"operation": {"type": "LogMelSpectrum", "attrs": {"chunk_size": 30, "hop_length": 160,
            "n_fft": 400, "n_mel": 128}}}]}}"#;
    const TOKENIZER: &str = r#"{"added_tokens": [{"id": 0, "content": "<|endoftext|>"},
        {"id": 1, "content": "<|startoftranscript|>"}, {"id": 2, "content": "<|en|>"},
        {"id": 3, "content": "<|yue|>"}, {"id": 4, "content": "<|translate|>"},
        {"id": 5, "content": "<|transcribe|>"}, {"id": 6, "content": "<|startofprev|>"},
        {"id": 7, "content": "<|notimestamps|>"}]}"#;

    fn config(vocabulary: &str, tokenizer: &'static str) -> Result<Value, BundleError> {
        let file = |name: &'static str, text: &'static str| (name.into(), text.as_bytes().into());
        let files =
            vec![file(extensions::AUDIO_FILE, PROCESSOR), file("tokenizer.json", tokenizer)];
        let files = BundleFiles::memory(files, PrecisionChoice::default());
        let genai: GenaiConfig =
            serde_json::from_str(&GENAI.replace("VOCABULARY", vocabulary)).unwrap();
        genai.speech_config(&files)
    }

    #[test]
    fn whisper_tokens_are_identified_by_name() {
        let config = config("51866", TOKENIZER).unwrap();
        assert_eq!(config["decoder_start_token_id"], 1);
        assert_eq!(config["lang_to_id"], json!({ "<|en|>": 2, "<|yue|>": 3 }));
        assert_eq!(config["task_to_id"], json!({ "translate": 4, "transcribe": 5 }));
        assert_eq!(config["prev_sot_token_id"], 6);
        assert_eq!(config["no_timestamps_token_id"], 7);
        assert_eq!(config["max_source_positions"], 1500);
    }

    #[test]
    fn an_english_only_model_is_identified_by_its_vocabulary() {
        let config = config("51864", TOKENIZER).unwrap();
        assert_eq!(config["is_multilingual"], false);
        assert_eq!(config["lang_to_id"], Value::Null);
    }

    #[test]
    fn a_tokenizer_without_a_start_is_an_error() {
        let error = config("51866", r#"{"added_tokens": []}"#).unwrap_err().to_string();
        assert!(error.contains("`<|startoftranscript|>`"), "{error}");
    }

    #[test]
    fn a_section_with_several_stages_is_an_error() {
        let genai = r#"{"model": {"type": "qwen2_5_vl", "embedding": {}, "vision": {
            "pipeline": [{"patch_embed": {}}, {"vision_attn": {}}]}}}"#;
        let genai: GenaiConfig = serde_json::from_str(genai).unwrap();
        let mut files = BundleFiles::memory(Vec::new(), PrecisionChoice::default());
        let error = genai.name_graphs(&mut files).unwrap_err().to_string();
        assert!(error.contains("`model.vision.pipeline`"), "{error}");
    }

    #[test]
    fn the_layout_whose_graphs_exist_is_used() {
        let read = |genai: &'static str, graph: &'static str| {
            let texts = [("config.json", "{}"), ("genai_config.json", genai), (graph, "")];
            let file =
                |(name, text): (&'static str, &'static str)| (name.into(), text.as_bytes().into());
            let files = texts.into_iter().map(file).collect();
            GenaiConfig::read(&BundleFiles::memory(files, PrecisionChoice::default()))
        };
        let genai = r#"{"model": {"embedding": {}, "decoder": {"filename": "text.onnx"}}}"#;
        assert!(read(genai, "text.onnx").unwrap().is_some());
        assert!(read(genai, "onnx/model.onnx").unwrap().is_none());
        assert!(read(r#"{"model": 1, "search": 2}"#, "onnx/model.onnx").unwrap().is_none());
    }
}
