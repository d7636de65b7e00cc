//! A load-time test of whether decoder rows depend on their padding.
//!
//! The padding side is derived from the graph, and the wrong side gives wrong results without an
//! error. For graph types that may pad on either side, a short prompt runs alone and together with
//! a longer one: the logits must be the same.

use std::sync::PoisonError;

use legenda_schemas::cause::Cause;

use super::{to_i64, tokens::TokenInput};
use crate::{
    engine::{DecodeError, Decoder, Join, Logits, Prompt, StepRow},
    runtime::SessionError,
    tensors::Tensor,
};

/// The lengths of the two prompts in tokens.
const SHORT_TOKENS: usize = 3;
const LONG_TOKENS: usize = 11;

/// The token appended in a decode step.
const NEXT_TOKEN: i64 = 4;

/// The maximum logit difference, relative to the logit range: far above rounding errors, even in
/// half precision, and far below the effect of the wrong side. Among the tiny references in `f32`,
/// correctly padded ones are within 0.000001, and wrongly padded ones are at 0.76 (ONNX Runtime
/// 1.31.1, CPU).
pub(super) const TOLERANCE: f32 = 0.03;

/// Checks a decoder whose slots are free. They are free again afterwards.
///
/// # Errors
///
/// [`SessionError::Padding`] if a row depends on its padding, [`SessionError::Open`] if the graph
/// cannot run at all.
pub(super) fn check(
    decoder: &mut dyn Decoder,
    tokens: &TokenInput,
    vocab_size: usize,
    graph: &str,
) -> Result<(), SessionError> {
    // A single row has no padding.
    if decoder.slots() < 2 || decoder.context_tokens() < 2 * LONG_TOKENS {
        return Ok(());
    }
    let difference = difference(decoder, tokens, vocab_size)
        .map_err(|source| SessionError::Open { graph: graph.to_owned(), source })?;
    tracing::debug!(graph, difference, "padding checked");
    if difference <= TOLERANCE {
        Ok(())
    } else {
        Err(SessionError::Padding { graph: graph.to_owned(), difference })
    }
}

/// Returns the difference between the logits of a short prompt alone and together with a longer
/// one.
fn difference(
    decoder: &mut dyn Decoder,
    tokens: &TokenInput,
    vocab_size: usize,
) -> Result<f32, Cause> {
    let short = prompt(tokens, vocab_size, SHORT_TOKENS)?;
    let alone = scores(decoder, std::slice::from_ref(&short))?;
    let together = scores(decoder, &[short, prompt(tokens, vocab_size, LONG_TOKENS)?])?;
    // The prompts of a call share their logits: those of the first come first.
    Ok(distance(&alone, &together[..alone.len()]))
}

/// Creates a prompt of consecutive tokens, at most 100 different ones, from the middle of the
/// vocabulary: special tokens, such as placeholders of images, are at either end.
pub(super) fn prompt(
    tokens: &TokenInput,
    vocab_size: usize,
    n_tokens: usize,
) -> Result<Prompt, Cause> {
    let first_id = vocab_size / 2;
    let ids: Vec<i64> = (0..n_tokens).map(|idx| to_i64(first_id + idx % 100)).collect();
    let TokenInput::Embeds(embedding) = tokens else { return Ok(Prompt::of_tokens(ids)) };
    let row = Tensor::new([1, ids.len()], ids.clone())?;
    let mut embedding = embedding.lock().unwrap_or_else(PoisonError::into_inner);
    let embeds = embedding.embed(&row)?;
    let shape = [ids.len(), embedding.hidden_size()];
    let embeds = Tensor::new(shape, embeds.into_data())?;
    Ok(Prompt::new(ids, embeds))
}

