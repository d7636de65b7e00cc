//! The graphs and files of a bundle. This is the only list of them: fetching, listing and verifying
//! a bundle all use it.

use legenda_schemas::precision::Precision;

use super::{Bundle, BundleFiles, EmbeddingKind};
use crate::{
    arch::{EncoderInput, Wiring},
    config::BundleError,
    graph::{Dialect, dialect_in},
};

/// The optional files that are read in addition to the graphs.
const CONFIG_FILES: [&str; 19] = [
    "added_tokens.json",
    "audio_processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "export.json",
    "genai_config.json",
    "generation_config.json",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "speech_processor.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vision_processor.json",
    // The header names the licence.
    MODEL_CARD,
];

const MODEL_CARD: &str = "README.md";

/// The extension of adapter files (onnxruntime-genai).
pub(super) const ADAPTER: &str = ".onnx_adapter";

/// Returns whether a repository file is read in addition to the graphs.
pub(crate) fn is_config(file: &str) -> bool {
    match file.split_once('/') {
        None => {
            // `sentence_bert_config.json`, and its equivalents for other base models.
            let is_limit = file.starts_with("sentence_") && file.ends_with("_config.json");
            is_limit || CONFIG_FILES.contains(&file)
        }
        Some((folder, file)) => {
            is_module_folder(folder) && ["config.json", "model.safetensors"].contains(&file)
        }
    }
}

/// Returns whether a folder belongs to a module of sentence-transformers, such as `1_Pooling`.
pub(super) fn is_module_folder(name: &str) -> bool {
    let number = name.split_once('_').map_or("", |(number, _)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names of decoder graphs, in lookup order: transformers.js and optimum, then transformers'
/// own exporter.
const DECODER_GRAPHS: [&str; 3] = ["decoder_model_merged", "model", "decode"];

/// The names of encoder-decoder graphs. The second comes with [`FIRST_RUN_GRAPH`]; the last is that
/// of onnxruntime-genai, whose encoder graph is named `encoder`.
const COHORT_GRAPHS: [&str; 3] = ["decoder_model_merged", "decoder_with_past_model", "decoder"];

/// The graph of the first run if the decoder has a separate graph for later runs.
const FIRST_RUN_GRAPH: &str = "decoder_model";

/// Returns the name of the decoder graph for a wiring.
pub(super) fn decoder_graph(
    files: &BundleFiles,
    wiring: Wiring,
) -> Result<&'static str, BundleError> {
    let candidates = match wiring {
        Wiring::Multimodal | Wiring::Embedding(_) => &DECODER_GRAPHS[..1],
        Wiring::Causal => &DECODER_GRAPHS[..],
        Wiring::EncoderDecoder(_) => &COHORT_GRAPHS[..],
    };
    for name in candidates {
        if !files.precisions(name)?.is_empty() {
            return Ok(name);
        }
    }
    Err(BundleError::MissingFile { file: format!("onnx/{}.onnx", candidates[0]) })
}

/// A graph of a bundle in the selected precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    /// The base name, such as `decoder_model_merged`.
    pub name: &'static str,
    /// The precision of the weights.
    pub precision: Precision,
    /// The file, relative to the bundle.
    pub file: String,
}

impl Bundle {
    /// Returns the base names of the graphs in use.
    fn graph_names(&self) -> Vec<&'static str> {
        let modalities = self.modalities();
        let needed = |wanted: bool, name| wanted.then_some(name);
        match self.arch.wiring {
            Wiring::Causal => vec![self.decoder_graph],
            Wiring::Embedding(_) => self.embedding_graphs(),
            Wiring::EncoderDecoder(spec) => {
                let is_seen = spec.input == EncoderInput::ImageText;
                let before = [needed(is_seen, "vision_encoder"), needed(is_seen, "embed_tokens")];
                let own =
                    [Some(self.encoder_graph()), self.first_run_graph(), Some(self.decoder_graph)];
                before.into_iter().chain(own).flatten().collect()
            }
            Wiring::Multimodal => [
                needed(modalities.image, "vision_encoder"),
                needed(modalities.audio, "audio_encoder"),
                Some("embed_tokens"),
                Some(self.decoder_graph),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }

    /// Returns the graph of a sentence encoder, or those of a dual encoder: one per encoder, or a
    /// single graph for both.
    fn embedding_graphs(&self) -> Vec<&'static str> {
        let modalities = self.modalities();
        let towers = [
            ("text_model", modalities.text),
            ("vision_model", modalities.image),
            ("audio_model", modalities.audio),
        ];
        let mut names: Vec<&'static str> = towers
            .into_iter()
            .filter(|(_, is_wanted)| *is_wanted)
            .map(|(tower, _)| self.tower_graph(tower))
            .collect();
        names.dedup();
        names
    }

    /// Returns the graph that runs one encoder of a dual encoder: its own graph if it exists.
    /// Otherwise, and for sentence encoders, returns the whole graph.
    pub(crate) fn tower_graph(&self, tower: &'static str) -> &'static str {
        let kind = self.embedding.as_ref().map(|embedding| &embedding.kind);
        let is_dual = matches!(kind, Some(EmbeddingKind::Dual { .. }));
        let has_tower = self.files.precisions(tower).is_ok_and(|there| !there.is_empty());
        if is_dual && has_tower { tower } else { "model" }
    }

    /// Returns the base name of the encoder graph of an encoder-decoder.
    pub(crate) fn encoder_graph(&self) -> &'static str {
        if self.decoder_graph == COHORT_GRAPHS[2] { "encoder" } else { "encoder_model" }
    }

