//! Text decoders: the prompt consists of tokens only.

use super::{EncodeError, Encoder};
use crate::{engine::Prompt, preprocess::Sample};

/// Turns text-only samples into prompts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextEncoder;

impl Encoder for TextEncoder {
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>> {
        let encode = |sample: Sample| {
            let media = [("image", &sample.pixel_values), ("audio", &sample.input_features)];
            match media.into_iter().find(|(_, tensor)| tensor.is_some()) {
                Some((modality, _)) => Err(EncodeError::NoEncoder { modality }),
                None => Ok(Prompt::of_tokens(sample.token_ids)),
            }
        };
        samples.into_iter().map(encode).collect()
    }
}
