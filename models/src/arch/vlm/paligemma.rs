//! PaliGemma: the images, then the prompt. It has no chat template, and the prompt has full
//! attention.

use crate::{
    arch::{
        Architecture, EncoderInputs, Expansion, ImageSpec, Names, PositionScheme, PromptAttention,
        PromptSpec, Wiring, prompt_layout::at_least_one,
    },
    config::ImageLayoutKind,
};

/// As in `build_string_from_input` of the processor.
const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.role == 'system' %}\
    {{ raise_exception('this model does not support a system message') }}{% endif %}\
    {% set images = message.content | selectattr('type', 'equalto', 'image') | list %}\
    {% if not images %}{{ raise_exception('this model requires an image in each row') }}{% endif %}\
    {% for image in images %}{{ image_token }}{% endfor %}{{ bos_token }}\
    {% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}\
    {% endfor %}{{ '\n' }}{% endfor %}";

pub(in crate::arch) static PALIGEMMA: Architecture = Architecture {
    models: "PaliGemma",
    names: Names::exact(&["PaliGemmaForConditionalGeneration", "paligemma"]),
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Whole,
        expansion: |configs| {
            // The processor takes the number from the image processor.
            let own = configs.of_image_processor("image_seq_length");
            let own = own.and_then(|n| usize::try_from(n).ok());
            let n_tokens = own.or(configs.processor.image_seq_length);
            Ok(Expansion::Repeated(at_least_one("image", n_tokens)?).into())
        },
        inputs: EncoderInputs::IMAGES,
    }),
    prompt: PromptSpec {
        template: Some(TEMPLATE),
        attention: PromptAttention::Prefix,
        ..PromptSpec::CHAT
    },
    positions: PositionScheme::Sequential { first: 1 },
    ..Architecture::BASE
};
