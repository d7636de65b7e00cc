//! Donut: the text of a row is the task, in tokens that the answer begins with, and the answer has the
//! fields of a document.

use super::image_captioner::VISION_ENCODER;
use crate::arch::{AnswerFormat, Architecture, Names, PromptSpec, PromptText, Wiring};

/// The text, in which tokens of tasks count.
const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.role == 'system' %}\
    {{ raise_exception('this model has no place for a system text') }}{% endif %}\
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
