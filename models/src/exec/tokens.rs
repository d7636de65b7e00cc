//! The token input of a decoder: token ids, or embeddings from a separate graph.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    bundle::Bundle,
    engine::Join,
    runtime::{
        DecoderPorts, DeviceKind, Dtype, Embeds, Feed, GraphSession, RunError, Runtime,
        SessionError, Tokens,
    },
    tensors::Tensor,
};

/// The graph that embeds token ids, shared by prefill and decode steps.
#[derive(Debug)]
pub(crate) struct TokenEmbedding {
    graph: GraphSession,
    hidden_size: usize,
    /// Whether it also returns per-layer inputs of the decoder.
    is_per_layer: bool,
    /// The feature inputs that the graph merges into the embeddings itself (onnxruntime-genai).
    features: Vec<&'static str>,
}

/// The names of these inputs: image features and audio features.
const FEATURES: [&str; 2] = ["image_features", "audio_features"];

impl TokenEmbedding {
    /// Opens `embed_tokens`.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Self, crate::exec::ModelError> {
        let source = bundle.files.graph("embed_tokens")?;
        let graph = GraphSession::open(runtime, "embed_tokens", &source, device)?;
        graph.expect_map("input_ids", Dtype::I64, "inputs_embeds")?;
        let is_per_layer = graph.has_output(Embeds::PER_LAYER);
        let takes = |name: &&str| graph.input_names().any(|input| input == *name);
        let features: Vec<&str> = FEATURES.into_iter().filter(takes).collect();
        for name in &features {
            graph.expect_float_input(name)?;
            graph.expect_dims(name, &[-1, -1])?;
        }
        graph.expect_no_inputs_but(&[&["input_ids"], &features[..]].concat())?;
        let hidden_size = bundle.config.text.hidden_size;
        Ok(Self { graph, hidden_size, is_per_layer, features })
    }

    /// Returns whether the graph merges image features, and audio features, itself.
    pub(super) fn takes_features(&self) -> [bool; 2] {
        FEATURES.map(|name| self.features.contains(&name))
    }

    /// Checks that it produces all token inputs of a decoder.
    pub(super) fn serve(&self, ports: &DecoderPorts) -> Result<(), SessionError> {
        match ports.per_layer_dtype {
            Some(_) => self.graph.expect_map("input_ids", Dtype::I64, Embeds::PER_LAYER),
            None => Ok(()),
        }
    }

    /// Embeds `token_ids` (`[B, S]`) as `[B, S, C]`.
    pub(crate) fn embed(&mut self, token_ids: &Tensor<i64>) -> Result<Tensor<f32>, RunError> {
        self.embed_with(token_ids, [&[], &[]])
    }

    /// Embeds `token_ids` (`[1, S]`) as `[1, S, C]`, with the image and audio features that the
    /// graph merges itself.
    pub(super) fn embed_with(
        &mut self,
        token_ids: &Tensor<i64>,
        features: [&[f32]; 2],
    ) -> Result<Tensor<f32>, RunError> {
        let mut placed = Vec::with_capacity(self.features.len());
        for (name, values) in FEATURES.into_iter().zip(features) {
            if self.features.contains(&name) {
                let shape = [values.len() / self.hidden_size.max(1), self.hidden_size];
                let rows = Tensor::new(shape, values.to_vec())
                    .map_err(|error| RunError::new(self.graph.name(), error))?;
                placed.push((name, rows));
            }
        }
        let mut feeds = vec![("input_ids", Feed::I64(token_ids))];
        feeds.extend(placed.iter().map(|(name, rows)| (*name, Feed::F32(rows))));
        let embeds = self.graph.run_on(&feeds, "inputs_embeds")?;
        self.expect(&embeds, &[token_ids.shape(), &[self.hidden_size]].concat())?;
        Ok(embeds)
    }

    /// Returns all decoder inputs for `token_ids` (`[B, S]`).
    fn embed_whole(&mut self, token_ids: &Tensor<i64>) -> Result<Embeds, RunError> {
        if !self.is_per_layer {
            return Ok(Embeds { values: self.embed(token_ids)?, per_layer: None });
        }
        let feeds = [("input_ids", Feed::I64(token_ids))];
        let made = self.graph.run_for(&feeds, &["inputs_embeds", Embeds::PER_LAYER])?;
        let [values, per_layer] = <[Tensor<f32>; 2]>::try_from(made).map_err(|made| {
            let problem = format!("{} outputs, expected 2", made.len());
            RunError::new(self.graph.name(), problem)
        })?;
        self.expect(&values, &[token_ids.shape(), &[self.hidden_size]].concat())?;
        let inner = per_layer.shape().get(2..).unwrap_or_default();
        self.expect(&per_layer, &[token_ids.shape(), inner].concat())?;
        Ok(Embeds { values, per_layer: Some(per_layer) })
    }

    /// Returns the per-layer inputs for `token_ids` (`[B, S]`), `[B, S, layers, N]`.
    fn per_layer(&mut self, token_ids: &Tensor<i64>) -> Result<Option<Tensor<f32>>, RunError> {
        if !self.is_per_layer {
            return Ok(None);
        }
        self.embed_whole(token_ids).map(|embeds| embeds.per_layer)
    }

    fn expect(&self, output: &Tensor<f32>, shape: &[usize]) -> Result<(), RunError> {
        if output.shape() == shape {
            return Ok(());
        }
        let actual = output.shape();
        let problem = format!("an output is {actual:?}, expected {shape:?}");
        Err(RunError::new(self.graph.name(), problem))
    }

    /// Returns the hidden size.
    pub(crate) fn hidden_size(&self) -> usize {
        self.hidden_size
    }
}

