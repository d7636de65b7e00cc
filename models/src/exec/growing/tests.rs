//! Prefill in chunks, and prompts that cannot be split.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    arch::PromptAttention,
    bundle::Bundle,
    engine::Prompt,
    exec::TokenEmbedding,
    load::BundleSource,
    runtime::{DecoderDims, DecoderPorts, DeviceKind, GraphSession, Runtime, RuntimeOptions},
};

/// Opens the decoder of a tiny bundle. One prefill returns at most `bytes_max` bytes of logits.
fn decoder(name: &str, bytes_max: usize) -> GrowingDecoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/references/bundles").join(name);
    let bundle = Bundle::open(&BundleSource::Directory(path)).unwrap();
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
    let device = DeviceKind::Cpu;
    let source = bundle.files.graph(bundle.decoder_graph).unwrap();
    let graph = GraphSession::open(&runtime, bundle.decoder_graph, &source, device).unwrap();
    let ports = DecoderPorts::read(&graph, &source).unwrap();
    let text = &bundle.config.text;
    let dims = DecoderDims::new(text);
    let graph = GrowingGraph::new(graph, ports, dims).unwrap();
    let embedding = TokenEmbedding::open(&runtime, &bundle, device).unwrap();
    let tokens = TokenInput::Embeds(Arc::new(Mutex::new(embedding)));
    let rules = RowRules {
        merges: true,
        whole_prompts: bundle.arch.prompt.attention == PromptAttention::Prefix,
    };
    let slots = DecoderSlots { slots: 8, context_tokens: 512, vocab_size: text.vocab_size };
    let mut decoder = GrowingDecoder::new(graph, tokens, slots, None, rules);
    decoder.prefill_bytes_max = bytes_max;
    decoder
}

/// Returns the logits of two prompts of different lengths, prefilled together.
fn scores(mut decoder: GrowingDecoder) -> Vec<f32> {
    let prompt = |n_tokens: usize| {
        let value = |i: usize| ((i * 7 + n_tokens) % 23) as f32 / 11.0 - 1.0;
        let embeds = Tensor::new([n_tokens, 32], (0..n_tokens * 32).map(value).collect()).unwrap();
        Prompt::new(vec![9; n_tokens], embeds)
    };
    let prompts = [prompt(70), prompt(41)];
    let joins: Vec<Join<'_>> =
        prompts.iter().enumerate().map(|(slot, prompt)| Join { slot, prompt }).collect();
    let mut logits = Logits::default();
    decoder.prefill(&joins, &mut logits).unwrap();
    [logits.row(0), logits.row(1)].concat()
}

#[test]
fn chunked_prefill_returns_the_same_logits() {
    for name in ["llava", "paligemma"] {
        // The smallest chunks have 16 columns.
        let (pieces, whole) = (scores(decoder(name, 1)), scores(decoder(name, usize::MAX)));
        let differences = pieces.iter().zip(&whole).map(|(a, b)| (a - b).abs());
        assert!(differences.fold(0.0, f32::max) < 1e-3, "{name}");
    }
}

#[test]
fn prompts_that_cannot_be_split_get_fewer_rows() {
    assert_eq!(decoder("paligemma", 1).prefill_rows_max(), 1);
    assert_eq!(decoder("paligemma", 64 << 20).prefill_rows_max(), PREFILL_ROWS_MAX);
    assert_eq!(decoder("llava", 1).prefill_rows_max(), PREFILL_ROWS_MAX);
}
