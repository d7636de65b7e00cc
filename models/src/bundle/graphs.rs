//! What a bundle is made of: the graphs of its wiring, and the files that come with them. The one
//! place that lists them; what fetches, shows or checks a bundle asks here.

use legenda_schemas::precision::Precision;

use super::{Bundle, BundleFiles, EmbeddingKind};
use crate::{
    arch::{EncoderInput, Wiring},
    config::BundleError,
    graph::{Dialect, dialect_in},
};

/// The files beside the graphs that are read where they are there.
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
    // Its head names the licence.
    MODEL_CARD,
];

const MODEL_CARD: &str = "README.md";

/// What files of adapters end with (onnxruntime-genai).
pub(super) const ADAPTER: &str = ".onnx_adapter";

/// Returns whether a file of a repository is read beside the graphs.
pub(crate) fn is_config(file: &str) -> bool {
    match file.split_once('/') {
        None => {
            // `sentence_bert_config.json`, and the same of other base models.
            let is_limit = file.starts_with("sentence_") && file.ends_with("_config.json");
            is_limit || CONFIG_FILES.contains(&file)
        }
        Some((folder, file)) => {
            is_module_folder(folder) && ["config.json", "model.safetensors"].contains(&file)
        }
    }
}

/// Returns whether a folder is that of a module of sentence-transformers, such as `1_Pooling`.
pub(super) fn is_module_folder(name: &str) -> bool {
    let number = name.split_once('_').map_or("", |(number, _)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names a decoder's graph goes by, in the order they are looked for: transformers.js and
/// optimum, then transformers' own exporter.
const DECODER_GRAPHS: [&str; 3] = ["decoder_model_merged", "model", "decode"];

/// The same for encoder-decoders; the second comes with [`FIRST_RUN_GRAPH`], and the last, which is
/// onnxruntime-genai's, with an encoder that is called as simply.
const COHORT_GRAPHS: [&str; 3] = ["decoder_model_merged", "decoder_with_past_model", "decoder"];

/// The graph of the first run of a decoder whose graph for further ones stands by itself.
const FIRST_RUN_GRAPH: &str = "decoder_model";

/// Returns the name of the graph that a bundle of this wiring decodes with.
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

/// A graph of a bundle, in the precision that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphFile {
    /// Its base name, such as `decoder_model_merged`.
    pub name: &'static str,
    /// How its weights are stored.
    pub precision: Precision,
    /// Its file, relative to the bundle.
    pub file: String,
}

impl Bundle {
    /// Returns the base names of the graphs that are run.
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

    /// Returns the graph of a sentence encoder, or those of a dual encoder: a tower for each of its
    /// inputs, or the whole.
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

    /// Returns the graph that runs a tower of a dual encoder: its own if there is one. Else, and of a
    /// sentence encoder, it is the whole.
    pub(crate) fn tower_graph(&self, tower: &'static str) -> &'static str {
        let kind = self.embedding.as_ref().map(|embedding| &embedding.kind);
        let is_dual = matches!(kind, Some(EmbeddingKind::Dual { .. }));
        let has_tower = self.files.precisions(tower).is_ok_and(|there| !there.is_empty());
        if is_dual && has_tower { tower } else { "model" }
    }

    /// Returns the base name of the graph that encodes for the decoder of an encoder-decoder.
    pub(crate) fn encoder_graph(&self) -> &'static str {
        if self.decoder_graph == COHORT_GRAPHS[2] { "encoder" } else { "encoder_model" }
    }

    /// Returns the base name of the graph that makes the first run of the decoder, if that is not
    /// the decoder's own.
    pub(crate) fn first_run_graph(&self) -> Option<&'static str> {
        (self.decoder_graph == COHORT_GRAPHS[1]).then_some(FIRST_RUN_GRAPH)
    }

    /// Returns the graphs that are run, each in the precision that is wanted.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if one is missing, or is not there in that precision.
    pub fn graphs(&self) -> Result<Vec<GraphFile>, BundleError> {
        let file = |name| {
            let (precision, file) = self.files.graph_file(name)?;
            Ok(GraphFile { name, precision, file })
        };
        self.graph_names().into_iter().map(file).collect()
    }

    /// Checks that all graphs are there, and that `model.precision` names no others.
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

    /// Returns the files of the adapters (LoRA) that the decoder has.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.config.adapters.iter().flatten().map(String::as_str)
    }

    /// Returns the precisions in which a graph is there, with the file of each.
    ///
    /// # Errors
    ///
    /// [`BundleError::Read`] if the directory cannot be looked into.
    pub fn precisions(&self, graph: &str) -> Result<Vec<(Precision, String)>, BundleError> {
        self.files.precisions(graph)
    }

    /// Returns the files in which a graph's file keeps weights, relative to the bundle.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the file is missing or no graph, or names a file outside the bundle.
    pub fn external_data(&self, file: &str) -> Result<Vec<String>, BundleError> {
        self.files.external_data(file)
    }

    /// Checks that all graphs can be opened, with what they keep outside, and adapters read.
    pub(crate) fn is_whole(&self) -> Result<(), BundleError> {
        self.adapters().try_for_each(|file| self.files.expect(file))?;
        self.graph_names().into_iter().try_for_each(|name| self.files.graph(name).map(drop))
    }

    /// Returns the bytes of a file, if that is known.
    #[must_use]
    pub fn file_size(&self, file: &str) -> Option<u64> {
        self.files.size(file)
    }

    /// Returns the bytes of a graph's file and of what it keeps outside. Of a file that is not
    /// fetched yet, the files that are named after it count as outside.
    #[must_use]
    pub fn graph_size(&self, file: &str) -> Option<u64> {
        let outside = self.external_data(file).unwrap_or_else(|_| {
            let after = [format!("{file}_data"), format!("{file}.data")];
            self.files.listed_with(|name| after.iter().any(|start| name.starts_with(start)))
        });
        let outside = outside.iter().map(|file| self.file_size(file)).sum::<Option<u64>>();
        Some(self.file_size(file)? + outside?)
    }

    /// Returns in a word what the decoder's rows may do together (`ARCHITECTURE.md`, "Dialects");
    /// `None` where its graph is not on this machine.
    #[must_use]
    pub fn dialect(&self) -> Option<&'static str> {
        let source = self.files.graph(self.decoder_graph).ok()?;
        dialect_in(&source).ok().map(Dialect::as_str)
    }

    /// Returns the precisions that the publisher sets for transformers.js, as it is written.
    #[must_use]
    pub fn published_dtype(&self) -> Option<String> {
        let config: serde_json::Value = self.files.json_if_there("config.json").ok()??;
        let dtype = config.get("transformers.js_config")?.get("dtype")?;
        Some(dtype.as_str().map_or_else(|| dtype.to_string(), str::to_owned))
    }

    /// Returns the precisions of the graphs in words: one, or one for each graph where they differ.
    ///
    /// # Errors
    ///
    /// Those of [`graphs`](Self::graphs).
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

    /// Returns what the model card's metadata says of the licence.
    #[must_use]
    pub fn license(&self) -> Option<String> {
        let card = self.files.text_if_there(MODEL_CARD).ok()??;
        // The head of a card is YAML between two lines of dashes.
        let head = card.strip_prefix("---")?.split("\n---").next()?;
        let value = head.lines().find_map(|line| line.strip_prefix("license:"))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    }
}