/// The token input of a decoder.
#[derive(Clone, Debug)]
pub(super) enum TokenInput {
    /// Token ids.
    Ids,
    /// Embeddings.
    Embeds(Arc<Mutex<TokenEmbedding>>),
}

/// Right-pads texts to the longest; returns ids and mask, each `[B, S]`.
pub(super) fn right_padded(texts: &[&[i64]], pad_id: i64) -> (Tensor<i64>, Tensor<i64>) {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    let mut ids = Tensor::filled([texts.len(), longest], pad_id);
    let mut mask = Tensor::zeros([texts.len(), longest]);
    for (row_idx, text) in texts.iter().enumerate() {
        let own = row_idx * longest..row_idx * longest + text.len();
        ids.data_mut()[own.clone()].copy_from_slice(text);
        mask.data_mut()[own].fill(1);
    }
    (ids, mask)
}

/// The padding side of short rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    Left,
    Right,
}

impl TokenInput {
    /// Returns whether rows depend on each other: [`GraphSession::mixes_rows`].
    pub(super) fn mixes_rows(&self) -> bool {
        match self {
            Self::Ids => false,
            Self::Embeds(embedding) => {
                embedding.lock().unwrap_or_else(PoisonError::into_inner).graph.mixes_rows()
            }
        }
    }

    /// Creates the input of a decode step from the last chosen tokens, `[B, 1]`.
    pub(super) fn step(&self, token_ids: Tensor<i64>) -> Result<Tokens, RunError> {
        match self {
            Self::Ids => Ok(Tokens::Ids(token_ids)),
            Self::Embeds(embedding) => {
                let mut embedding = embedding.lock().unwrap_or_else(PoisonError::into_inner);
                embedding.embed_whole(&token_ids).map(Tokens::Embeds)
            }
        }
    }

    /// Creates the input of a prefill: `n_rows` rows (at least one per prompt) of `longest` tokens.
    pub(super) fn prompts(
        &self,
        joins: &[Join<'_>],
        n_rows: usize,
        longest: usize,
        padding: Padding,
    ) -> Result<Tokens, RunError> {
        let start = |row_idx: usize, n_tokens: usize| match padding {
            Padding::Left => (row_idx + 1) * longest - n_tokens,
            Padding::Right => row_idx * longest,
        };
        let ids = || {
            let mut ids = Tensor::zeros([n_rows, longest]);
            for (row_idx, join) in joins.iter().enumerate() {
                let values = join.prompt.token_ids();
                let at = start(row_idx, values.len());
                ids.data_mut()[at..at + values.len()].copy_from_slice(values);
            }
            ids
        };
        match self {
            Self::Ids => Ok(Tokens::Ids(ids())),
            Self::Embeds(embedding) => {
                let embeds = joins.iter().filter_map(|join| join.prompt.embeds());
                let hidden_size = embeds.map(Tensor::row_len).next().unwrap_or(0);
                let mut target = Tensor::zeros([n_rows, longest, hidden_size]);
                for (row_idx, join) in joins.iter().enumerate() {
                    let Some(embeds) = join.prompt.embeds() else { continue };
                    let at = start(row_idx, embeds.rows()) * hidden_size;
                    target.data_mut()[at..at + embeds.data().len()].copy_from_slice(embeds.data());
                }
                // Waiting prompts do not store the per-layer inputs, which are large and follow
                // from the token ids.
                let mut embedding = embedding.lock().unwrap_or_else(PoisonError::into_inner);
                let per_layer = embedding.per_layer(&ids())?;
                Ok(Tokens::Embeds(Embeds { values: target, per_layer }))
            }
        }
    }
}
