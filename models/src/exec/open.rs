//! The wiring of a bundle's graphs: encoders turn samples into prompts, decoders provide slots.

use std::sync::{Arc, Mutex};

use legenda_schemas::job::GraphForm;

use super::{
    Encoder, ModelError, TokenEmbedding,
    causal::TextEncoder,
    decoder::{OpenedDecoder, Slots, open_decoder},
    encoder_decoder::Seq2SeqEncoder,
    image_text::ImageTextEncoder,
    multimodal::MultimodalEncoder,
    tokens::TokenInput,
};
use crate::{
    arch::{EncoderInput, Wiring},
    bundle::{Bundle, DecoderStart},
    engine::Decoder,
    runtime::{DeviceKind, Runtime},
};

/// Where and in which form graphs run.
#[derive(Clone, Copy)]
pub(crate) struct GraphSetup<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) device: DeviceKind,
    pub(crate) graphs: GraphForm,
}

/// The opened graphs of a bundle.
pub(crate) struct Graphs {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) decoder: Box<dyn Decoder>,
    /// The rewritings of the graphs.
    pub(crate) rewritings: Vec<&'static str>,
}

/// Opens the graphs of a bundle: the encoder and the decoder with its slots.
pub(crate) fn open(
    setup: GraphSetup<'_>,
    bundle: &Bundle,
    slots: Slots,
    start: DecoderStart,
) -> Result<Graphs, ModelError> {
    let GraphSetup { runtime, device, .. } = setup;
    let context_tokens = slots.context_tokens;
    match bundle.arch.wiring {
        Wiring::EncoderDecoder(spec) if spec.input == EncoderInput::ImageText => {
            let embedding = Arc::new(Mutex::new(TokenEmbedding::open(runtime, bundle, device)?));
            let shared = Arc::clone(&embedding);
            let encoder =
                ImageTextEncoder::open(runtime, bundle, device, shared, start, context_tokens)?;
            let tokens = TokenInput::Embeds(embedding);
            let OpenedDecoder { decoder, rewritings } = open_decoder(setup, bundle, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(encoder), decoder, rewritings })
        }
        Wiring::EncoderDecoder(spec) => {
            let encoder = Seq2SeqEncoder::open(setup, bundle, spec.input, start, context_tokens)?;
            let tokens = TokenInput::Ids;
            let OpenedDecoder { decoder, rewritings: of_decoder } =
                open_decoder(setup, bundle, tokens, slots)?;
            let rewritings = [encoder.rewritings.clone(), of_decoder].concat();
            Ok(Graphs { encoder: Box::new(encoder), decoder, rewritings })
        }
        Wiring::Multimodal => {
            let embedding = Arc::new(Mutex::new(TokenEmbedding::open(runtime, bundle, device)?));
            let encoder = MultimodalEncoder::open(runtime, bundle, device, Arc::clone(&embedding))?;
            let tokens = TokenInput::Embeds(embedding);
            let OpenedDecoder { decoder, rewritings } = open_decoder(setup, bundle, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(encoder), decoder, rewritings })
        }
        Wiring::Causal => {
            let tokens = TokenInput::Ids;
            let OpenedDecoder { decoder, rewritings } = open_decoder(setup, bundle, tokens, slots)?;
            Ok(Graphs { encoder: Box::new(TextEncoder), decoder, rewritings })
        }
        Wiring::Embedding(_) => Err(bundle.no_generation("generate").into()),
    }
}