    /// Returns the base name of the graph for the first run of the decoder, if it is separate.
    pub(crate) fn first_run_graph(&self) -> Option<&'static str> {
        (self.decoder_graph == COHORT_GRAPHS[1]).then_some(FIRST_RUN_GRAPH)
    }

    /// Returns the graphs in use, each in the requested precision.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if a graph is missing or not available in that precision.
    pub fn graphs(&self) -> Result<Vec<GraphFile>, BundleError> {
        let file = |name| {
            let (precision, file) = self.files.graph_file(name)?;
            Ok(GraphFile { name, precision, file })
        };
        self.graph_names().into_iter().map(file).collect()
    }

    /// Checks that all graphs exist, and that `model.precision` does not name others.
    pub(super) fn check_graphs(&self) -> Result<(), BundleError> {
        let names = self.graph_names();
        for wanted in self.files.precision().graphs() {
            if !names.contains(&wanted) {
                return Err(BundleError::UnknownGraph {
                    graph: wanted.to_owned(),
                    there: names.join(", "),
                });
            }
        }
        for file in self.adapters() {
            if !self.files.has(file)? {
                return Err(BundleError::MissingFile { file: file.to_owned() });
            }
        }
        self.graphs().map(drop)
    }

    /// Returns the adapter files (LoRA) of the decoder.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.config.adapters.numbered().into_iter().flatten()
    }

    /// Returns the available precisions of a graph with their files.
    ///
    /// # Errors
    ///
    /// [`BundleError::Read`] if the directory cannot be read.
    pub fn precisions(&self, graph: &str) -> Result<Vec<(Precision, String)>, BundleError> {
        self.files.precisions(graph)
    }

    /// Returns the external data files of a graph, relative to the bundle.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the file is missing or not a graph, or names a file outside the bundle.
    pub fn external_data(&self, file: &str) -> Result<Vec<String>, BundleError> {
        self.files.external_data(file)
    }

    /// Checks that all graphs with their external data can be opened, and that adapters can be
    /// read.
    pub(crate) fn is_whole(&self) -> Result<(), BundleError> {
        self.adapters().try_for_each(|file| self.files.expect(file))?;
        self.graph_names().into_iter().try_for_each(|name| self.files.graph(name).map(drop))
    }

    /// Returns the size of a file in bytes, if known.
    #[must_use]
    pub fn file_size(&self, file: &str) -> Option<u64> {
        self.files.size(file)
    }

    /// Returns the size of a graph file and its external data in bytes. If the file is not fetched
    /// yet, files whose names start with its name count as external data.
    #[must_use]
    pub fn graph_size(&self, file: &str) -> Option<u64> {
        let outside = self.external_data(file).unwrap_or_else(|_| {
            let after = [format!("{file}_data"), format!("{file}.data")];
            self.files.listed_with(|name| after.iter().any(|start| name.starts_with(start)))
        });
        let outside = outside.iter().map(|file| self.file_size(file)).sum::<Option<u64>>();
        Some(self.file_size(file)? + outside?)
    }

    /// Returns the name of the decoder's dialect (`ARCHITECTURE.md`, "Dialects"); `None` if the
    /// graph is not available locally.
    #[must_use]
    pub fn dialect(&self) -> Option<&'static str> {
        let source = self.files.graph(self.decoder_graph).ok()?;
        dialect_in(&source).ok().map(Dialect::as_str)
    }

    /// Returns the precisions that the publisher sets for transformers.js, as written in the
    /// config.
    #[must_use]
    pub fn published_dtype(&self) -> Option<String> {
        let config: serde_json::Value = self.files.json_if_there("config.json").ok()??;
        let dtype = config.get("transformers.js_config")?.get("dtype")?;
        Some(dtype.as_str().map_or_else(|| dtype.to_string(), str::to_owned))
    }

    /// Returns a description of the graphs' precisions: one value, or one per graph if they differ.
    ///
    /// # Errors
    ///
    /// The errors of [`graphs`](Self::graphs).
    pub fn precision(&self) -> Result<String, BundleError> {
        let graphs = self.graphs()?;
        let first = graphs.first().map(|graph| graph.precision);
        if let Some(first) = first
            && graphs.iter().all(|graph| graph.precision == first)
        {
            return Ok(first.to_string());
        }
        let each = graphs.iter().map(|graph| format!("{}={}", graph.name, graph.precision));
        Ok(each.collect::<Vec<_>>().join(","))
    }

    /// Returns the licence from the metadata of the model card.
    #[must_use]
    pub fn license(&self) -> Option<String> {
        let card = self.files.text_if_there(MODEL_CARD).ok()??;
        // The metadata is YAML between two `---` lines.
        let head = card.strip_prefix("---")?.split("\n---").next()?;
        let value = head.lines().find_map(|line| line.strip_prefix("license:"))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    }
}
