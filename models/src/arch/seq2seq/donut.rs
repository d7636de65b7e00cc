//! Donut: the text of a row is the task, as tokens at the start of the answer. The answer has the
//! fields of a document.

use super::image_captioner::VISION_ENCODER;
use crate::arch::{AnswerFormat, Architecture, Names, PromptSpec, PromptText, Wiring};

/// Renders only the text. Its task tokens are parsed as special tokens.
const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.role == 'system' %}\
    {{ raise_exception('this model does not support a system message') }}{% endif %}\
    {% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}\
    {% endfor %}{% endfor %}";

pub(in crate::arch) static DONUT: Architecture = Architecture {
    models: "Donut",
    names: Names { encoder: Some("donut"), ..Names::exact(&["VisionEncoderDecoderModel"]) },
    wiring: Wiring::EncoderDecoder(&VISION_ENCODER),
    prompt: PromptSpec { template: Some(TEMPLATE), ..PromptSpec::of(PromptText::TaskTokens) },
    answer: AnswerFormat::DocumentFields,
    ..Architecture::BASE
};