/// Returns the logits of each prompt after its last token and after one more step, prompt by prompt.
/// The slots are free again afterwards.
pub(super) fn scores(
    decoder: &mut dyn Decoder,
    prompts: &[Prompt],
) -> Result<Vec<f32>, DecodeError> {
    let joins = prompts.iter().enumerate().map(|(slot, prompt)| Join { slot, prompt });
    let joins: Vec<Join<'_>> = joins.collect();
    let rows: Vec<StepRow> =
        (0..prompts.len()).map(|slot| StepRow { slot, token_id: NEXT_TOKEN }).collect();
    let (mut first, mut next) = (Logits::default(), Logits::default());
    let done = decoder.prefill(&joins, &mut first).and_then(|()| decoder.step(&rows, &mut next));
    for row in &rows {
        decoder.release(row.slot);
    }
    done?;
    let of_row = |row_idx| [first.row(row_idx), next.row(row_idx)].concat();
    Ok((0..prompts.len()).flat_map(of_row).collect())
}

/// Returns the largest difference between two rows of logits relative to the range of the first.
/// NaN counts as the maximum difference.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f32 {
    let (mut low, mut high, mut apart) = (f32::INFINITY, f32::NEG_INFINITY, 0.0_f32);
    for (a, b) in a.iter().zip(b) {
        // Suppressed tokens may have logits of minus infinity.
        if a.to_bits() == b.to_bits() {
            continue;
        }
        if !a.is_finite() || !b.is_finite() {
            return f32::INFINITY;
        }
        apart = apart.max((a - b).abs());
    }
    for value in a.iter().filter(|value| value.is_finite()) {
        (low, high) = (low.min(*value), high.max(*value));
    }
    if apart == 0.0 { 0.0 } else { apart / (high - low).max(f32::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bundle::Bundle,
        exec::{decoder::DecoderSlots, growing::GrowingDecoder, growing::RowRules},
        graph::Dialect,
        load::BundleSource,
        runtime::{
            DecoderDims, DecoderPorts, DeviceKind, GraphSession, GrowingGraph, Runtime,
            RuntimeOptions,
        },
    };

    /// Less than the vocabularies of the reference models.
    const VOCAB: usize = 250;

    /// Opens the decoder of a reference model as if its rows were left-padded.
    fn left_padded(name: &str, slots: usize) -> GrowingDecoder {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles");
        let source = BundleSource::Directory(std::path::Path::new(path).join(name));
        let bundle = Bundle::open(&source).unwrap();
        let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
        let source = bundle.files.graph("model").unwrap();
        let graph = GraphSession::open(&runtime, "model", &source, DeviceKind::Cpu).unwrap();
        let mut ports = DecoderPorts::read(&graph, &source).unwrap();
        ports.dialect = Dialect::Shifted;
        let text = &bundle.config.text;
        let dims = DecoderDims::new(text);
        let graph = GrowingGraph::new(graph, ports, dims).unwrap();
        let rules = RowRules { merges: false, whole_prompts: false };
        let slots = DecoderSlots { slots, context_tokens: 64, vocab_size: text.vocab_size };
        GrowingDecoder::new(graph, TokenInput::Ids, slots, None, rules)
    }

    #[test]
    fn the_wrong_padding_side_is_refused() {
        // Its lengths are sums of the mask, so it requires right padding.
        for name in ["llama_gqa_hub", "llama_gqa"] {
            let far = difference(&mut left_padded(name, 2), &TokenInput::Ids, VOCAB).unwrap();
            println!("{name} on the wrong side: {far}");
            let error =
                check(&mut left_padded(name, 2), &TokenInput::Ids, VOCAB, "model").unwrap_err();
            assert_eq!(error.code(), "padding_matters", "{name}: {error}");
            // A single row has no padding to depend on.
            assert!(check(&mut left_padded(name, 1), &TokenInput::Ids, VOCAB, "model").is_ok());
        }
    }

    #[test]
    fn the_correct_padding_side_is_accepted_and_the_slots_stay_free() {
        for name in ["llama_bias", "llama", "gemma3_text"] {
            let mut decoder = left_padded(name, 2);
            let near = difference(&mut decoder, &TokenInput::Ids, VOCAB).unwrap();
            println!("{name} on its side: {near}");
            check(&mut decoder, &TokenInput::Ids, VOCAB, "model").unwrap();
            // The slots accept prompts again, with the same result.
            check(&mut decoder, &TokenInput::Ids, VOCAB, "model").unwrap();
        }
    }
}
