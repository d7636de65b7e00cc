//! How tokens reach a decoder: as ids, or embedded by a graph of their own.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Bundle, Runtime,
    engine::Join,
    onnx::{DeviceKind, Dtype, Feed, GraphSession, RunError, Tokens},
    tensors::Tensor,
};

/// The graph that turns token ids into input embeddings; prompts and steps share it.
#[derive(Debug)]
pub(crate) struct TokenEmbedding {
    graph: GraphSession,
    hidden_size: usize,
}

impl TokenEmbedding {
    /// Opens `embed_tokens`.
    pub(crate) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        device: DeviceKind,
    ) -> Result<Self, crate::ModelError> {
        let source = bundle.files.graph("embed_tokens")?;
        let graph = GraphSession::open(runtime, "embed_tokens", &source, device)?;
        graph.expect_map("input_ids", Dtype::I64, "inputs_embeds")?;
        Ok(Self { graph, hidden_size: bundle.config.text.hidden_size })
    }

    /// Embeds `token_ids` (`[B, S]`) as `[B, S, C]`.
    pub(crate) fn embed(&mut self, token_ids: &Tensor<i64>) -> Result<Tensor<f32>, RunError> {
        let embeds = self.graph.run("input_ids", Feed::I64(token_ids), "inputs_embeds")?;
        let expected = [token_ids.shape(), &[self.hidden_size]].concat();
        if embeds.shape() == expected {
            Ok(embeds)
        } else {
            Err(RunError {
                graph: self.graph.name().to_owned(),
                message: format!("`inputs_embeds` is {:?}, expected {expected:?}", embeds.shape()),
            })
        }
    }

    /// Returns the size of an embedding.
    pub(crate) fn hidden_size(&self) -> usize {
        self.hidden_size
    }
}

/// What a decoder takes.
#[derive(Clone, Debug)]
pub(super) enum TokenInput {
    /// Token ids.
    Ids,
    /// Embeddings.
    Embeds(Arc<Mutex<TokenEmbedding>>),
}

/// Pads texts on the right to the longest; returns ids and mask, each `[B, S]`.
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

/// On which side short rows are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    Left,
    Right,
}

impl TokenInput {
    /// Makes the input of a step from the tokens chosen last, `[B, 1]`.
    pub(super) fn step(&self, token_ids: Tensor<i64>) -> Result<Tokens, RunError> {
        match self {
            Self::Ids => Ok(Tokens::Ids(token_ids)),
            Self::Embeds(embedding) => {
                let mut embedding = embedding.lock().unwrap_or_else(PoisonError::into_inner);
                embedding.embed(&token_ids).map(Tokens::Embeds)
            }
        }
    }

    /// Makes the input of a prefill: `n_rows` rows (at least one per prompt) of `longest` tokens.
    pub(super) fn prompts(
        &self,
        joins: &[Join<'_>],
        n_rows: usize,
        longest: usize,
        padding: Padding,
    ) -> Tokens {
        let start = |row_idx: usize, n_tokens: usize| match padding {
            Padding::Left => (row_idx + 1) * longest - n_tokens,
            Padding::Right => row_idx * longest,
        };
        match self {
            Self::Ids => {
                let mut ids = Tensor::zeros([n_rows, longest]);
                for (row_idx, join) in joins.iter().enumerate() {
                    let values = join.prompt.token_ids();
                    let at = start(row_idx, values.len());
                    ids.data_mut()[at..at + values.len()].copy_from_slice(values);
                }
                Tokens::Ids(ids)
            }
            Self::Embeds(_) => {
                let embeds = joins.iter().filter_map(|join| join.prompt.embeds());
                let hidden_size = embeds.map(Tensor::row_len).next().unwrap_or(0);
                let mut target = Tensor::zeros([n_rows, longest, hidden_size]);
                for (row_idx, join) in joins.iter().enumerate() {
                    let Some(embeds) = join.prompt.embeds() else { continue };
                    let at = start(row_idx, embeds.rows()) * hidden_size;
                    target.data_mut()[at..at + embeds.data().len()].copy_from_slice(embeds.data());
                }
                Tokens::Embeds(target)
            }
        }
    }
}
